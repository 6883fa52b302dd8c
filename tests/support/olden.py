"""A state directory as vmferry leaves it on disk, made by real commands, kept for ever in tests/golden/tree-N.tar.xz.

    python -m tests.support.olden

A source with a map and a rate, a replica with four epochs that it can be rewound to, their embedded log, and a fifth
epoch that is open: its source was killed before the seal, its target while it applied.  From tree 2 on the fourth says
what the machine is, and the open one says that it is another.  A new archive is made when a
version of some file was raised; what is there is never written again.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import producers.site
from engine import places, quotas, registry
from engine.bus import index, segments
from engine.daemon import wishes
from engine.store import database, peek, stage, undo
from producers import post, retain
from producers.passes import Passes
from schemas import events, wire
from tests.support import defining, dying
from tests.support.ferry import ROOT, Ferry, ended, until

GOLDEN = ROOT / "tests" / "golden"
STREAM, REPLICA = "11111111-2222-4333-8444-555555555555", "00112233445566778899aabbccddeeff"
BLOCK, SIZE = 4096, 1 << 20
OPEN = (10, 20, 30, 40)
"""Blocks of the epoch that stays open, each an event of its own."""
MACHINE, CHANGED = defining.machine(1 << 20, b"NVRAM" * 100), defining.machine(2 << 20)
"""Of the fourth epoch, and of the one that stays open."""
_HERE = b"@HERE@"
_NOT_KEPT = ("lock", "registry.lock")
"""Who holds what, while it runs."""

VERSIONS = {
    "stream.json, replica.json": registry.VERSION, "control.json": wishes.VERSION, "kept.json": retain.VERSION,
    "quotas": quotas.VERSION, "state.sqlite": database.VERSION, "stage": stage.VERSION, "undo": undo.VERSION,
    "segments": segments.VERSION, "index.sqlite": index.VERSION, "records": wire.VERSION,
}  # fmt: skip
"""What today's code writes."""


@dataclass(frozen=True)
class Olden:
    """A golden tree laid out below `root`.  `epochs`: number to SHA-256 of the source at that epoch."""

    root: Path
    versions: dict[str, int]
    epochs: dict[int, str]

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def source(self) -> Path:
        return self.root / "disk.img"

    @property
    def target(self) -> Path:
        return self.root / "replica.img"

    @property
    def topic(self) -> Path:
        """The stream's topic in the embedded log."""
        return self.state / "log" / f"vmferry.{STREAM}"

    @property
    def source_side(self) -> Path:
        return self.state / "streams" / STREAM / "source"

    @property
    def replica_side(self) -> Path:
        return self.state / "streams" / STREAM / f"replica-{REPLICA}"


def archives() -> list[Path]:
    """All golden trees, oldest first."""
    return sorted(GOLDEN.glob("tree-*.tar.xz"), key=lambda path: int(path.name[5:-7]))


def versions(archive: Path) -> dict[str, int]:
    """The versions of the files in it."""
    with tarfile.open(archive) as tar:
        found: dict[str, int] = json.load(_opened(tar, "about.json"))["versions"]
    return found


# -- laying one out --------------------------------------------------------------------------------------------------


def lay(archive: Path, root: Path) -> Olden:
    """The tree below `root`, as it was left, but for the paths and inodes in its records, which are those of `root`."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = root / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_sparse(path, _opened(tar, member.name).read())
        about = json.load(_opened(tar, "about.json"))
    laid = Olden(root, about["versions"], {int(number): digest for number, digest in about["epochs"].items()})
    for record in (laid.state / "streams" / STREAM / "stream.json", laid.replica_side / "replica.json"):
        record.write_text(_at_home(record, root))
    return laid


def _opened(tar: tarfile.TarFile, name: str) -> io.BufferedReader:
    found = tar.extractfile(name)
    assert found is not None, name
    return found  # type: ignore[return-value]


def _write_sparse(path: Path, data: bytes) -> None:
    """With holes where zeros are, as it was."""
    with open(path, "wb") as file:
        file.truncate(len(data))
        for at in range(0, len(data), BLOCK):
            if any(data[at : at + BLOCK]):
                file.seek(at)
                file.write(data[at : at + BLOCK])


def _at_home(record: Path, root: Path) -> str:
    said = json.loads(record.read_text().replace(_HERE.decode(), str(root)))
    for disk in said["disks"]:
        found = Path(disk["path"]).stat()
        disk["device"], disk["inode"] = found.st_dev, found.st_ino
    return json.dumps(said, indent=1) + "\n"


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- making one ------------------------------------------------------------------------------------------------------


def change(disk: Path, epoch: int, blocks: tuple[int, ...]) -> None:
    """What the guest writes in that epoch: text, so that it packs well."""
    with open(disk, "r+b") as file:
        for block in blocks:
            file.seek(block * BLOCK)
            file.write((b"block %d as epoch %d left it\n" % (block, epoch) * BLOCK)[:BLOCK])


def make(root: Path) -> Olden:
    """The whole story in `root`, and what it left."""
    where = places.Places(root / "state")
    made = Olden(root, VERSIONS, {})
    _records(where, made)
    ferry = Ferry(where.root)
    for epoch, blocks in enumerate([(0, 1, 2, 100, 255), (2, 3, 50), (0, 50, 200)], 1):
        change(made.source, epoch, blocks)
        said = ferry.replicate(
            made.source, made.target, "--undo-quota", "64M", "--log-quota", "1G", "--state-quota", "1G"
        )
        made.epochs[said["epoch"]] = digest_of(made.source)
    assert ferry.run("rate", "disk", "5M").code == 0
    target = _begin("tests.support.side", "target", where.root, made.source)
    try:
        change(made.source, 4, (1, 4, 50))
        made.epochs[asyncio.run(_ship(where, MACHINE, retained=True))] = digest_of(made.source)
        change(made.source, 5, OPEN)
        dead = ended(_begin("tests.support.olden", "die", where.root))
        assert dead.code == -signal.SIGKILL, dead
        until(lambda: _block(made.target, OPEN[0]) == _block(made.source, OPEN[0]))
    finally:
        target.kill()
        ended(target)
    state, kept, _ = peek.replica(made.replica_side / "state.sqlite")
    assert [one.position.epoch for one in kept] == list(made.epochs)
    assert peek.definition(made.replica_side / "state.sqlite", state.position.epoch) == MACHINE
    assert (made.replica_side / "undo").stat().st_size > state.undo_end, "no epoch is open at the target"
    assert (made.source_side / "stage").stat().st_size, "no epoch is open at the source"
    return made


def _records(where: places.Places, made: Olden) -> None:
    """A disk of zeros, and the records with fixed identities, as a daemon makes them."""
    with open(made.source, "wb") as file:
        file.truncate(SIZE)
    known = registry.Registry(where)
    disk = registry.Disk("vda", str(made.source), "raw", BLOCK)
    known.save(registry.Stream(STREAM, "disk", where.log, (registry.identified(disk),)))
    known.save(registry.Replica(REPLICA, STREAM, where.log, (registry.Disk("vda", str(made.target), "raw", BLOCK),)))


def _begin(module: str, *words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, words)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _block(path: Path, number: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(number * BLOCK)
        return file.read(BLOCK)


async def _ship(where: places.Places, machine: events.Defined, retained: bool) -> int:
    """One pass of the source, as in a daemon, whose disk is that of `machine`.  Gives its last epoch."""
    # A window of one byte: each event is on the bus, and read, before the next.
    options = producers.site.Options(ship=post.Settings(batch=1, window=1))
    (stream,) = registry.Registry(where).streams()
    async with producers.site.open_source(where, stream, frozenset({bytes.fromhex(REPLICA)}), options) as site:
        site.source.machine = machine
        await site.shipper.start()
        await Passes(site.shipper, bytes.fromhex(REPLICA)).run()
        if retained:
            # An hour is kept; and the clock of its first look is far enough from 0 for it to be written down.
            await retain.Retain(site.directory, 3600.0, 0, time.time).trim(site.shipper, 3600.0)
        return site.shipper.state.epoch


def pack(made: Olden) -> bytes:
    """The archive: names in order, without times and owners, and without a path of this machine."""
    packed = io.BytesIO()
    about: dict[str, Any] = {"versions": made.versions, "epochs": made.epochs}
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as tar:
        _add(tar, "about.json", json.dumps(about, indent=1).encode() + b"\n")
        for path in sorted(made.root.rglob("*")):
            if path.is_file() and path.name not in _NOT_KEPT and not path.name.endswith("-shm"):
                data = path.read_bytes()
                if path.name in ("stream.json", "replica.json"):
                    data = data.replace(str(made.root).encode(), _HERE)
                assert str(made.root).encode() not in data, f"{path} names a place of this machine"
                _add(tar, str(path.relative_to(made.root)), data)
    return packed.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    tar.addfile(member, io.BytesIO(data))


def main() -> None:
    """Make the next archive, unless the newest is of today's versions."""
    there = archives()
    if there and versions(there[-1]) == VERSIONS:
        raise SystemExit(f"{there[-1].relative_to(ROOT)} is of today's versions: what is there is never written again")
    goal = GOLDEN / f"tree-{len(there) + 1}.tar.xz"
    with tempfile.TemporaryDirectory() as root:
        data = pack(make(Path(root)))
    with open(goal, "xb") as file:
        file.write(data)
    print(f"{goal.relative_to(ROOT)}: {len(data):,} bytes")


if __name__ == "__main__":
    if sys.argv[1:2] == ["die"]:
        dying.arm("producers.post", "Post.hand_over", 1)
        asyncio.run(_ship(places.Places(Path(sys.argv[2])), CHANGED, retained=False))
    else:
        main()
