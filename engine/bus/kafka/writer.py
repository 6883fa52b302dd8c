"""The writing side of one Kafka topic: an idempotent producer, fed whole batches."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from engine import errors
from engine.bus.kafka import late, settings
from engine.bus.kafka.admin import Admin

RECORD_LIMIT = settings.BATCH - 1024
"""Most bytes in one record: with its frame it must fit into one batch."""
_WAITING = 2
"""Batches given to the producer: one on its way, as it sends only one at a time, and one ready behind it.  More would
only wait; with the one that fills here at most 6 MiB are outstanding."""


class Writer:
    """Fills batches and keeps their futures.  After an error of `append` or `sync` only `close` may follow."""

    def __init__(self, topic: str, admin: Admin, patience: float) -> None:
        self._topic, self._admin, self._patience = topic, admin, patience
        self._producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            compression_type=None,
            max_batch_size=settings.BATCH,
            max_request_size=settings.BATCH,
            linger_ms=0,
            **admin.access.options(),
        )
        self._batch: Any = None
        self._sent: deque[tuple[asyncio.Future[Any], int]] = deque()
        self._sending = asyncio.Lock()
        self._end: int | None = None

    async def start(self) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._producer.start()
        except TimeoutError as why:
            raise await self._late() from why
        except kafka.KafkaConnectionError as why:
            raise await self._admin.unreachable(str(why)) from why
        except kafka.KafkaError as why:
            raise self._admin.classify(self._topic, why, "Write") from why
        self._batch = self._producer.create_batch()

    async def append(self, records: Sequence[bytes]) -> None:
        for record in records:
            if len(record) > RECORD_LIMIT:
                raise errors.Unsafe(f"{self._topic}: a record of {len(record)} bytes; at most {RECORD_LIMIT}: split it")
            if self._batch.append(key=None, value=record, timestamp=None) is None:
                await self._guarded(self._send)
                self._batch.append(key=None, value=record, timestamp=None)

    async def sync(self) -> int | None:
        """The offset just past the last record, once every one is acknowledged; None when none was ever appended."""
        await self._guarded(self._flush)
        return self._end

    async def _flush(self) -> None:
        await self._send()
        for sent in list(self._sent):
            await self._acknowledged(sent)

    async def _send(self) -> None:
        """Send the batch that fills, unless it is empty.  An append and a sync may be at it, one after the other."""
        async with self._sending:
            while len(self._sent) >= _WAITING:
                await self._acknowledged(self._sent[0])
            if not self._batch.record_count():
                return
            batch, self._batch = self._batch, self._producer.create_batch()
            while True:
                try:
                    future = await self._producer.send_batch(batch, self._topic, partition=0)
                    break
                except kafka.KafkaTimeoutError:
                    continue  # the one before is still not on its way; our own time limit is around this
            future.add_done_callback(functools.partial(_over, batch))
            self._sent.append((future, batch.record_count()))

    async def _acknowledged(self, sent: tuple[asyncio.Future[Any], int]) -> None:
        future, count = sent
        metadata = await asyncio.shield(future)
        if sent in self._sent:
            self._sent.remove(sent)
        self._end = max(self._end or 0, metadata.offset + count)

    async def _guarded(self, step: Any) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await step()
        except TimeoutError as why:
            raise await self._late() from why
        except kafka.KafkaError as why:
            raise self._admin.classify(self._topic, why, "Write") from why

    async def _late(self) -> errors.Transient:
        return await late.late(self._admin, self._topic, f"no acknowledgement within {self._patience:g} s")

    async def close(self) -> None:
        """What is not acknowledged yet is given up: aiokafka's own stop would wait for it, for ever if need be."""
        sender = self._producer._sender.sender_task
        while sender is not None and not sender.done():
            sender.cancel()  # once for the task itself, and once more for the request whose end it then waits for
            await asyncio.wait([sender], timeout=0.05)
        _give_up(self._producer._message_accumulator)  # not before: the task may still put that request's batch back
        await self._producer.stop()


def _give_up(accumulator: Any) -> None:
    """No batch is waited for any more.  Private names: aiokafka 0.14, to which we are pinned, has no call for it."""
    waiting = [batch for batches in accumulator._batches.values() for batch in batches]
    accumulator._pending_batches.update(waiting)  # where a batch that was sent before expects itself when it ends
    for batch in list(accumulator._pending_batches):
        batch.future.cancel()
        batch._drain_waiter.cancel()


def _over(batch: Any, future: asyncio.Future[Any]) -> None:
    """Nobody needs the bytes of a batch that was acknowledged, and aiokafka's sender holds on to its last one until it
    has the next: 30 MiB with 16 streams at rest (measured).  A private name: there is no call for it.

    A failed one may fail again at `close`, when nobody asks: asyncio would log it as never retrieved.
    """
    if not future.cancelled() and future.exception() is None:
        batch._buffer = b""
