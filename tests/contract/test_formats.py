"""What lies on a disk is written as the newest golden tree has it: another layout is another version, and a new tree.

Old bytes through today's code from end to end: tests/e2e/test_olden.py.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import digest, places, quotas, registry
from engine.bus import segments
from engine.bus.index import Index, Mark, State
from engine.daemon import wishes
from engine.store import database, peek, sqlite, undo
from engine.store.bitmap import Bitmap
from engine.store.file import OsFile
from engine.store.memory import MemoryFile
from engine.store.replicas import Definition, Update
from engine.store.stage import Stage
from engine.store.undo import UndoLog
from producers import anchor, retain
from producers.tap import identity, order, record, watchdog
from tests.support import olden
from tests.support.ferry import ROOT
from tests.support.olden import BLOCK, SIZE, Olden


@pytest.fixture
def tree(tmp_path: Path) -> Olden:
    """The newest one."""
    return olden.lay(olden.archives()[-1], tmp_path / "golden")


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def whole(file: MemoryFile) -> bytes:
    return file.read(0, file.size())


def test_there_is_a_golden_tree_of_todays_versions() -> None:
    newest = olden.archives()[-1]
    assert olden.versions(newest) == olden.VERSIONS, "a version was raised: run python -m tests.support.olden"


def told(section: int) -> list[int]:
    """The versions in the table of a section of the document."""
    text = (ROOT / "docs" / "FORMATS.md").read_text().split("\n## ")[section]
    table = [line.split("|") for line in text.split("\n") if " | " in line]
    return [int(row[-2]) for row in table[2:]]


def test_the_document_tells_the_versions_that_hold() -> None:
    """One row for each, in the order of VERSIONS; maps and their like have that of the store before them."""
    holds = list(olden.VERSIONS.values())
    machines = [anchor.VERSION]
    assert told(0) == [*holds[:3], *machines, *holds[3:5], olden.VERSIONS["state.sqlite"], *holds[5:]]
    assert told(1) == [order.VERSION, identity.VERSION, watchdog.VERSION, record.VERSION]


def new_source(path: Path) -> None:
    sqlite.SqliteSourceStore(path).close()


def new_replica(path: Path) -> None:
    sqlite.SqliteReplicaStore(path).close()


def new_index(path: Path) -> None:
    made = Index(path.parent)
    made.create(State(0, Mark(0, 0, 0)), [])
    made.close()


@pytest.mark.parametrize(
    ("name", "make"),
    [("source/state.sqlite", new_source), ("replica-*/state.sqlite", new_replica), ("index.sqlite", new_index)],
)
def test_the_tables_of_a_store_are_the_golden_ones(
    tree: Olden, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    fresh = tmp_path / "index.sqlite"
    make(fresh)
    olds = list(tree.state.rglob(name))
    assert olds
    for old in olds:
        for query in ("SELECT type, name, sql FROM sqlite_master ORDER BY name", "PRAGMA user_version"):
            assert rows(old, query) == rows(fresh, query)


def test_a_store_of_version_1_gets_the_tables_that_it_lacks_and_keeps_its_rows(tmp_path: Path) -> None:
    laid = olden.lay(olden.archives()[0], tmp_path / "golden")
    new_replica(tmp_path / "fresh")
    path = laid.replica_side / "state.sqlite"
    before, tables = rows(path, "SELECT * FROM state"), "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    peeked = peek.replica(path)
    assert peek.definition(path, max(laid.epochs)) is None
    assert rows(path, "PRAGMA user_version") == [(1,)], "a look changes nothing"
    opened = sqlite.SqliteReplicaStore(path)
    assert (opened.load(), opened.kept(), opened.definition(max(laid.epochs))) == (*peeked[:2], None)
    opened.close()
    assert rows(path, "PRAGMA user_version") == [(database.VERSION,)]
    assert rows(path, tables) == rows(tmp_path / "fresh", tables)
    assert rows(path, "SELECT * FROM state") == before
    sqlite.SqliteSourceStore(laid.source_side / "state.sqlite").close()
    assert rows(laid.source_side / "state.sqlite", "PRAGMA user_version") == [(database.VERSION,)]


def test_the_rows_of_a_source_are_written_as_they_were(tree: Olden, tmp_path: Path) -> None:
    old, fresh = sqlite.SqliteSourceStore(tree.source_side / "state.sqlite"), sqlite.SqliteSourceStore(tmp_path / "s")
    fresh.commit(old.load())
    old.close()
    fresh.close()
    query = "SELECT * FROM state"
    assert rows(tmp_path / "s", query) == rows(tree.source_side / "state.sqlite", query)


def test_the_rows_of_a_replica_are_written_as_they_were(tree: Olden, tmp_path: Path) -> None:
    path = tree.replica_side / "state.sqlite"
    old, fresh = sqlite.SqliteReplicaStore(path), sqlite.SqliteReplicaStore(tmp_path / "s")
    last = max(tree.epochs)
    machine = old.definition(last)
    assert machine == olden.MACHINE
    said = (Definition(last, machine),)
    fresh.commit(Update(old.load(), tuple(old.kept()), tuple(old.outbox()), definitions=said))
    assert len(old.kept()) == len(tree.epochs)
    old.close()
    fresh.close()
    tables = ("state", "epochs ORDER BY id", "outbox ORDER BY number", "definitions ORDER BY epoch")
    for query in (f"SELECT * FROM {table}" for table in tables):
        assert rows(tmp_path / "s", query) == rows(path, query)


def test_staged_epochs_are_written_as_they_were(tree: Olden) -> None:
    old, fresh = OsFile(tree.source_side / "stage"), MemoryFile()
    entries, stage = Stage(old).load(), Stage(fresh)
    assert entries
    for one in entries:
        stage.append(one)
    old.close()
    assert whole(fresh) == (tree.source_side / "stage").read_bytes()


def test_pre_images_are_written_as_they_were(tree: Olden) -> None:
    golden = (tree.replica_side / "undo").read_bytes()
    store = sqlite.SqliteReplicaStore(tree.replica_side / "state.sqlite")
    begin = store.kept()[0].end  # what stood before it was let go
    store.close()
    old, fresh = OsFile(tree.replica_side / "undo"), MemoryFile()
    UndoLog(fresh)
    fresh.truncate(begin)
    log, images = UndoLog(fresh), list(UndoLog(old).newest_first(begin))
    old.close()
    assert {bool(one.data) for one in images} == {True, False}, "both kinds are there"
    log.append(images[::-1])
    assert whole(fresh) == golden
    assert golden[: undo.START] == b"VMFYUNDO" + undo.VERSION.to_bytes(4, "big") + bytes(4)


@pytest.mark.parametrize("topic", [f"vmferry.{olden.STREAM}", "vmferry.receipts"])
def test_segments_are_written_as_they_were(tree: Olden, topic: str) -> None:
    golden = segments.path(tree.state / "log" / topic, 0)
    fd = os.open(golden, os.O_RDONLY)
    entries, _ = segments.take(fd, segments.FILE_HEADER, 0, 1 << 60, 1 << 30)
    os.close(fd)
    assert len(entries) > 10
    made = b"".join(segments.record_header(one.offset, one.data) + one.data for one in entries)
    assert segments.file_header(0) + made == golden.read_bytes()


def blocks(data: bytes) -> list[bytes]:
    return [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]


def test_prints_and_digests_are_those_that_the_map_had(tree: Olden) -> None:
    store = sqlite.SqliteSourceStore(tree.source_side / "state.sqlite")
    seed = store.load().seed
    store.close()
    # The map is that of the last sealed epoch; what the open one wrote are the only blocks that differ.
    was = [bytes(BLOCK) if at in olden.OPEN else one for at, one in enumerate(blocks(tree.source.read_bytes()))]
    prints = [digest.fingerprint(one, seed) if any(one) else bytes(16) for one in was]
    assert b"".join(prints) == (tree.source_side / "0.prints").read_bytes()
    for image, side in ((b"".join(was), tree.source_side), (tree.target.read_bytes(), tree.replica_side)):
        digests = [digest.of_pieces(0, one, BLOCK) if any(one) else bytes(32) for one in blocks(image)]
        assert b"".join(digests) == (side / "0.digests").read_bytes()


def test_every_block_of_the_map_was_known_and_sure_and_every_one_of_the_replica_claimed(tree: Olden) -> None:
    every = b"\xff" * (SIZE // BLOCK // 8)
    assert (tree.source_side / "0.known").read_bytes() == every
    assert (tree.source_side / "0.unsure").read_bytes() == bytes(len(every))
    assert (tree.replica_side / "0.claims").read_bytes() == every


def test_a_bit_of_a_map_stands_where_it_stood() -> None:
    file = MemoryFile()
    Bitmap(file, 20).put(3, 1, True)
    Bitmap(file, 20).put(9, 4, True)
    Bitmap(file, 20).put(19, 1, True)
    assert whole(file) == bytes([0b00001000, 0b00011110, 0b00001000])


def test_records_in_json_are_written_as_they_were(tree: Olden, tmp_path: Path) -> None:
    known, fresh = registry.Registry(places.Places(tree.state)), registry.Registry(places.Places(tmp_path))
    for stream in known.streams():
        fresh.save(stream)
    for replica in known.replicas():
        fresh.save(replica)
    for name in ("stream.json", "replica.json"):
        (old,), (new,) = tree.state.rglob(name), (tmp_path / "streams").rglob(name)
        assert new.read_bytes() == old.read_bytes()


def test_wishes_quotas_and_what_is_kept_are_written_as_they_were(tree: Olden, tmp_path: Path) -> None:
    asked = wishes.load(tree.source_side)
    assert asked.rate == 5 << 20
    wishes.save(tmp_path, asked)
    assert (tmp_path / wishes.FILE).read_bytes() == (tree.source_side / wishes.FILE).read_bytes()
    quotas.keep(tmp_path, quotas.STATE, quotas.kept(tree.source_side.parent, quotas.STATE))
    assert (tmp_path / quotas.STATE).read_bytes() == (tree.source_side.parent / quotas.STATE).read_bytes()
    marks, trimmed = retain._load(tree.source_side / retain.FILE, float("inf"))
    assert marks.marks
    retain._save(tmp_path / retain.FILE, marks, trimmed)
    assert (tmp_path / retain.FILE).read_bytes() == (tree.source_side / retain.FILE).read_bytes()
