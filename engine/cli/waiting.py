"""What is on the bus of a stream and not yet applied: counted by reading it, within bounds of bytes and of time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine import envelope, errors, ports, registry
from engine.bus.reach import reach
from schemas import errors as schema_errors
from schemas import events, topics

_SECONDS = 5.0
_BYTES = 64 << 20
_BATCH = 8 << 20


@dataclass(slots=True)
class Waiting:
    """Bytes and epochs behind a position.  `away` says why the bus cannot be read; `more`: these are least values."""

    away: str = ""
    begin: int = 0
    end: int = 0
    epochs: int = 0
    "Sealed, and behind the position."
    size: int = 0
    "Bytes of them."
    open_size: int = 0
    "Bytes behind the last seal: of an epoch that is being sent, or of one that its source gave up."
    instant: int = 0
    "Of the last of their cuts, in ns since 1970."
    more: bool = False


async def behind(record: registry.Replica, stream: bytes, offset: int) -> Waiting:
    """What waits behind `offset` on the bus of a replica.  Raises nothing that ends a look: it is told in `away`."""
    found = Waiting()

    async def at(log: ports.Log, begin: int, end: int) -> None:
        found.begin, found.end = begin, end
        await _count(log, stream, max(offset, begin), found)

    found.away, late = await look(record, stream, at)
    found.more |= late
    return found


async def look(
    record: registry.Replica, stream: bytes, at: Callable[[ports.Log, int, int], Awaitable[None]]
) -> tuple[str, bool]:
    """Have `at` look at the stream's log, which it gets with its ends, on the bus of a replica, within some seconds.

    Gives why it could not, or nothing, and whether its time ran out.
    """
    url, topic = record.bus, topics.stream(stream, record.prefix)
    there = False
    try:
        async with asyncio.timeout(_SECONDS), contextlib.AsyncExitStack() as stack:
            bus: ports.Bus = await reach(record)
            stack.push_async_callback(bus.close)
            if not await bus.exists(topic):
                return f"{url} has no log of this stream", False
            log = await bus.open(topic)
            begin, end = await log.ends()
            there = True
            await at(log, begin, end)
    except TimeoutError:
        return "" if there else f"{url} did not answer within {_SECONDS:.0f} s", True
    except errors.FerryError as why:
        return str(why), False
    return "", False


async def _count(log: ports.Log, stream: bytes, offset: int, found: Waiting) -> None:
    while offset < found.end:
        if found.size + found.open_size > _BYTES:
            found.more = True
            return
        entries = await log.read(offset, _BATCH, 0)
        if not entries:
            return
        for entry in entries:
            _take(entry.data, stream, found)
        offset = entries[-1].offset + 1


def _take(record: bytes, stream: bytes, found: Waiting) -> None:
    try:
        frame, event = envelope.event(record)
    except schema_errors.SchemaError as why:
        # Whoever applies it refuses it aloud; here it is only looked at.
        logging.getLogger("vmferry.status").info("a record cannot be read: %s", why)
        return
    if frame.stream != stream or isinstance(event, events.Started | events.Asked | events.Word):
        return
    found.open_size += len(record)
    if isinstance(event, events.Seal):
        found.epochs += 1
        found.size, found.open_size = found.size + found.open_size, 0
        found.instant = event.instant
