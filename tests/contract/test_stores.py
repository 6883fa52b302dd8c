"""What every store of either side must do, and what the one on SQLite must do beyond it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine import errors
from engine.store import database, replicas, sources, sqlite
from engine.store.replicas import Definition, KeptEpoch, Outgoing, State, Update
from engine.store.sources import SourceState
from schemas import events
from schemas.identity import Attempt, Chain, Cut, Volume
from schemas.receipts import Position

OpenReplica = Callable[[], replicas.MemoryReplicaStore | sqlite.SqliteReplicaStore]
OpenSource = Callable[[], sources.MemorySourceStore | sqlite.SqliteSourceStore]

FIRST = State(b"r" * 16, b"n" * 8)


@pytest.fixture(params=["memory", "sqlite"])
def open_replica(request: pytest.FixtureRequest, tmp_path: Path) -> OpenReplica:
    disk = replicas.MemoryDisk()
    if request.param == "memory":
        return lambda: replicas.MemoryReplicaStore(disk)
    return lambda: sqlite.SqliteReplicaStore(tmp_path / "state.sqlite")


@pytest.fixture(params=["memory", "sqlite"])
def open_source(request: pytest.FixtureRequest, tmp_path: Path) -> OpenSource:
    disk: dict[str, SourceState] = {}
    if request.param == "memory":
        return lambda: sources.MemorySourceStore(disk)
    return lambda: sqlite.SqliteSourceStore(tmp_path / "state.sqlite")


def position(epoch: int, cut: Cut = Cut.CRASH) -> Position:
    volumes = (Volume("vda", 1 << 40, 65536),)
    chain = Chain(bytes([epoch]) * 32)
    return Position(3, Attempt(2, b"a" * 8), epoch, chain, volumes, (b"R" * 32,), cut, 5, True, 10**18, 77)


def kept(epoch: int, start: int, end: int) -> KeptEpoch:
    return KeptEpoch(position(epoch), start, end)


def at(epoch: int, undo_end: int) -> State:
    return replicas.at(FIRST, position(epoch), undo_end)


def test_a_replica_store_gives_back_every_field_after_it_was_closed(open_replica: OpenReplica) -> None:
    held = replace(
        at(4, 90), stream=b"s" * 16, label="län 1", generation=7, fence=Attempt(9, b"f" * 8), next_receipt=3,
        held="released", intent=kept(2, 16, 30),
    )  # fmt: skip
    store = open_replica()
    store.create(FIRST)
    assert store.load() == FIRST
    store.commit(Update(held))
    store.close()
    store.close()
    again = open_replica()
    assert again.load() == held
    again.close()


def test_an_update_keeps_epochs_and_receipts_in_order(open_replica: OpenReplica) -> None:
    store = open_replica()
    store.create(FIRST)
    store.commit(Update(at(1, 30), (kept(1, 16, 30),), (Outgoing(1, 1, b"one"), Outgoing(2, 0, b"two"))))
    store.commit(Update(at(3, 50), (kept(2, 30, 40), kept(3, 40, 50)), (Outgoing(3, 3, b"three"),)))
    store.close()
    again = open_replica()
    assert again.kept() == [kept(1, 16, 30), kept(2, 30, 40), kept(3, 40, 50)]
    assert [one.record for one in again.outbox()] == [b"one", b"two", b"three"]
    again.close()


def test_published_receipts_leave_and_later_ones_stay(open_replica: OpenReplica) -> None:
    store = open_replica()
    store.create(FIRST)
    store.commit(Update(FIRST, (), (Outgoing(1, 1, b"one"), Outgoing(2, 1, b"two"), Outgoing(3, 1, b"three"))))
    store.published(2)
    assert store.outbox() == [Outgoing(3, 1, b"three")]
    store.published(2)
    assert store.outbox() == [Outgoing(3, 1, b"three")]
    store.close()


def test_epochs_before_another_are_forgotten(open_replica: OpenReplica) -> None:
    store = open_replica()
    store.create(FIRST)
    store.commit(Update(at(4, 50), (kept(1, 16, 30), kept(2, 30, 40), kept(3, 40, 40), kept(4, 40, 50))))
    store.forget_before(3)
    assert store.kept() == [kept(3, 40, 40), kept(4, 40, 50)]
    store.close()
    again = open_replica()
    assert again.kept() == [kept(3, 40, 40), kept(4, 40, 50)]
    again.close()


def test_a_rewind_drops_later_epochs_and_every_word_about_them_at_once(open_replica: OpenReplica) -> None:
    store = open_replica()
    store.create(FIRST)
    said = (Outgoing(1, 1, b"of one"), Outgoing(2, 3, b"of three"), Outgoing(3, 0, b"of none"))
    store.commit(Update(at(3, 50), (kept(1, 16, 30), kept(2, 30, 40), kept(3, 40, 50)), said))
    store.commit(Update(at(1, 30), (), (Outgoing(4, 1, b"rewound"),), rewound=True))
    assert store.kept() == [kept(1, 16, 30)]
    assert [one.record for one in store.outbox()] == [b"of one", b"rewound"]
    assert store.load().position == position(1)
    store.close()


def machine(epoch: int, memory: int = 1) -> Definition:
    text = f"<domain type='kvm'><memory>{memory}</memory></domain>"
    return Definition(epoch, events.Defined(events.Form.LIBVIRT, text, bytes([epoch]) * 300))


def test_what_a_machine_was_said_to_be_holds_until_the_next_word_also_after_it_was_closed(
    open_replica: OpenReplica,
) -> None:
    store = open_replica()
    store.create(FIRST)
    assert store.definition(0) is None
    first, second, third = machine(2), machine(5, 2), machine(6, 3)
    store.commit(Update(at(2, 40), (kept(1, 16, 30), kept(2, 30, 40)), definitions=(first,)))
    store.commit(Update(at(7, 50), (kept(4, 40, 40), kept(7, 40, 50)), definitions=(second, third)))
    expected = [None, first.said, first.said, third.said]
    assert [store.definition(epoch) for epoch in (1, 2, 4, 7)] == expected
    store.close()
    again = open_replica()
    assert [again.definition(epoch) for epoch in (1, 2, 4, 7)] == expected
    again.close()


def test_a_rewind_takes_back_what_later_epochs_said_of_the_machine(open_replica: OpenReplica) -> None:
    store = open_replica()
    store.create(FIRST)
    store.commit(Update(at(1, 30), (kept(1, 16, 30),), definitions=(machine(1),)))
    store.commit(Update(at(3, 50), (kept(2, 30, 40), kept(3, 40, 50)), definitions=(machine(2, 2), machine(3, 3))))
    store.commit(Update(at(2, 40), rewound=True))
    assert store.definition(2) == machine(2, 2).said
    store.commit(Update(at(3, 60), (kept(3, 40, 60),)))
    assert store.definition(3) == machine(2, 2).said, "the epoch of that number is another one, and said nothing"
    store.commit(Update(at(1, 30), rewound=True))
    assert store.definition(1) == machine(1).said
    store.close()
    again = open_replica()
    assert again.definition(3) == machine(1).said
    again.close()


def test_a_state_without_a_past_has_no_machine(open_replica: OpenReplica) -> None:
    store = open_replica()
    store.create(FIRST)
    store.commit(Update(at(1, 30), definitions=(machine(1),)))
    store.commit(Update(replace(at(1, 30), position=Position())))
    assert store.definition(1) is None
    store.commit(Update(at(2, 30), definitions=(machine(2),)))
    store.create(FIRST)
    assert store.definition(2) is None
    store.close()


def test_a_definition_goes_when_no_kept_epoch_is_left_at_which_it_held(open_replica: OpenReplica) -> None:
    store = open_replica()
    store.create(FIRST)
    said = tuple(machine(epoch, epoch) for epoch in (1, 2, 4, 6))
    store.commit(Update(at(7, 50), (kept(3, 16, 30), kept(5, 30, 40), kept(7, 40, 50)), definitions=said))
    store.forget_before(3)
    assert [store.definition(epoch) for epoch in (1, 3, 5, 7)] == [None, said[1].said, said[2].said, said[3].said]
    store.forget_before(5)
    assert [store.definition(epoch) for epoch in (3, 5, 7)] == [None, said[2].said, said[3].said]
    store.forget_before(8)
    assert [store.definition(epoch) for epoch in (5, 7)] == [None, said[3].said], "what holds now stays"
    store.close()
    again = open_replica()
    assert [again.definition(epoch) for epoch in (5, 7)] == [None, said[3].said]
    again.close()


def test_the_list_of_kept_epochs_is_the_callers_own(open_replica: OpenReplica) -> None:
    store = open_replica()
    store.create(FIRST)
    store.commit(Update(at(1, 30), (kept(1, 16, 30),)))
    store.kept().clear()
    assert store.kept() == [kept(1, 16, 30)]
    store.close()


def test_a_source_store_gives_back_every_field_after_it_was_closed(open_source: OpenSource) -> None:
    state = SourceState(
        b"s" * 16, "web 1", (1 << 64) - 1, (Volume("vda", 3, 65536), Volume("vdb", 4, 4096)), 2, Attempt(5, b"n" * 8),
        Chain(b"c" * 32), 11, 12, 999, (b"p" * 16, b"q" * 16), True,
    )  # fmt: skip
    store = open_source()
    store.commit(SourceState(b"s" * 16, "first", 1))
    store.commit(state)
    store.close()
    store.close()
    again = open_source()
    assert again.load() == state
    again.close()


def filled(path: Path) -> Path:
    store = sqlite.SqliteReplicaStore(path)
    store.create(FIRST)
    for epoch in range(1, 40):
        update = Update(
            at(epoch, epoch * 10), (kept(epoch, epoch * 10 - 10, epoch * 10),), (Outgoing(epoch, 1, b"r" * 99),)
        )
        store.commit(update)
    store.close()
    return path


def test_an_unfinished_transaction_leaves_nothing(tmp_path: Path) -> None:
    store = sqlite.SqliteReplicaStore(filled(tmp_path / "s"))
    twice = (Outgoing(77, 1, b"x"), Outgoing(77, 1, b"y"))
    with pytest.raises(errors.FerryError):
        store.commit(Update(at(40, 400), (kept(40, 390, 400),), twice, definitions=(machine(40),)))
    assert store.definition(40) is None
    assert store.load().position.epoch == 39
    assert store.kept()[-1].position.epoch == 39
    assert store.outbox()[-1].number == 39
    store.close()


def test_a_store_without_a_state_says_so(tmp_path: Path) -> None:
    store = sqlite.SqliteSourceStore(tmp_path / "s")
    assert store.empty
    with pytest.raises(errors.Damaged, match="holds no state"):
        store.load()
    store.commit(SourceState(b"s" * 16, "x", 1))
    assert not store.empty
    store.close()


def test_each_transaction_is_synced_in_full(tmp_path: Path) -> None:
    store = sqlite.SqliteSourceStore(tmp_path / "s")
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_people_can_read_the_epochs(tmp_path: Path) -> None:
    with sqlite3.connect(filled(tmp_path / "s")) as plain:
        row = plain.execute("SELECT epoch, attempt, cut, usable, cut_at, root FROM epochs WHERE epoch = 7").fetchone()
    plain.close()
    assert row == (7, "2.616161", "crash", 1, "2001-09-09T01:46:40.000+00:00", (b"R" * 32).hex())


def test_a_newer_store_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = filled(tmp_path / "s")
    plain = sqlite3.connect(path)
    plain.execute(f"PRAGMA user_version = {database.VERSION + 1}")
    plain.close()
    before = path.read_bytes()
    with pytest.raises(errors.Newer, match="version 3, and this vmferry knows 2: upgrade it"):
        sqlite.SqliteReplicaStore(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(random.Random(1).randbytes(8192))
    with pytest.raises(errors.Damaged, match="not a database"):
        sqlite.SqliteReplicaStore(path)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_store_is_noticed_or_reads_as_it_was_written(tmp_path: Path, seed: int) -> None:
    path = filled(tmp_path / "s")
    chance, data = random.Random(seed), bytearray(path.read_bytes())
    at_byte = chance.randrange(len(data))
    data[at_byte : at_byte + 64] = chance.randbytes(64)[: len(data) - at_byte]
    path.write_bytes(data)
    try:
        store = sqlite.SqliteReplicaStore(path)
    except errors.Damaged:
        return
    try:
        assert store.load() == at(39, 390)
        assert store.kept() == [kept(epoch, epoch * 10 - 10, epoch * 10) for epoch in range(1, 40)]
    except errors.Damaged:
        return
    finally:
        store.close()


def test_a_damaged_store_is_set_aside_under_a_free_name_and_never_deleted(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for content in (b"first", b"second"):
        path.write_bytes(content)
        (tmp_path / "s-wal").write_bytes(content + b" wal")
        database.set_aside(path)
    found = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    assert found == {
        "s.damaged-1": b"first",
        "s.damaged-1-wal": b"first wal",
        "s.damaged-2": b"second",
        "s.damaged-2-wal": b"second wal",
    }


def test_two_processes_may_read_while_one_writes(tmp_path: Path) -> None:
    path = filled(tmp_path / "s")
    writer, reader = sqlite.SqliteReplicaStore(path), sqlite.SqliteReplicaStore(path)
    writer.commit(Update(at(40, 400)))
    assert reader.load().position.epoch == 40
    writer.close()
    reader.close()
