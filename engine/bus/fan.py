"""One reader of a topic for many: what is read once is handed to everyone who waits at its end."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Awaitable, Callable, Sequence

from engine import errors, ports

KEEP = 8 << 20
"""Bytes of records that are kept for those who read a little later than others."""
_LIMIT = 4 << 20
_WAIT = 30.0

Open = Callable[[], Awaitable[ports.Log]]


class Fan:
    """Readers of one topic, for any number of tasks.  Made for topics on which all streams of a site speak.

    One task reads on from the end for as long as somebody waits; who asks for older records reads them by a handle of
    its own.
    """

    def __init__(self, open_: Open) -> None:
        self._open = open_
        self._log: ports.Log | None = None
        self._opening = asyncio.Lock()
        self._pump: asyncio.Task[None] | None = None
        self._kept: list[ports.Entry] = []
        self._size = 0
        self._begin = self._end = -1
        "Between these offsets all there is is kept; -1: nothing was read yet."
        self._more: set[asyncio.Future[None]] = set()

    async def ends(self) -> tuple[int, int]:
        """As ports.Log.ends."""
        return await (await self._handle()).ends()

    async def read(self, reader: FanLog, offset: int, limit: int, wait: float) -> Sequence[ports.Entry]:
        """As ports.Log.read."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            if self._end < 0:
                end = (await self.ends())[1]
                if self._end < 0:  # while this one asked, another may have begun to read
                    self._begin = self._end = end
            if offset > self._end and self._idle():
                # Nobody read on, and this one is further already: from there on it is read for all again.
                self._begin = self._end = offset
                self._kept, self._size = [], 0
            if not self._begin <= offset <= self._end:
                return await reader.older(offset, limit, max(0.0, deadline - loop.time()))
            if offset < self._end and (found := self._handed_out(offset, limit)):
                return found
            if (left := deadline - loop.time()) <= 0:
                # Where nobody reads on, who does not wait has to look.
                return await reader.older(offset, limit, 0.0) if self._idle() else ()
            await self._wait(left)

    def _handed_out(self, offset: int, limit: int) -> list[ports.Entry]:
        found: list[ports.Entry] = []
        for entry in self._kept[bisect.bisect_left(self._kept, offset, key=lambda one: one.offset) :]:
            if limit <= 0:
                break
            limit -= len(entry.data)
            found.append(entry)
        return found

    def _idle(self) -> bool:
        return self._pump is None or self._pump.done()

    async def _wait(self, seconds: float) -> None:
        if self._idle():
            self._pump = asyncio.ensure_future(self._read_on())
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._more.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return
        finally:
            self._more.discard(waiter)

    async def _read_on(self) -> None:
        """Read while somebody waits.  Trouble is told to everyone who does, and the next one tries again."""
        try:
            log = await self._handle()
            while self._more:
                entries = await log.read(self._end, _LIMIT, _WAIT)
                if entries:
                    self._keep(entries)
                    self._tell(None)
        except Exception as why:  # whatever it is: nobody is left waiting, and they know what to do with it
            self._begin = self._end = -1
            self._kept, self._size = [], 0
            self._tell(why)

    def _keep(self, entries: Sequence[ports.Entry]) -> None:
        self._kept += entries
        self._size += sum(len(one.data) for one in entries)
        self._end = entries[-1].offset + 1
        drop = 0
        while self._size > KEEP and drop < len(self._kept) - 1:
            self._size -= len(self._kept[drop].data)
            drop += 1
        if drop:
            self._begin = self._kept[drop].offset
            del self._kept[:drop]

    def _tell(self, why: Exception | None) -> None:
        for waiter in self._more:
            if waiter.done():
                continue
            if why is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(type(why)(*why.args) if type(why) is errors.Transient else why)

    async def _handle(self) -> ports.Log:
        async with self._opening:
            if self._log is None:
                self._log = await self._open()
            return self._log

    async def close(self) -> None:
        """Repeatable."""
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()
            await asyncio.wait([pump])
        log, self._log = self._log, None
        if log is not None:
            await log.close()


class FanLog:
    """A handle of one reader: `ports.Log` without a writing side."""

    def __init__(self, fan: Fan, open_: Open) -> None:
        self._fan, self._open = fan, open_
        self._older: ports.Log | None = None

    async def append(self, records: Sequence[bytes]) -> None:
        raise errors.Usage(f"{len(records)} records for a topic that is only read here")

    async def sync(self) -> int:
        return (await self.ends())[1]

    async def read(self, offset: int, limit: int, wait: float) -> Sequence[ports.Entry]:
        return await self._fan.read(self, offset, limit, wait)

    async def older(self, offset: int, limit: int, wait: float) -> Sequence[ports.Entry]:
        """What is not kept any more, or not there: the topic itself says."""
        if self._older is None:
            self._older = await self._open()
        return await self._older.read(offset, limit, wait)

    async def ends(self) -> tuple[int, int]:
        return await self._fan.ends()

    async def trim(self, offset: int) -> None:
        raise errors.Usage(f"to trim to {offset} is for who writes the topic")

    async def close(self) -> None:
        """Repeatable."""
        older, self._older = self._older, None
        if older is not None:
            await older.close()
