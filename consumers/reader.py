"""Records of one stream off the bus, decoded ahead of use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from engine import envelope, errors, ports
from schemas import errors as schema_errors
from schemas import events, wire
from schemas.identity import NO_NONCE, Address, Attempt
from schemas.receipts import Position

log = logging.getLogger("vmferry.reader")
_NOBODY = Address(0, Attempt(0, NO_NONCE), 0, 0)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is not whole, or is missing: what follows it cannot be applied."""

    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `print_` tells two contents of one address apart, `size` is its bytes on the bus."""

    offset: int
    address: Address
    event: events.Event | Unreadable
    print_: int
    size: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one read gave: `end` is where the next one goes on, `size` its bytes on the bus."""

    records: Sequence[Record]
    end: int
    size: int


class Reader:
    """Reads a topic in batches of up to `limit` bytes.  Never gives a record of another stream.

    While a large batch is used, the next one is read: `close` it before the bus.
    """

    def __init__(
        self, stream: bytes, source: ports.Log, limit: int = 8 << 20, offload: ports.Offload = ports.inline
    ) -> None:
        self._stream = stream
        self._log = source
        self._limit = limit
        self._offload = offload
        self._offset = 0
        self._ahead: tuple[int, asyncio.Task[_Batch | None]] | None = None

    def seek(self, offset: int) -> None:
        """Read on from `offset`."""
        self._offset = offset

    async def begin(self) -> int:
        """The first offset that the bus still holds."""
        return (await self._log.ends())[0]

    async def holds(self, offset: int, position: Position) -> bool:
        """Whether the record at `offset` is the seal that made `position`."""
        begin, end = await self._log.ends()
        if not begin <= offset < end:
            return False
        entries = await self._log.read(offset, 1, 0)
        if not entries or entries[0].offset != offset:
            return False
        try:
            frame, event = envelope.event(entries[0].data)
        except schema_errors.SchemaError:
            return False
        return (
            frame.stream == self._stream
            and isinstance(event, events.Seal)
            and frame.address.seal == position.seal
            and event.chain == position.chain
        )

    async def next(self, wait: float) -> Sequence[Record]:
        """The next records, or none after `wait` seconds.

        Where the bus has lost what comes next (trimmed, or its tail lost), one Unreadable says so and reading goes on
        at what there is.  Raises UnknownVersion: a newer vmferry wrote this, and guessing is worse than stopping.
        """
        try:
            batch = await self._read_ahead() or await self._batch(self._offset, wait)
        except errors.OffsetGone as gone:
            # Above the end, the tail was lost: what there is was read before, and only new records will come behind it.
            self._offset = gone.begin if self._offset < gone.begin else gone.end
            return [Record(self._offset, _NOBODY, Unreadable(str(gone)), 0, 0)]
        if batch is None:
            return ()
        self._offset = batch.end
        if 2 * batch.size > self._limit:
            # More is waiting, most likely.
            self._ahead = batch.end, asyncio.ensure_future(self._batch(batch.end, 0))
        return batch.records

    async def wait(self, seconds: float) -> None:
        """Return when there is more, or `seconds` are over.  May be cancelled: what comes is kept for `next`."""
        if self._ahead is None:
            self._ahead = self._offset, asyncio.ensure_future(self._batch(self._offset, seconds))
        await asyncio.wait([self._ahead[1]])

    async def _read_ahead(self) -> _Batch | None:
        """What was read meanwhile, if it is what is wanted now."""
        ahead, self._ahead = self._ahead, None
        batch = await ahead[1] if ahead else None
        return batch if ahead and ahead[0] == self._offset else None

    async def _batch(self, offset: int, wait: float) -> _Batch | None:
        entries = await self._log.read(offset, self._limit, wait)
        if not entries:
            return None
        records: Sequence[Record] = await self._offload(self._decode, entries)
        return _Batch(records, entries[-1].offset + 1, sum(len(entry.data) for entry in entries))

    async def close(self) -> None:
        """Nothing is read any more.  Repeatable."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead[1].cancel()
            await asyncio.wait((ahead[1],))
            if not ahead[1].cancelled():
                ahead[1].exception()

    def _decode(self, entries: Sequence[ports.Entry]) -> list[Record]:
        records = (self._one(entry) for entry in entries)
        return [record for record in records if record is not None]

    def _one(self, entry: ports.Entry) -> Record | None:
        try:
            frame, event = envelope.event(entry.data)
        except (schema_errors.UnknownVersion, schema_errors.UnknownSuite):
            raise
        except schema_errors.SchemaError as why:
            reason = f"the record at offset {entry.offset} cannot be read: {why}"
            return Record(entry.offset, _NOBODY, Unreadable(reason), 0, len(entry.data))
        if frame.stream != self._stream:
            log.warning(
                "offset %d holds a record of another stream (%s): passed over", entry.offset, frame.stream.hex()
            )
            return None
        print_ = int.from_bytes(entry.data[wire.HEADER_SIZE - 16 : wire.HEADER_SIZE], "big")
        return Record(entry.offset, frame.address, event, print_, len(entry.data))
