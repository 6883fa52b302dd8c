"""Requests of several clients become one order, whatever they are, and each is answered."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.nbd.constants import Command, Flag
from engine.nbd.handshake import Export
from engine.nbd.server_transmission import ServerTransmission
from producers.tap import record
from producers.tap.order import Ack, Order
from producers.tap.process import FLAGS
from producers.tap.record import Entry, Kind
from producers.tap.sequencer import Sequencer
from producers.tap.spool import Spool
from producers.tap.writer import Writer

MEBI = 1 << 20
SIZE = 64 * MEBI


class Client:
    """What one connection asks, and what came back."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.codec = ServerTransmission(Export(name, SIZE, FLAGS, structured=True, contexts={1: "base:allocation"}))
        self.sent = b""
        self._scene, self._cookie = scene, 0

    def send(self, data: bytes) -> None:
        self.sent += data

    def ask(self, command: Command, start: int = 0, length: int = 0, data: bytes = b"", flags: Flag = Flag.NONE) -> int:
        self._cookie += 1
        length = len(data) or length
        asked = struct.pack(">LHHQQL", 0x25609513, flags, command, self._cookie, start, length) + data
        connection: Any = self
        self._scene.sequencer.take(connection, self.codec.feed(asked))
        return self._cookie

    def answered(self) -> list[tuple[int, int]]:
        """(cookie, error) of the simple replies since last time; structured ones are left out."""
        sent, self.sent = self.sent, b""
        found = []
        while sent:
            if sent[:4] == b"\x67\x44\x66\x98":
                error, cookie = struct.unpack_from(">LQ", sent, 4)
                found.append((cookie, error))
                sent = sent[16:]
            else:
                sent = sent[20 + int.from_bytes(sent[16:20], "big") :]
        return found


class Scene:
    """A sequencer over a real spool, with two clients."""

    def __init__(self, path: Path, ack: Ack = Ack.SPOOL) -> None:
        self.path, self.told = path / "spool", threading.Event()
        self.order = Order(self.path, path / "n", path / "c", {"vda": SIZE, "vdb": SIZE}, ack)
        self.writer = Writer(self.path, 1 << 30, 0.0, self.told.set)
        self.sequencer = Sequencer(self.order, self.writer)
        self.sequencer.begin()
        self.vda, self.vdb = Client(self, "vda"), Client(self, "vdb")

    def sync(self) -> None:
        self.told.clear()
        self.writer.sync()
        assert self.told.wait(60)
        self.sequencer.synced()

    def entries(self) -> list[Entry]:
        """All that is in the spool, which is over then; without the first, BEGAN."""
        if self.writer.unsynced:
            self.sync()
        self.writer.close(60)
        reader = Spool(self.path)
        found = reader.read(0, 1 << 30)
        reader.close()
        assert found[0].kind is Kind.BEGAN
        assert [entry.number for entry in found] == list(range(len(found)))
        return found[1:]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    one = Scene(tmp_path)
    yield one
    one.writer.close(60)


def test_requests_of_two_disks_are_one_order_and_every_kind_is_kept_or_not(scene: Scene) -> None:
    scene.vda.ask(Command.WRITE, 4096, data=b"one")
    scene.vdb.ask(Command.WRITE_ZEROES, 0, SIZE, flags=Flag.NO_HOLE)
    scene.vda.ask(Command.TRIM, 0, 4096)
    scene.vdb.ask(Command.WRITE, 8, data=b"two")
    scene.vda.ask(Command.WRITE, 0, 0)
    scene.vda.ask(Command.READ, 0, 512)
    scene.vda.ask(Command.BLOCK_STATUS, 0, 512)
    assert scene.vda.sent + scene.vdb.sent == b""  # nothing before it is in the spool
    scene.sequencer.commit()
    assert scene.vda.answered() == [(1, 0), (2, 0), (3, 0)]
    assert scene.vdb.answered() == [(1, 0), (2, 0)]
    found = [(one.kind, one.disk, one.start, one.length, one.data) for one in scene.entries()]
    assert found == [
        (Kind.WRITTEN, 0, 4096, 3, b"one"),
        (Kind.ZEROED, 1, 0, SIZE, b""),
        (Kind.WRITTEN, 1, 8, 3, b"two"),
    ]


def test_the_largest_write_comes_in_pieces_in_its_place(scene: Scene) -> None:
    data = bytes(range(256)) * (32 * MEBI // 256)
    scene.vda.ask(Command.WRITE, 0, data=b"before")
    scene.vda.ask(Command.WRITE, 512, data=data)
    scene.vdb.ask(Command.WRITE, 0, data=b"behind")
    scene.sequencer.commit()
    found = scene.entries()
    assert [one.length for one in found] == [6, *[record.LONGEST] * 4, 6]
    assert b"".join(one.data for one in found[1:-1]) == data
    assert [one.start for one in found[1:-1]] == [512 + at * record.LONGEST for at in range(4)]


def test_a_flush_is_answered_when_all_before_it_is_durable(scene: Scene) -> None:
    scene.vda.ask(Command.WRITE, 0, data=b"x")
    flush = scene.vdb.ask(Command.FLUSH)
    sure = scene.vda.ask(Command.WRITE, 0, data=b"y", flags=Flag.FUA)
    scene.sequencer.commit()
    assert scene.vda.answered() == [(1, 0)]
    assert scene.vdb.answered() == []
    assert scene.sequencer.tick() is None  # it begins the sync at once
    assert scene.told.wait(60)
    scene.sequencer.synced()
    assert scene.vda.answered() == [(sure, 0)]
    assert scene.vdb.answered() == [(flush, 0)]
    assert [one.kind for one in scene.entries()] == [Kind.WRITTEN, Kind.FLUSHED, Kind.WRITTEN]


def test_what_nobody_waits_for_is_made_durable_a_little_later(scene: Scene) -> None:
    scene.sync()
    scene.vda.ask(Command.WRITE, 0, data=b"x")
    scene.sequencer.commit()
    due = scene.sequencer.tick()
    assert due is not None
    assert 0 < due <= scene.order.sync_every
    assert scene.writer.unsynced


def test_a_failed_spool_breaks_the_replica_and_answers_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.sync()

    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    scene.vda.ask(Command.WRITE, 0, data=b"kept")
    scene.sequencer.commit()
    number = scene.writer.number
    monkeypatch.setattr("os.pwritev", failing)
    scene.vda.ask(Command.WRITE, 0, data=b"lost")
    flush = scene.vdb.ask(Command.FLUSH)
    scene.sequencer.commit()
    monkeypatch.undo()
    scene.vda.ask(Command.WRITE, 0, data=b"not kept either")
    scene.sequencer.commit()
    assert scene.vda.answered() == [(1, 0), (2, 0), (3, 0)]
    assert scene.vdb.answered() == [(flush, 5)]
    assert scene.sequencer.broken is not None
    assert scene.sequencer.broken.number == number
    scene.writer.close(60)
    reader = Spool(scene.path)
    found = reader.broken()
    assert found is not None
    assert found.number == number
    reader.close()
