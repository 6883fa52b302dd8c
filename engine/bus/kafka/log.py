"""A handle on one Kafka topic: its two sides, and the rule that an error of the writing side spends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from aiokafka import errors as kafka

from engine import errors
from engine.bus.kafka.admin import Admin
from engine.bus.kafka.reader import Reader
from engine.bus.kafka.writer import Writer
from engine.ports import Entry

T = TypeVar("T")


class KafkaLog:
    """Durable means here: in the memory of min.insync.replicas brokers (acks=all)."""

    def __init__(
        self, topic: str, admin: Admin, patience: float, closed: Callable[[KafkaLog], None], write: bool
    ) -> None:
        self._topic, self._admin, self._patience, self._closed = topic, admin, patience, closed
        self._reader = Reader(topic, admin, patience)
        self._may_write, self._starting = write, asyncio.Lock()
        self._writer: Writer | None = None
        self._spent: BaseException | None = None
        self._gone = False

    async def append(self, records: Sequence[bytes]) -> None:
        """As ports.Log.append."""
        self._check_writable()
        await self._spending(self._append(records))

    async def _append(self, records: Sequence[bytes]) -> None:
        await (await self._started()).append(records)

    async def _started(self) -> Writer:
        """The producer, started by the first append: a handle that never appends needs neither it nor the right."""
        async with self._starting:
            if self._writer is None:
                writer = Writer(self._topic, self._admin, self._patience)
                try:
                    await writer.start()
                except BaseException:
                    await writer.close()
                    raise
                self._writer = writer
        return self._writer

    async def sync(self) -> int:
        """As ports.Log.sync.  Gives up after the patience of the bus, saying how many brokers answer."""
        self._check_writable()
        end = None if self._writer is None else await self._spending(self._writer.sync())
        return (await self.ends())[1] if end is None else end

    async def _spending(self, step: Coroutine[Any, Any, T]) -> T:
        try:
            return await step
        except BaseException as why:
            self._spent = why
            raise

    def _check_writable(self) -> None:
        if self._spent is not None:
            raise errors.Transient(f"{self._topic}: open the log again; this handle ended with: {self._spent!r}")
        if not self._may_write:
            raise errors.Usage(f"{self._topic} is not open for writing")

    async def read(self, offset: int, limit: int, wait: float) -> Sequence[Entry]:
        """As ports.Log.read."""
        return await self._reader.read(offset, limit, wait)

    async def ends(self) -> tuple[int, int]:
        return await self._reader.ends()

    async def trim(self, offset: int) -> None:
        """As ports.Log.trim, exactly; the space comes back by whole segments."""
        begin, end = await self.ends()
        if offset > end:
            raise errors.OffsetGone(self._topic, offset, begin, end)
        if offset > begin:
            try:
                await self._admin.trim(self._topic, offset)
            except kafka.OffsetOutOfRangeError as why:
                raise errors.OffsetGone(self._topic, offset, *await self.ends()) from why

    async def close(self) -> None:
        if self._gone:
            return
        self._gone = True
        try:
            await self._reader.close()
            if self._writer is not None:
                await self._writer.close()
        finally:
            self._closed(self)
