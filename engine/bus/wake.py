"""How a reader that waits at the end of an embedded topic learns that there is more, without asking the index."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

_SHORTEST, _LONGEST = 0.001, 0.050
"""Seconds between two looks at another process's work, doubling while nothing comes."""
_CLOCK_STEP_NS = 20_000_000
"""Commits within one step of the file system's clock (at most 10 ms) look alike: younger than this tells nothing."""

Seen = tuple[int, tuple[int, int, int] | None]


class Wake:
    """One per topic and bus.  Commits of this bus wake at once; those of other processes are seen at SQLite's WAL file,
    which changes with every commit: one stat (2 us) per look."""

    def __init__(self, wal: Path) -> None:
        self._wal = wal
        self._count = 0
        self._pause = _SHORTEST
        self._waiters: set[asyncio.Future[None]] = set()
        self._writer: object | None = None

    def claim(self, writer: object) -> None:
        """`writer`, of this bus, has the lock: nobody else can append, and looking is needless."""
        self._writer = writer

    def release(self, writer: object) -> None:
        if self._writer is writer:
            self._writer = None
            self.changed()

    def changed(self) -> None:
        """There is more to read."""
        self._count += 1
        self._pause = _SHORTEST
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def found(self) -> None:
        """A reader got something: more may follow soon."""
        self._pause = _SHORTEST

    def look(self) -> Seen:
        """What `wait` compares with: to be taken before the index is asked."""
        return self._count, self._stat()

    async def wait(self, seen: Seen, seconds: float) -> None:
        """Return when the topic may have changed since `seen`, or `seconds` are over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._count == seen[0] and (left := deadline - loop.time()) > 0:
            if self._writer is not None:
                await self._sleep(left)
                continue
            await self._sleep(min(self._pause, left))
            self._pause = min(2 * self._pause, _LONGEST)
            now = self._stat()
            if now is None or now != seen[1]:
                return

    def _stat(self) -> tuple[int, int, int] | None:
        """Identity of the WAL file's state; None when that cannot tell."""
        try:
            found = os.stat(self._wal)
        except FileNotFoundError:
            return 0, 0, 0
        if time.time_ns() - found.st_mtime_ns < _CLOCK_STEP_NS:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _done, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


def _done(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
