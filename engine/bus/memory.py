"""The bus in memory: for tests, with a gate through which faults come in.

`gate(operation, topic)` is awaited before and after every effect, and may raise: before, nothing was persisted; after,
all of it was.  Records that were appended and not synced are lost by `crash`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from engine import errors, ports

Gate = Callable[[str, str], Awaitable[None]]


async def open_gate(_operation: str, _topic: str) -> None:
    """Lets everything through."""


@dataclass
class Topic:
    """The records of one topic, which outlive every handle."""

    begin: int = 0
    records: list[bytes] = field(default_factory=list)
    waiters: dict[asyncio.Event, None] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return self.begin + len(self.records)

    def add(self, records: Sequence[bytes]) -> None:
        self.records.extend(records)
        for waiter in self.waiters:
            waiter.set()


class MemoryLog:
    """A handle on one topic."""

    def __init__(self, name: str, topic: Topic, gate: Gate, writer: set[str] | None) -> None:
        self._name, self._topic, self._gate = name, topic, gate
        self._taken: list[bytes] = []
        self._writer = writer
        self._end: int | None = None

    async def append(self, records: Sequence[bytes]) -> None:
        await self._gate("append", self._name)
        for record in records:
            if len(record) > 4 << 20:
                raise errors.Unsafe(f"{self._name}: a record of {len(record)} bytes")
        self._taken.extend(records)

    async def sync(self) -> int:
        await self._gate("sync", self._name)
        taken, self._taken = self._taken, []
        if taken:
            self._topic.add(taken)
            self._end = self._topic.end
        await self._gate("synced", self._name)
        return self._topic.end if self._end is None else self._end

    async def read(self, offset: int, limit: int, wait: float) -> Sequence[ports.Entry]:
        await self._gate("read", self._name)
        if offset == self._topic.end and wait > 0:
            await self._wait(wait)
            await self._gate("read", self._name)
        if not self._topic.begin <= offset <= self._topic.end:
            raise errors.OffsetGone(self._name, offset, self._topic.begin, self._topic.end)
        found: list[ports.Entry] = []
        size = 0
        for at in range(offset, self._topic.end):
            if size >= limit:
                break
            record = self._topic.records[at - self._topic.begin]
            found.append(ports.Entry(at, record))
            size += len(record)
        return found

    async def _wait(self, seconds: float) -> None:
        waiter = asyncio.Event()
        self._topic.waiters[waiter] = None
        try:
            async with asyncio.timeout(seconds):
                await waiter.wait()
        except TimeoutError:
            return
        finally:
            del self._topic.waiters[waiter]

    async def ends(self) -> tuple[int, int]:
        await self._gate("ends", self._name)
        return self._topic.begin, self._topic.end

    async def trim(self, offset: int) -> None:
        await self._gate("trim", self._name)
        cut = min(max(offset - self._topic.begin, 0), len(self._topic.records))
        del self._topic.records[:cut]
        self._topic.begin += cut

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.discard(self._name)


class MemoryBus:
    """Topics by name.  Give two buses the same `topics` to let two processes of a test share them."""

    def __init__(self, topics: dict[str, Topic] | None = None, gate: Gate = open_gate) -> None:
        self.topics: dict[str, Topic] = {} if topics is None else topics
        self._gate = gate
        self._writers: set[str] = set()

    async def open(self, topic: str, write: bool = False, shared: bool = False) -> ports.Log:
        await self._gate("open", topic)
        if write and not shared:
            if topic in self._writers:
                raise errors.InUse(f"{topic} is written to already")
            self._writers.add(topic)
        writers = self._writers if write and not shared else None
        return MemoryLog(topic, self.topics.setdefault(topic, Topic()), self._gate, writers)

    async def delete(self, topic: str) -> None:
        self.topics.pop(topic, None)

    async def exists(self, topic: str) -> bool:
        return topic in self.topics

    async def trouble(self) -> str:
        return ""

    async def close(self) -> None:
        self._writers.clear()
