"""A file of a newer vmferry is refused by name wherever it lies, and nothing below the state directory is touched."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import consumers.site
import producers.site
from engine import errors, places, quotas, registry
from engine.bus import index, segments
from engine.daemon import wishes
from engine.store import database, stage, undo
from producers import retain
from tests.support import olden
from tests.support.ferry import Ferry
from tests.support.olden import Olden

pytestmark = pytest.mark.timeout(240)
TOPIC = f"log/vmferry.{olden.STREAM}"
SEGMENT = "00000000000000000000.seg"
STREAM = f"streams/{olden.STREAM}"
SOURCE, REPLICA = f"{STREAM}/source", f"{STREAM}/replica-{olden.REPLICA}"
HOLDERS = ("lock", "registry.lock")

_STORE = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(f"PRAGMA user_version = {sys.argv[2]}")
if sys.argv[3] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
db.close()
"""


@pytest.fixture
def tree(tmp_path: Path) -> Olden:
    """The newest golden tree, at rest: both sides have ended in order."""
    laid = olden.lay(olden.archives()[-1], tmp_path)
    Ferry(laid.state).replicate(laid.source, laid.target, "--undo-quota", "64M", "--log-quota", "1G")
    return laid


def seen(root: Path) -> dict[str, str]:
    """Every file and the hash of its bytes.  But not who holds what, and SQLite's index of a WAL, which whoever looks
    makes anew."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and path.name not in HOLDERS
        and not path.name.endswith("-shm")
        and not (path.name.endswith("-wal") and not path.stat().st_size)
    }


# -- how a file becomes a newer one ----------------------------------------------------------------------------------


def of_json(path: Path, version: int) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": version, "more": [1]}))


def of_sqlite(path: Path, version: int) -> None:
    subprocess.run([sys.executable, "-c", _STORE, str(path), str(version), "closed"], check=True)


def of_sqlite_killed(path: Path, version: int) -> None:
    """Its version stands in the WAL, and nowhere else yet."""
    subprocess.run([sys.executable, "-c", _STORE, str(path), str(version), "killed"], check=False)
    assert Path(f"{path}-wal").stat().st_size


def at(position: int, size: int) -> Callable[[Path, int], None]:
    """The number of `size` bytes at `position`."""

    def write(path: Path, version: int) -> None:
        data = path.read_bytes()
        path.write_bytes(data[:position] + version.to_bytes(size, "big") + data[position + size :])

    return write


def of_stage(path: Path, version: int) -> None:
    path.write_bytes(b"stg%d" % version + b"what only a newer one knows")


# -- who opens it ----------------------------------------------------------------------------------------------------

Opens = Callable[[Olden], Awaitable[None]]


async def source(tree: Olden) -> None:
    """As `replicate` and the daemon do."""
    where = places.Places(tree.state)
    (stream,) = registry.Registry(where).streams()
    options = producers.site.Options(log_quota=1 << 30)
    async with producers.site.open_source(where, stream, frozenset(), options) as site:
        retain.Retain(site.directory, 0.0, 0, time.time)
        await site.shipper.start()


async def target(tree: Olden) -> None:
    """As `replicate` and the daemon do."""
    where = places.Places(tree.state)
    known = registry.Registry(where)
    (stream,), (replica,) = known.streams(), known.replicas()
    options = consumers.site.Options(undo_quota=64 << 20)
    async with consumers.site.open_replica(where, stream, replica, options) as site:
        await site.recover()


def command(*words: str) -> Opens:
    """The command in a process of its own; its error is raised here."""

    async def run(tree: Olden) -> None:
        filled = [word.format(source=tree.source, target=tree.target) for word in words]
        ended = await asyncio.to_thread(Ferry(tree.state).run, *filled, "--json")
        assert ended.code == errors.Newer.exit_code, (ended.out, ended.err)
        assert ended.last["error"] == "Newer"
        raise errors.FerryError(ended.last["message"])

    return run


REPLICATE, STATUS = command("replicate", "{source}", "{target}"), command("status")
DRY, RATE = command("replicate", "{source}", "{target}", "--dry-run"), command("rate", "disk", "1M")
LOOKS = (command("verify", "disk"), command("recover", "disk"), command("target", "rewind", "disk", "--to", "1"))


@dataclass(frozen=True)
class File:
    """One file, the version that is known of it, what makes it a newer one, and who opens it."""

    name: str
    known: int
    raised: Callable[[Path, int], None]
    opens: tuple[Opens, ...]


FILES = [
    File(f"{STREAM}/stream.json", registry.VERSION, of_json, (REPLICATE, STATUS, RATE)),
    File(f"{REPLICA}/replica.json", registry.VERSION, of_json, (REPLICATE, STATUS, *LOOKS)),
    File(f"{SOURCE}/{wishes.FILE}", wishes.VERSION, of_json, (source, RATE)),
    File(f"{SOURCE}/{retain.FILE}", retain.VERSION, of_json, (source,)),
    File(f"{SOURCE}/{quotas.LOG}", quotas.VERSION, of_json, (source, STATUS)),
    File(f"{REPLICA}/{quotas.UNDO}", quotas.VERSION, of_json, (target, STATUS)),
    File(f"{STREAM}/{quotas.STATE}", quotas.VERSION, of_json, (STATUS,)),
    File(f"{SOURCE}/state.sqlite", database.VERSION, of_sqlite, (source, DRY)),
    File(f"{SOURCE}/state.sqlite", database.VERSION, of_sqlite_killed, (source, DRY)),
    File(f"{SOURCE}/stage", stage.VERSION, of_stage, (source,)),
    File(f"{REPLICA}/state.sqlite", database.VERSION, of_sqlite, (target, command("epochs", "disk"), *LOOKS)),
    File(f"{REPLICA}/state.sqlite", database.VERSION, of_sqlite_killed, (target, command("epochs", "disk"), *LOOKS)),
    File(f"{REPLICA}/undo", undo.VERSION, at(8, 4), (target, *LOOKS)),
    File(f"{TOPIC}/{SEGMENT}", segments.VERSION, at(8, 4), (source, target)),
    File(f"{TOPIC}/index.sqlite", index.VERSION, of_sqlite, (source, target)),
    File(f"{TOPIC}/index.sqlite", index.VERSION, of_sqlite_killed, (source, target)),
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.name.rpartition('/')[2]}-{file.raised.__name__}")
async def test_a_newer_file_is_refused_and_nothing_is_touched(tree: Olden, file: File) -> None:
    path = tree.state / file.name
    await asyncio.to_thread(file.raised, path, file.known + 1)
    before = await asyncio.to_thread(seen, tree.root)
    for opens in file.opens:
        with pytest.raises(errors.FerryError) as told:
            await opens(tree)
        assert str(told.value) == (
            f"{path} is of version {file.known + 1}, and this vmferry knows {file.known}: upgrade it."
            " Nothing was touched"
        )
        assert await asyncio.to_thread(seen, tree.root) == before


def test_no_file_of_a_tree_is_forgotten_here(tree: Olden) -> None:
    """Those without a version of their own have that of the state.sqlite beside them: maps, digests, claims."""
    versioned = {Path(file.name).name for file in FILES}
    beside = {f"0.{part}" for part in ("digests", "known", "prints", "unsure", "claims")}
    assert {path.name for path in tree.state.rglob("*") if path.is_file()} == versioned | beside | set(HOLDERS)
