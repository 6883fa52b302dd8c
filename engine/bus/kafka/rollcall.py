"""Which brokers of a cluster answer.  Reading goes on as long as one topic's leader lives, so it would not be seen."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import errors as kafka
from aiokafka.protocol.admin import ApiVersionRequest

from engine.bus.kafka import probe
from engine.bus.kafka.access import Access

_SECONDS = 5.0
"""For one broker, which has nothing to do for this answer."""


class RollCall:
    """Asks each broker over the one connection that `client` (aiokafka's) keeps to it."""

    def __init__(self, access: Access, client: Any) -> None:
        self._access, self._client = access, client
        self._seen: set[str] = set()
        "Addresses that brokers advertised at some time: one that is away is named by the cluster no more."

    async def trouble(self) -> str:
        """How many of the brokers answer, and what is wrong with the others; nothing when all answer."""
        brokers = {f"{one.host}:{one.port}": one.nodeId for one in self._client.cluster.brokers()}
        self._seen |= set(brokers)
        answered = await asyncio.gather(*map(self._answers, brokers.values()))
        if all(answered) and self._seen == set(brokers):
            return ""
        found = await probe.reach(self._access, sorted(self._seen))
        count, wrong = probe.told(found)
        return "" if count == len(found) else f"Kafka: {count} of {len(found)} brokers answer: {wrong}"

    async def _answers(self, node: int) -> bool:
        try:
            async with asyncio.timeout(_SECONDS):
                await self._client.send(node, ApiVersionRequest())
        except (TimeoutError, kafka.KafkaError):
            return False
        return True
