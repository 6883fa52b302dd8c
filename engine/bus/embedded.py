"""The embedded log, `log:PATH`: a directory with one subdirectory per topic.  docs/EMBEDDED-LOG.md is its format.

This file is the shell: threads, wake-ups and handles.  What is written when, is in appender.py; what a crash leaves is
put right in recovery.py.  One loop per bus.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from engine import errors
from engine.bus import index, segments, trouble
from engine.bus.appender import check_size
from engine.bus.opening import Exclusive, Shared, open_reader
from engine.bus.reader import Reader
from engine.bus.room import Room
from engine.bus.wake import Wake
from engine.ports import Entry

P = ParamSpec("P")
T = TypeVar("T")

BUFFER = 1 << 20
"""Bytes that `append` gathers before it hands them to the writing thread: a hop costs about 60 us."""
SHARED_BUFFER = 8 << 20
"""The same for a shared topic, where each hand-over is a whole sync."""


class EmbeddedBus:
    """All topics below one directory.  `quota` bounds the bytes of all segments together."""

    def __init__(self, path: str | Path, quota: int | None = None) -> None:
        self._path = Path(path)
        self._room = Room(self._path, quota)
        self._wakes: dict[str, Wake] = {}
        self._open: set[EmbeddedLog] = set()

    async def open(self, topic: str, write: bool = False, shared: bool = False) -> EmbeddedLog:
        """As ports.Bus.open.  An exclusive writer holds the topic's lock until it is closed or its process ends."""
        directory = self._directory(topic)
        with trouble.named(str(directory)):
            await asyncio.to_thread(_make, directory)
        wake = self._wakes.setdefault(topic, Wake(directory / f"{index.NAME}-wal"))
        log = EmbeddedLog(topic, directory, self._room, wake, self._open.discard)
        self._open.add(log)
        try:
            await log.start(write, shared)
        except BaseException:
            await log.close()
            raise
        return log

    async def exists(self, topic: str) -> bool:
        directory = self._directory(topic)
        return (directory / index.NAME).exists() or (directory.exists() and bool(segments.firsts(directory)))

    async def delete(self, topic: str) -> None:
        directory = self._directory(topic)
        if not directory.exists():
            return
        # Opened to write: whoever else writes is named, and nobody begins meanwhile.
        log = await self.open(topic, write=True)
        try:
            await asyncio.to_thread(shutil.rmtree, directory)
        finally:
            await log.close()
        self._wakes.pop(topic, None)

    async def trouble(self) -> str:
        """What can be wrong with a directory, its topics say."""
        return ""

    async def close(self) -> None:
        for log in list(self._open):
            await log.close()

    def _directory(self, topic: str) -> Path:
        if topic.startswith(".") or "/" in topic or "\0" in topic or not topic:
            raise errors.Usage(f"{topic!r} cannot be the name of a topic in {self._path}")
        return self._path / topic


def _make(directory: Path) -> None:
    """The directory and its parents, durably."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        segments.sync_directory(path.parent)


class EmbeddedLog:
    """A handle on one topic.  Writing, syncing and reading have a thread each: neither a read nor the next write waits
    for an fdatasync."""

    def __init__(
        self, topic: str, directory: Path, room: Room, wake: Wake, closed: Callable[[EmbeddedLog], None]
    ) -> None:
        self._topic, self._directory, self._room, self._wake, self._closed = topic, directory, room, wake, closed
        self._writing = ThreadPoolExecutor(1, thread_name_prefix=f"append {topic}")
        self._syncing = ThreadPoolExecutor(1, thread_name_prefix=f"sync {topic}")
        self._one_sync = asyncio.Lock()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix=f"read {topic}")
        self._writer: Exclusive | Shared | None = None
        self._reader: Reader | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._spent: BaseException | None = None
        self._gone = False

    async def start(self, write: bool, shared: bool) -> None:
        """Take the lock and put the topic right (write), or see that it can be read."""
        if not write:
            await self._on_reading(self._read_side)
            return
        await self._on(self._writing, self._start_writer, Shared if shared else Exclusive)
        if not shared:
            self._wake.claim(self)

    def _start_writer(self, kind: type[Exclusive] | type[Shared]) -> None:
        self._writer = kind(self._directory)

    async def append(self, records: Sequence[bytes]) -> None:
        """As ports.Log.append.  Gathers in memory, then writes into the page cache."""
        writer = self._writable()
        check_size(self._topic, records)
        amount = sum(len(record) + segments.RECORD_HEADER for record in records)
        try:
            self._room.take(amount)
        except errors.Full as why:
            self._spent = why
            raise
        self._pending += records
        self._pending_bytes += amount
        if self._pending_bytes >= (SHARED_BUFFER if isinstance(writer, Shared) else BUFFER):
            await self._hand_over(writer.write)

    async def sync(self) -> int:
        """As ports.Log.sync.  One fdatasync and one commit for all that was appended since the last."""
        writer = self._writable()
        if isinstance(writer, Shared):
            end = await self._hand_over(writer.sync)
        else:
            async with self._one_sync:
                begun = await self._hand_over(self._exclusive().begin_sync)
                done = await self._on(self._syncing, begun.wait)
                end = await self._on(self._writing, self._exclusive().end_sync, done)
        self._wake.changed()
        return end

    def _exclusive(self) -> Exclusive:
        writer = self._writable()
        assert isinstance(writer, Exclusive)
        return writer

    async def _hand_over(self, function: Callable[[list[bytes]], T]) -> T:
        records, amount = self._pending, self._pending_bytes
        self._pending, self._pending_bytes = [], 0
        try:
            return await self._on(self._writing, function, records)
        finally:
            self._room.landed(amount)

    async def read(self, offset: int, limit: int, wait: float) -> Sequence[Entry]:
        """As ports.Log.read."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            seen = self._wake.look()
            entries = await self._on_reading(self._read, offset, limit)
            if entries:
                self._wake.found()
                return entries
            left = deadline - loop.time()
            if left <= 0:
                return []
            await self._wake.wait(seen, left)

    def _read(self, offset: int, limit: int) -> list[Entry]:
        return self._read_side().read(offset, limit)

    async def ends(self) -> tuple[int, int]:
        return await self._on_reading(self._ends)

    def _ends(self) -> tuple[int, int]:
        state = self._read_side().state()
        return state.begin, state.end

    async def trim(self, offset: int) -> None:
        """As ports.Log.trim.  The begin moves exactly; the space comes back by whole segments."""
        await self._on_reading(self._trim, offset)

    def _trim(self, offset: int) -> None:
        self._read_side().trim(offset)

    def _read_side(self) -> Reader:
        if self._reader is None:
            self._reader = open_reader(self._topic, self._directory)
        return self._reader

    def _writable(self) -> Exclusive | Shared:
        if self._spent is not None:
            raise errors.Transient(f"{self._topic}: open the log again; this handle ended with: {self._spent!r}")
        if self._writer is None:
            raise errors.Usage(f"{self._topic} is not open for writing")
        return self._writer

    async def _on(self, thread: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Of the writing side: after any error the handle is spent."""
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, lambda: function(*args, **kwargs))
        except BaseException as why:
            self._spent = why
            raise

    async def _on_reading(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reading, lambda: function(*args, **kwargs))

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def close(self) -> None:
        """As ports.Log.close."""
        if self._gone:
            return
        self._gone = True
        self._room.landed(self._pending_bytes)
        loop = asyncio.get_running_loop()
        try:
            # Behind whatever still runs on these threads, a start that was cancelled included.
            await loop.run_in_executor(self._reading, self._close_reader)
            await loop.run_in_executor(self._syncing, _nothing)
            await loop.run_in_executor(self._writing, self._close_writer)
        finally:
            self._reading.shutdown(wait=False)
            self._writing.shutdown(wait=False)
            self._syncing.shutdown(wait=False)
            self._wake.release(self)
            self._closed(self)


def _nothing() -> None:
    """Runs when everything before it on its thread has ended."""
