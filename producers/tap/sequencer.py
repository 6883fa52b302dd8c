"""One order for the writes of all disks, and the way of each into the spool.

`take` numbers what one client sent; `commit` puts what all of them sent meanwhile into the spool, in one append, and
has replies.py answer.  A spool that fails or is full breaks the replica and not the guest: from then on writes are
answered, nothing is recorded, and that is said durably, once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from engine import errors
from engine.nbd.constants import Command, Flag
from engine.nbd.server import Connection
from engine.nbd.server_transmission import Request, ServerTransmission
from producers.tap import record
from producers.tap.order import Ack, Order
from producers.tap.record import ENTRY, Kind
from producers.tap.replies import NOT_PERMITTED, Owed, Replies
from producers.tap.spool import Broken
from producers.tap.writer import Writer

RECORD_BYTES = 4 << 20
"""Bytes of data from which on a record takes no more; with its last entry that stays below the log's 16 MiB."""

_WRITE, _FLUSH, _FUA = int(Command.WRITE), int(Command.FLUSH), int(Flag.FUA)
_WRITTEN, _LONGEST = int(Kind.WRITTEN), record.LONGEST
_log = logging.getLogger("vmferry.tap")


class Sequencer:
    """The Handler of the tap's NBD server.  All on one thread."""

    def __init__(self, order: Order, writer: Writer) -> None:
        self.nonce = os.urandom(record.NONCE)
        self.broken: Broken | None = None
        self.number = writer.number
        """The next one."""
        self.replies = Replies(order, writer)
        self._order, self._writer = order, writer
        self._disks = {name: at for at, name in enumerate(order.disks)}
        self._entries: list[bytes] = []
        self._data: list[bytes | memoryview] = []
        self._size = 0
        self._records: list[bytes] = []

    def begin(self) -> None:
        """Say in the spool who begins.  Durable once the writer's next sync is done.  Raises Full, DeviceFailed."""
        self._entry(Kind.BEGAN, record.began(self._order.disks))
        self._writer.append(self._records, self.number)
        self._records = []

    def mark(self, words: str) -> int:
        """Put `words` into the order of the writes; gives their number."""
        self._entry(Kind.MARK, words.encode())
        self.commit()
        return self.number - 1

    # The Handler.

    def take(self, connection: Connection, requests: list[Request]) -> None:
        """Number them, and keep what is owed for them until `commit`."""
        codec, since = connection.codec, time.monotonic()
        assert codec is not None
        disk, entries, content = self._disks[codec.export.name], self._entries, self._data
        replies: list[bytes] = []
        strict: list[int] = []
        for request in requests:
            command, flags, cookie, start, length, data = request
            if command == _WRITE and 0 < length <= _LONGEST:
                entries.append(ENTRY.pack(_WRITTEN, disk, length, start))
                content.append(data)
                self._size += length
                if self._size >= RECORD_BYTES:
                    self._seal()
            elif reply := OTHERS[command](self, codec, request, disk):
                replies.append(reply)
                continue
            if command == _FLUSH or flags & _FUA:
                strict.append(cookie)
            else:
                replies.append(codec.done(cookie))
        self._seal()
        if replies:
            self.replies.owe(Owed(connection, b"".join(replies), self.number, since))
        if strict:
            self.replies.owe(Owed(connection, b"", self.number, since, tuple(strict)))

    def gone(self, connection: Connection) -> None:
        """What it wrote stays; its replies go nowhere."""

    # All but an ordinary WRITE: its reply, or nothing when that has to wait for the spool.

    def _read(self, codec: ServerTransmission, request: Request, _disk: int) -> bytes:
        # We keep no disk: any bytes would be wrong ones.  A mirror never reads its target.
        return codec.failed(Command.READ, request.cookie, NOT_PERMITTED, "a tap records writes, and holds no disk")

    def _status(self, codec: ServerTransmission, request: Request, _disk: int) -> bytes:
        return codec.extents(request, [(request.length, 0)])

    def _trim(self, codec: ServerTransmission, request: Request, _disk: int) -> bytes:
        # QEMU does not forward the guest's, so that one of a tool's may mean nothing, too.
        return codec.done(request.cookie)

    def _flush(self, _codec: ServerTransmission, _request: Request, disk: int) -> bytes:
        self._entries.append(ENTRY.pack(Kind.FLUSHED, disk, 0, 0))
        return b""

    def _zero(self, _codec: ServerTransmission, request: Request, disk: int) -> bytes:
        if request.length:
            self._entries.append(ENTRY.pack(Kind.ZEROED, disk, request.length, request.start))
        return b""

    def _long(self, _codec: ServerTransmission, request: Request, disk: int) -> bytes:
        """A WRITE that no record holds: in pieces, each with a number; or an empty one, which has none."""
        for first in range(0, request.length, _LONGEST):
            piece = request.data[first : first + _LONGEST]
            self._entries.append(ENTRY.pack(_WRITTEN, disk, len(piece), request.start + first))
            self._data.append(piece)
            self._seal()
        return b""

    # Into the spool.

    def _entry(self, kind: Kind, data: bytes) -> None:
        self._entries.append(ENTRY.pack(kind, 0, len(data), 0))
        self._data.append(data)
        self._seal()

    def _seal(self) -> None:
        """Make one record of the entries so far; their data is copied here."""
        if not self._entries:
            return
        # One reading holds far fewer entries than a record may: BUFFER bytes, of 28 each at least.
        self._records.append(record.pack(self.number, time.time_ns(), self.nonce, self._entries, self._data))
        self.number += len(self._entries)
        self._entries.clear()
        self._data.clear()
        self._size = 0

    def commit(self) -> None:
        """Append what was numbered, and answer what may be answered."""
        records, self._records = self._records, []
        if records and self.replies.policy is Ack.MEMORY:
            self.replies.answer()
        if records and self.broken is None:
            try:
                self._writer.append(records, self.number)
            except errors.FerryError as why:
                self._break(self._writer.number, str(why))
        self.replies.answer()

    def _break(self, number: int, why: str) -> None:
        _log.error("the replica is broken, and not the guest: nothing is recorded from %d on: %s", number, why)
        self.broken = Broken(number, why)
        self._writer.broke(number, why)
        self.replies.broke()

    # Out to the medium.

    def tick(self) -> float | None:
        """What time asks for; seconds until the next call is due, None when there is nothing to wait for."""
        now = time.monotonic()
        due = self.replies.tick(now)
        if self._writer.unsynced:
            wait = 0.0 if self.replies.held else self._writer.since + self._order.sync_every - now
            if wait > 0:
                return wait if due is None else min(wait, due)
            self._writer.sync()
        return due

    def synced(self) -> None:
        """Take what came of a sync."""
        while (found := self._writer.done()) is not None:
            if found.error is not None and self.broken is None:
                self._break(self._writer.durable, str(found.error))
        self.replies.answer()


_Other = Callable[[Sequencer, ServerTransmission, Request, int], bytes]

OTHERS: dict[int, _Other] = {
    Command.READ: Sequencer._read,
    Command.WRITE: Sequencer._long,
    Command.FLUSH: Sequencer._flush,
    Command.TRIM: Sequencer._trim,
    Command.WRITE_ZEROES: Sequencer._zero,
    Command.BLOCK_STATUS: Sequencer._status,
}
