"""The reading side of one Kafka topic: a consumer without a group, at an offset that we name."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from aiokafka import TopicPartition
from aiokafka import errors as kafka

from engine import errors, litter
from engine.bus.kafka import late, settings, trouble
from engine.bus.kafka.admin import Admin
from engine.ports import Entry

_PROOF_SECONDS = 10.0
"""How long nothing may come before the cluster is asked whether it is there: aiokafka would keep silent for ever."""

_LONG_MS = 5_000
"""Milliseconds that a broker may hold a question for records that are not there yet, and that aiokafka sleeps when
nothing wakes it: what comes is handed on at once in both.  With aiokafka's own 500 and 200 ms a daemon of fifty idle
replicas took 5.3 % of a core, with this 0.8 (measured)."""


_REST = 10.0
"""Seconds after which a reader that nobody reads from lets go of its consumer, and of what that fetched ahead: a start
reads its topic to the end and never again, and the first part that is sent then came back into memory for good.  50
streams held 400 MiB so (measured)."""


class Reader:
    """Fetches ahead (up to two fetches of 8 MiB), and seeks only when it is not read on where it stands."""

    def __init__(self, topic: str, admin: Admin, patience: float) -> None:
        self._topic, self._admin, self._patience = topic, admin, patience
        self._partition = TopicPartition(topic, 0)
        self._consumer: Any = None
        self._fetched: deque[Entry] = deque()
        self._next: int | None = None
        self._known_end = 0
        self._proved = 0.0
        self._reads = 0
        "Calls of `read` that are under way: one that was left may end while the next goes on."
        self._rest: asyncio.TimerHandle | None = None
        self._resting: asyncio.Task[None] | None = None

    async def read(self, offset: int, limit: int, wait: float) -> list[Entry]:
        """As ports.Log.read."""
        self._stay()
        self._reads += 1
        try:
            return await self._read(offset, limit, wait)
        finally:
            self._reads -= 1
            if not self._reads:
                self._stay()
                self._rest = asyncio.get_running_loop().call_later(_REST, self._let_go)

    def _stay(self) -> None:
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.cancel()

    def _let_go(self) -> None:
        """At once: a read that begins now finds nothing of it, and seeks."""
        consumer = self._taken()
        if consumer is not None:
            self._resting = asyncio.ensure_future(_stop(consumer))
            # One that does not stop in order is let go of all the same.
            self._resting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def _taken(self) -> Any:
        """The consumer, which is nobody's now."""
        self._next = None
        self._fetched.clear()
        consumer, self._consumer = self._consumer, None
        return consumer

    async def _read(self, offset: int, limit: int, wait: float) -> list[Entry]:
        try:
            if offset != self._next:
                await self._seek(offset)
            if not self._fetched:
                await self._fetch(offset, wait)
        except kafka.OffsetOutOfRangeError as why:
            self._next = None
            raise errors.OffsetGone(self._topic, offset, *await self.ends()) from why
        except kafka.KafkaError as why:
            self._next = None
            raise trouble.classify(self._topic, why) from why
        return self._hand_out(offset, limit)

    async def _seek(self, offset: int) -> None:
        """A new consumer (20 ms): the old one would first wait for the answer to its last fetch."""
        begin, end = await self.ends()
        if not begin <= offset <= end:
            raise errors.OffsetGone(self._topic, offset, begin, end)
        await self._drop()
        self._consumer = await self._admin.consumer(
            check_crcs=True,
            fetch_max_bytes=settings.FETCH,
            max_partition_fetch_bytes=settings.FETCH_PARTITION,
            fetch_max_wait_ms=_LONG_MS,
            consumer_timeout_ms=_LONG_MS,
        )
        self._consumer.assign([self._partition])
        self._consumer.seek(self._partition, offset)
        self._next = offset

    async def _fetch(self, offset: int, wait: float) -> None:
        """Wait for records: `wait` seconds at the end of the log, and as long as it takes for those that are there."""
        loop = asyncio.get_running_loop()
        if offset >= self._known_end and (wait <= 0 or loop.time() - self._proved > _PROOF_SECONDS):
            await self.ends()
        due = offset < self._known_end
        deadline = loop.time() + (self._patience if due else wait)
        while not self._fetched and (left := deadline - loop.time()) > 0:
            got = await self._consumer.getmany(self._partition, timeout_ms=int(left * 1000) + 1)
            for record in got.get(self._partition, ()):
                self._fetched.append(Entry(record.offset, record.value or b""))
        if self._fetched:
            self._proved = loop.time()
        elif due:
            told = f"record {offset} of {self._known_end} did not come within {self._patience:g} s"
            raise await late.late(self._admin, self._topic, told)

    def _hand_out(self, offset: int, limit: int) -> list[Entry]:
        entries: list[Entry] = []
        while self._fetched and (limit > 0 or not entries):
            entry = self._fetched.popleft()
            limit -= len(entry.data)
            entries.append(entry)
        self._next = entries[-1].offset + 1 if entries else offset
        return entries

    async def ends(self) -> tuple[int, int]:
        """(begin, end) as the leader says.  Raises Transient when there is none in time."""
        begin, end = await self._admin.ends(self._partition)
        self._known_end, self._proved = end, asyncio.get_running_loop().time()
        return begin, end

    async def close(self) -> None:
        """Repeatable."""
        self._stay()
        await self._drop()
        if self._resting is not None:
            await asyncio.wait([self._resting])

    async def _drop(self) -> None:
        consumer = self._taken()
        if consumer is not None:
            await _stop(consumer)


async def _stop(consumer: Any) -> None:
    """Stop it also while its broker is away: aiokafka then lets the cancellation of its own fetch out of `stop`, which
    here would pass for ours, and leaves its connections open."""
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([stopping])
    litter.dropped()
    if stopping.cancelled():
        await consumer._client.close()
    else:
        stopping.result()
