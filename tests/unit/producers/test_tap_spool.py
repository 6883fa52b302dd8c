"""The spool: what is numbered, appended and made durable, and what a reader finds of it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.bus.index import State
from engine.bus.reader import Reader
from producers.tap import record, spool
from producers.tap.record import ENTRY, Kind
from producers.tap.spool import Broken, Spool
from producers.tap.writer import STRIDE, Writer

NONCE = b"n" * 16


class Side:
    """A writer whose every record holds some entries of one byte each."""

    def __init__(self, path: Path, quota: int = 1 << 30, commit_every: float = 0.0) -> None:
        self._told = threading.Event()
        self.writer = Writer(path, quota, commit_every, self._told.set)

    def append(self, *counts: int, size: int = 1) -> None:
        number, records = self.writer.number, []
        for count in counts:
            entries = [ENTRY.pack(Kind.WRITTEN, 0, size, at) for at in range(count)]
            records.append(record.pack(number, 1, NONCE, entries, [b"x" * size] * count))
            number += count
        self.writer.append(records, number)

    def sync(self) -> None:
        assert self.writer.unsynced
        self.writer.sync()
        assert self._told.wait(60)
        self._told.clear()
        found = self.writer.done()
        assert found is not None
        assert found.error is None

    def close(self) -> None:
        self.writer.close(60)


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    one = Side(tmp_path)
    yield one
    one.close()


def numbers(reader: Spool, number: int, limit: int = 1 << 20) -> list[int]:
    return [entry.number for entry in reader.read(number, limit)]


def reading(path: Path, side: Side) -> Spool:
    """A reader once all that the writer has synced is to be seen."""
    side.close()
    return Spool(path)


def test_a_reader_sees_what_is_durable_and_goes_on_from_any_number(tmp_path: Path, side: Side) -> None:
    side.append(3, 1)
    side.append(4)
    side.sync()
    side.append(2)
    assert side.writer.durable == 8
    assert side.writer.number == 10
    reader = Spool(tmp_path)
    while reader.ends()[1] < 8:  # the index is committed behind the word of the sync
        pass
    assert reader.ends() == (0, 8)
    for number in range(9):
        assert numbers(reader, number) == list(range(number, 8))
    assert numbers(reader, 0, limit=1) == [0, 1, 2]
    assert numbers(reader, 3, limit=1) == [3]
    assert numbers(reader, 4, limit=1) == [4, 5, 6, 7]
    with pytest.raises(errors.OffsetGone):
        reader.read(9, 1)
    reader.close()


def test_what_is_trimmed_is_gone_and_the_last_record_stays(tmp_path: Path, side: Side) -> None:
    side.append(3, 1, 4)
    side.sync()
    reader = reading(tmp_path, side)
    reader.trim(2)
    assert reader.ends() == (0, 8)
    reader.trim(3)
    assert reader.ends() == (3, 8)
    with pytest.raises(errors.OffsetGone):
        reader.read(2, 1)
    with pytest.raises(errors.OffsetGone):
        reader.trim(9)
    reader.trim(8)
    assert reader.ends() == (4, 8)
    assert numbers(reader, 8) == []
    reader.trim(8)
    assert reader.fill() > 0
    reader.close()


def test_a_trim_lets_go_of_nothing_that_came_while_it_looked(
    tmp_path: Path, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.append(3)
    side.sync()
    reader, look = Spool(tmp_path), Reader.state
    while reader.ends()[1] < 3:
        pass

    def state(self: Reader) -> State:
        found = look(self)
        monkeypatch.undo()
        side.append(1, 1)
        side.sync()
        while look(self).end < 3:
            pass
        return found

    monkeypatch.setattr(Reader, "state", state)
    reader.trim(3)
    assert numbers(reader, 3) == [3, 4]
    reader.close()


def test_a_tap_begins_above_what_it_is_told(tmp_path: Path) -> None:
    for first, expected in ((0, 0), (STRIDE, STRIDE), (STRIDE + 1, 2 * STRIDE), (5, 3 * STRIDE)):
        writer = Writer(tmp_path, 1 << 30, 0.0, lambda: None, first)
        assert writer.number == expected
        writer.append([record.pack(writer.number, 1, NONCE, *record.one(Kind.MARK, b"x"))], writer.number + 1)
        writer.close(60)


def test_a_new_tap_never_uses_a_number_again(tmp_path: Path) -> None:
    for turn in range(3):
        side = Side(tmp_path)
        assert side.writer.number == turn * STRIDE
        side.append(2)
        side.sync()
        side.append(5)  # not synced: a power cut could take it
        side.close()
    reader = Spool(tmp_path)
    assert reader.ends() == (0, 2 * STRIDE + 2)
    spool.recover(tmp_path)
    assert reader.ends() == (0, 2 * STRIDE + 7)  # what was appended is there once nobody appends any more
    assert numbers(reader, 0)[:7] == list(range(7))
    assert numbers(reader, 7)[:2] == [STRIDE, STRIDE + 1]
    assert numbers(reader, STRIDE - 9)[0] == STRIDE
    reader.close()


def test_nobody_else_reads_what_a_guest_writes(tmp_path: Path) -> None:
    side = Side(tmp_path / "deep" / "spool")
    assert (tmp_path / "deep" / "spool").stat().st_mode & 0o777 == 0o700
    side.close()


def test_only_one_tap_has_a_spool(tmp_path: Path, side: Side) -> None:
    with pytest.raises(errors.InUse):
        Writer(tmp_path, 1 << 30, 0.0, lambda: None)
    with pytest.raises(errors.InUse):
        spool.recover(tmp_path)
    side.append(1)


def test_a_full_spool_takes_nothing_and_the_gap_is_written_down(tmp_path: Path) -> None:
    side = Side(tmp_path, quota=100_000)
    assert (tmp_path / spool.BROKEN).read_bytes() == b" " * 512
    side.append(1, size=60_000)
    with pytest.raises(errors.Full, match="quota"):
        side.append(1, size=60_000)
    assert side.writer.number == 1
    side.writer.broke(1, "no room " * 200)
    side.sync()
    reader = reading(tmp_path, side)
    assert (tmp_path / spool.BROKEN).stat().st_size == spool.BROKEN_SIZE
    found = reader.broken()
    assert found is not None
    assert found == Broken(1, ("no room " * 200)[: len(found.why)])
    assert reader.ends() == (0, 1)
    reader.close()
    side = Side(tmp_path)
    side.append(1)
    reader = reading(tmp_path, side)
    assert reader.broken() is None
    reader.close()


def test_where_no_tap_was_nothing_is_read(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no tap"):
        Spool(tmp_path)


def test_a_failed_sync_is_told_and_nothing_counts_as_durable(
    tmp_path: Path, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.append(2)
    side.sync()
    side.append(2)

    def failing(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fdatasync", failing)
    told = threading.Event()
    side.writer._told = told.set
    side.writer.sync()
    assert told.wait(60)
    found = side.writer.done()
    assert found is not None
    assert isinstance(found.error, errors.DeviceFailed)
    assert side.writer.durable == 2


def test_what_was_synced_is_there_though_the_index_does_not_know_it_yet(tmp_path: Path) -> None:
    """Replies go out behind the fdatasync, and the index is committed later: a cut between the two loses nothing."""
    side = Side(tmp_path / "spool", commit_every=3600.0)
    side.append(2)
    side.sync()
    side.append(3)
    side.sync()
    shutil.copytree(tmp_path / "spool", tmp_path / "cut")
    reader = Spool(tmp_path / "cut")
    assert reader.ends()[1] < 5
    spool.recover(tmp_path / "cut")
    assert reader.ends() == (0, 5)
    assert numbers(reader, 0) == [0, 1, 2, 3, 4]
    reader.close()
    side.close()
    reader = Spool(tmp_path / "spool")
    assert reader.ends() == (0, 5)
    reader.close()


@pytest.mark.parametrize("torn", [1, 30, 70])
def test_a_torn_tail_is_cut_and_what_is_before_it_stays(tmp_path: Path, torn: int) -> None:
    side = Side(tmp_path)
    side.append(2)
    side.sync()
    side.append(1, 4)
    side.close()
    (segment,) = (tmp_path / spool.TOPIC).glob("*.seg")
    with open(segment, "r+b") as file:
        file.truncate(segment.stat().st_size - torn)
    side = Side(tmp_path)
    assert side.writer.number == STRIDE
    side.append(1)
    side.sync()
    reader = reading(tmp_path, side)
    assert numbers(reader, 0) == [0, 1, 2, STRIDE]
    reader.close()
