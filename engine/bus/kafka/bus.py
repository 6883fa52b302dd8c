"""A Kafka cluster as a bus: one topic with one partition per stream, made by us where it is not there yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from engine import errors
from engine.bus.kafka import quiet, settings, wrong
from engine.bus.kafka.access import Access
from engine.bus.kafka.admin import Admin, TooFew
from engine.bus.kafka.log import KafkaLog
from engine.bus.security import PLAIN, Security

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
    async def connect(
        cls, servers: Sequence[str], patience: float = ANSWER_SECONDS, security: Security = PLAIN
    ) -> KafkaBus:
        """A bus on the cluster that one of `servers` (HOST:PORT) knows.  `patience`: seconds until `sync` gives up.

        Raises Transient, naming what is wrong with which server, when none of them answers; Usage when they answer and
        will not serve us; Unsafe when a password would go in the clear.
        """
        quiet.install()
        return cls(await Admin.connect(Access(servers, security), patience), patience)

    async def open(self, topic: str, write: bool = False, shared: bool = False) -> KafkaLog:
        """As ports.Bus.open.  The settings are read and checked by the first opening of each topic."""
        if topic not in self._checked and await self._prepare(topic, write):
            self._checked.add(topic)
        log = KafkaLog(topic, self._admin, self._patience, self._open.discard, write)
        self._open.add(log)
        return log

    async def _prepare(self, topic: str, write: bool) -> bool:
        """Make the topic where it is not there, and check it.  False when its settings could not be seen."""
        if not await self._admin.exists(topic):
            await self._make(topic)
        partitions = await self._admin.partitions(topic)
        settings.check_partitions(topic, len(partitions))
        copies = len(partitions[0])
        found = await self._admin.topic_settings(topic)
        if found is not None:
            settings.check(topic, found, copies, ",".join(self._admin.access.servers))
        elif write:  # who only reads, as an auditor, loses nothing by settings
            raise wrong.forbidden(topic, "DescribeConfigs", self._admin.access.security.principal)
        await self._warn(topic, copies)
        return found is not None

    async def _warn(self, topic: str, copies: int) -> None:
        brokers = len(await self._admin.brokers())
        if copies < min(settings.COPIES, brokers):
            _log.warning(
                "Kafka topic %s has %d copies on a cluster of %d brokers: make it %d with kafka-reassign-partitions.sh",
                topic, copies, brokers, min(settings.COPIES, brokers),
            )  # fmt: skip
        if copies == 1:
            _log.warning("Kafka topic %s has one copy: on one broker an acknowledgement is not on disk", topic)

    async def _make(self, topic: str) -> None:
        usual = await self._admin.broker_settings()
        if usual is None:
            # We may not ask how many copies it wants.  It refuses more than it has brokers, and counts those that are
            # away, so the most that it takes is what a healthy cluster would have said.
            tried: Sequence[int] = range(settings.COPIES, 0, -1)
        else:
            tried = [await self._copies(int(usual.get("default.replication.factor", "1")))]
        said = ""
        for copies in tried:
            try:
                await self._admin.create(topic, copies, settings.wanted(copies))
                return
            except TooFew as why:
                said = str(why)
        raise errors.Usage(said)

    async def _copies(self, usual: int) -> int:
        """Three; fewer on a cluster that has fewer brokers and does not say that it wants more."""
        brokers = len(await self._admin.brokers())
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

    async def trouble(self) -> str:
        return await self._admin.roll.trouble()

    async def close(self) -> None:
        for log in list(self._open):
            await log.close()
        await self._admin.close()
