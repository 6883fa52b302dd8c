"""The control topic: one site says which streams it has, every other hears it.  Hints: what is lost is said again."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

from engine import envelope, errors, ports
from engine.bus.shared import SharedBus
from schemas import control, topics, wire
from schemas import errors as schema_errors

log = logging.getLogger("vmferry.daemon")
EVERY = 30.0
"""Seconds between two words about a stream of which there is nothing new."""
SOON = 2.0
"""Seconds after which what is new is said."""
KEEP = 3600.0
"""Seconds after which a word is old: whoever wants it has heard a later one."""
_TAIL = 8 << 20

Said = Iterable[tuple[bytes, control.Present]]


class Announcer:
    """Says what `said` gives: all of it every EVERY seconds, and of one stream soon after `news` of it."""

    def __init__(self, bus: SharedBus, prefix: str, said: Callable[[], Said]) -> None:
        self._bus, self._topic, self._said = bus, topics.control(prefix), said
        self._news = asyncio.Event()
        self._new: set[bytes] = set()
        self._all_at = 0.0
        self._log: ports.Log | None = None
        self._ends: deque[tuple[float, int]] = deque()
        self._trimmed = 0

    def news(self, stream: bytes) -> None:
        """Something of it changed that other sites want to know."""
        self._new.add(stream)
        self._news.set()

    async def run(self) -> None:
        """For ever.  A bus that is away is waited out: the streams themselves say so."""
        loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            try:
                await self._say(loop.time())
            except errors.FerryError as why:
                log.info("the streams of this site could not be announced: %s", why)
                self._all_at = 0.0
                await self._forget()
            await asyncio.sleep(SOON)
            try:
                left = self._all_at + SOON - loop.time()
                async with asyncio.timeout(left if left > 0 else EVERY - SOON):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _say(self, now: float) -> None:
        new, self._new = self._new, set()
        everything = now >= self._all_at
        records = [wire.pack_control(stream, one) for stream, one in self._said() if everything or stream in new]
        if not records:
            return
        if self._log is None:
            self._log = await (await self._bus.bus()).open(self._topic, write=True, shared=True)
        await self._log.append(records)
        self._ends.append((now, await self._log.sync()))
        self._all_at = now + EVERY - SOON if everything else self._all_at
        old = 0
        while now - self._ends[0][0] > KEEP:
            old = self._ends.popleft()[1]
        if old > self._trimmed:
            await self._log.trim(old)
            self._trimmed = old

    async def _forget(self) -> None:
        spent, self._log = self._log, None
        if spent is not None:
            await spent.close()

    async def close(self) -> None:
        """Repeatable."""
        await self._forget()


Told = Callable[[bytes, control.Present, float | None], None]


class Listener:
    """Hears every site.  `told(stream, present, late)` for each word.

    `late` is how many seconds it was said before the last word of its site that came with it; None of words that were
    there before we listened, of which nobody can tell how old they are.
    """

    def __init__(self, bus: SharedBus, prefix: str, told: Told) -> None:
        self._bus, self._topic, self._told = bus, topics.control(prefix), told
        self.away = ""
        "Why nothing is heard."

    async def run(self) -> None:
        """For ever; a bus that is away is tried again."""
        pause = 1.0
        while True:
            try:
                await self._listen()
            except errors.FerryError as why:
                pause = pause if self.away else 1.0
                if str(why) != self.away:
                    log.warning("no site is heard: %s", why)
                self.away = str(why)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 30.0)

    async def _listen(self) -> None:
        heard = await (await self._bus.bus()).open(self._topic, shared=True)
        try:
            at, before = await heard.ends()
            while True:
                words: list[ports.Entry] = []
                try:
                    while not words or at < (await heard.ends())[1]:
                        words += await heard.read(at, _TAIL, EVERY)
                        at = words[-1].offset + 1 if words else at
                        self.away = ""
                except errors.OffsetGone as gone:
                    at = gone.begin if at < gone.begin else gone.end
                    before = min(before, gone.end)
                self._take([one for one in words if one.offset < before], history=True)
                self._take([one for one in words if one.offset >= before], history=False)
        finally:
            await heard.close()

    def _take(self, entries: list[ports.Entry], history: bool) -> None:
        words = [word for word in map(self._read, entries) if word is not None]
        if history:  # of what was said before, only the last word of each stream can still be true
            words = list({stream: (stream, word) for stream, word in words}.values())
        last = {word.site: word.sent for _, word in words}
        for stream, word in words:
            self._told(stream, word, None if history else max(0.0, (last[word.site] - word.sent) / 1e9))

    def _read(self, entry: ports.Entry) -> tuple[bytes, control.Present] | None:
        try:
            frame = wire.unpack(entry.data)
            return frame.stream, wire.said(frame.kind, envelope.body(frame))
        except schema_errors.SchemaError as why:
            log.warning("offset %d of %s cannot be read: %s", entry.offset, self._topic, why)
            return None
