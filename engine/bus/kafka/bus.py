"""A Kafka cluster as a bus: one topic with one partition per stream, made by us where it is not there yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from engine import errors
from engine.bus.kafka import quiet, settings
from engine.bus.kafka.admin import Admin
from engine.bus.kafka.log import KafkaLog

ANSWER_SECONDS = 30.0
"""How long `sync` waits: a killed leader stalls a producer 4 s (measured with three brokers), a paused one 10."""
_log = logging.getLogger("vmferry.bus")


class KafkaBus:
    """The topics of one cluster.  Kafka has no lock for a writer: attempts in the records fence instead."""

    def __init__(self, admin: Admin, patience: float) -> None:
        self._admin, self._patience = admin, patience
        self._open: set[KafkaLog] = set()
        self._checked: set[str] = set()

    @classmethod
    async def connect(cls, servers: Sequence[str], patience: float = ANSWER_SECONDS) -> KafkaBus:
        """A bus on the cluster that one of `servers` (HOST:PORT) knows.  `patience`: seconds until `sync` gives up.

        Raises Transient, naming what is wrong with which server, when none of them answers.
        """
        quiet.install()
        return cls(await Admin.connect(servers, patience), patience)

    async def open(self, topic: str, write: bool = False, shared: bool = False) -> KafkaLog:
        """As ports.Bus.open.  The settings are read and checked by the first opening of each topic."""
        if topic not in self._checked:
            await self._prepare(topic)
            self._checked.add(topic)
        log = KafkaLog(topic, self._admin, self._patience, self._open.discard)
        self._open.add(log)
        if write:
            try:
                await log.start_writing()
            except BaseException:
                await log.close()
                raise
        return log

    async def _prepare(self, topic: str) -> None:
        if not await self._admin.exists(topic):
            copies = await self._copies()
            await self._admin.create(topic, copies, settings.wanted(copies))
        partitions = await self._admin.partitions(topic)
        settings.check_partitions(topic, len(partitions))
        copies = len(partitions[0])
        settings.check(topic, await self._admin.topic_settings(topic), copies, ",".join(self._admin.servers))
        brokers = len(await self._admin.brokers())
        if copies < min(settings.COPIES, brokers):
            _log.warning(
                "Kafka topic %s has %d copies on a cluster of %d brokers: make it %d with kafka-reassign-partitions.sh",
                topic, copies, brokers, min(settings.COPIES, brokers),
            )  # fmt: skip
        if copies == 1:
            _log.warning("Kafka topic %s has one copy: on one broker an acknowledgement is not on disk", topic)

    async def _copies(self) -> int:
        """Three; fewer on a cluster that has fewer brokers and does not say that it wants more."""
        brokers = len(await self._admin.brokers())
        usual = int((await self._admin.broker_settings()).get("default.replication.factor", "1"))
        copies = max(min(settings.COPIES, brokers), min(settings.COPIES, usual))
        if copies > brokers:
            raise errors.Transient(
                f"this Kafka cluster keeps {copies} copies (default.replication.factor), and {brokers} of its brokers "
                "answer: start the others first"
            )
        return copies

    async def exists(self, topic: str) -> bool:
        return await self._admin.exists(topic)

    async def delete(self, topic: str) -> None:
        await self._admin.delete(topic)
        self._checked.discard(topic)

    async def close(self) -> None:
        for log in list(self._open):
            await log.close()
        await self._admin.close()
