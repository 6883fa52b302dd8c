"""What we ask a cluster beside reading and writing: topics, settings, who answers, and to let go of records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from engine import errors
from engine.bus.kafka import probe, trouble
from engine.bus.kafka.access import Access
from engine.bus.kafka.rollcall import RollCall

T = TypeVar("T")

_PAUSE_SECONDS = 0.1
_TRY_SECONDS = 5.0
"""For one try.  aiokafka waits for ever for a broker that it takes for the controller and that is gone: before the next
try it learns which brokers there are."""


class TooFew(errors.Usage):
    """The cluster has fewer brokers than a topic should have copies.  For KafkaBus, which tries fewer."""


class Admin:
    """One client for all topics of a bus.  Every call tries again until `patience` seconds are over."""

    def __init__(self, access: Access, patience: float) -> None:
        self.access = access
        self._patience = patience
        self._asker: Any = None
        self._asking = asyncio.Lock()
        self._client = AIOKafkaAdminClient(**access.options())
        self.roll = RollCall(access, self._client._client)

    @classmethod
    async def connect(cls, access: Access, patience: float) -> Admin:
        """Raises Transient, or Usage or Unsafe where the operator must act, naming what is wrong with which server."""
        admin = cls(access, patience)
        try:
            await admin._client.start()
            # So far only the servers we were given have been spoken to; from now on it is those that they name.
            access.check_wire(admin._advertised())
        except (kafka.KafkaError, ValueError) as why:
            await admin.close()
            raise await admin.unreachable(str(why)) from why
        except BaseException:
            await admin.close()
            raise
        return admin

    def _advertised(self) -> list[str]:
        """The addresses under which the brokers want to be spoken to, as far as they are known."""
        return [f"{broker.host}:{broker.port}" for broker in self._client._client.cluster.brokers()]

    async def unreachable(self, said: str) -> errors.FerryError:
        """Why a request came to nothing: Usage when the operator must act before any broker serves us, else Transient.

        A cluster is used by the addresses that its brokers advertise, so these are asked as well, and decide.
        """
        advertised = self._advertised()
        found = await probe.reach(self.access, [*self.access.servers, *advertised])
        deciding = [found[server] for server in advertised or self.access.servers]
        if None not in deciding:
            for why in deciding:
                if isinstance(why, (errors.Usage, errors.Unsafe, errors.NotFound)):
                    return why
        count, trouble_with = probe.told(found)
        answering = f"{count} of {len(found)} brokers answer"
        if count == len(found):  # again, by now
            return errors.Transient(f"Kafka did not do what it was asked ({said}), and {answering}")
        return errors.Transient(f"Kafka is away: {answering}: {'; '.join(filter(None, (trouble_with, said)))}")

    def classify(self, topic: str, why: BaseException, operation: str) -> errors.FerryError:
        """`trouble.classify`, knowing who we are."""
        return trouble.classify(topic, why, operation, self.access.security.principal)

    async def exists(self, topic: str) -> bool:
        """By the list of all topics: to ask for one by its name would make it on clusters that create by themselves."""
        return topic in await self._ask(topic, self._client.list_topics)

    async def create(self, topic: str, copies: int, settings: Mapping[str, str]) -> None:
        """Make the topic with one partition; harmless when another process was faster.

        Raises TooFew when the cluster has not as many brokers as it should have copies.
        """
        made = NewTopic(topic, num_partitions=1, replication_factor=copies, topic_configs=dict(settings))
        response = await self._ask(topic, lambda: self._client.create_topics([made]))
        for name, code, *said in response.topic_errors:
            kind = kafka.for_code(code)
            if kind is kafka.InvalidReplicationFactorError:
                raise TooFew(f"Kafka topic {name}: the cluster refuses: {kind(*said)}")
            if kind not in (kafka.NoError, kafka.TopicAlreadyExistsError):
                raise self.classify(name, kind(*said), "Create")

    async def delete(self, topic: str) -> None:
        """Remove the topic; harmless when it is not there."""
        response = await self._ask(topic, lambda: self._client.delete_topics([topic]))
        for name, code in response.topic_error_codes:
            kind = kafka.for_code(code)
            if kind not in (kafka.NoError, kafka.UnknownTopicOrPartitionError):
                raise self.classify(name, kind(), "Delete")

    async def partitions(self, topic: str) -> list[list[int]]:
        """For each partition the brokers that keep a copy.  Waits until all of them have a leader."""
        found = await self._ask(topic, lambda: self._led(topic))
        return [list(partition["replicas"]) for partition in found]

    async def in_sync(self, topic: str) -> tuple[int, int]:
        """(copies in sync, copies) of the partition."""

        async def once() -> tuple[int, int]:
            ((partition,),) = [one["partitions"] for one in await self._client.describe_topics([topic])]
            return len(partition["isr"]), len(partition["replicas"])

        return await self._ask(topic, once)

    async def _led(self, topic: str) -> list[Any]:
        described = await self._client.describe_topics([topic])
        found: list[Any] = described[0]["partitions"]
        if kafka.for_code(described[0]["error_code"]) is kafka.TopicAuthorizationFailedError:
            raise kafka.TopicAuthorizationFailedError
        if described[0]["error_code"] or not found or any(partition["leader"] < 0 for partition in found):
            raise kafka.LeaderNotAvailableError
        return found

    async def topic_settings(self, topic: str) -> dict[str, str] | None:
        """None when we may not see them."""
        return await self._settings(topic, ConfigResourceType.TOPIC, topic)

    async def broker_settings(self) -> dict[str, str] | None:
        """Of any one broker.  None when we may not see them: that is a right on the cluster, which no role needs."""
        broker = str((await self.brokers())[0])
        return await self._settings(f"(settings of broker {broker})", ConfigResourceType.BROKER, broker)

    async def _settings(self, what: str, kind: ConfigResourceType, name: str) -> dict[str, str] | None:
        async def once() -> dict[str, str] | None:
            (response,) = await self._client.describe_configs([ConfigResource(kind, name)])
            ((code, said, _, _, entries),) = response.resources
            if kafka.for_code(code) in trouble.FORBIDDEN:
                return None
            if code:
                raise kafka.for_code(code)(said)
            return {entry[0]: entry[1] for entry in entries}

        return await self._ask(what, once, "DescribeConfigs")

    async def brokers(self) -> list[int]:
        """The brokers that the cluster counts as alive."""

        async def once() -> list[int]:
            described = await self._client.describe_cluster()
            return [broker["node_id"] for broker in described["brokers"]]

        return await self._ask("(cluster)", once)

    async def ends(self, partition: TopicPartition) -> tuple[int, int]:
        """(begin, end) of `partition`.  By a consumer of its own: one that fetches answers nothing else meanwhile."""
        async with self._asking:
            if self._asker is None:
                self._asker = await self.consumer()
        asker = self._asker

        async def once() -> tuple[int, int]:
            try:
                begin, end = await asyncio.gather(asker.beginning_offsets([partition]), asker.end_offsets([partition]))
            except kafka.KafkaError as why:
                # aiokafka takes a topic that it may not describe for one whose leader is not known yet.
                if partition.topic in asker._client.cluster.unauthorized_topics:
                    raise kafka.TopicAuthorizationFailedError(partition.topic) from why
                raise
            return int(begin[partition]), int(end[partition])

        try:
            return await self._ask(partition.topic, once)
        except errors.Transient:
            _hang_up(asker)
            raise

    async def consumer(self, **options: Any) -> Any:
        """A started consumer, of no group and at no offset.  Raises Transient when the cluster is away."""
        made = _Consumer(
            self, group_id=None, enable_auto_commit=False, auto_offset_reset="none", **self.access.options(), **options
        )
        try:
            async with asyncio.timeout(self._patience):
                await made.start()
        except BaseException as why:
            await made.stop()
            if isinstance(why, (TimeoutError, kafka.KafkaError)):
                raise await self.unreachable(str(why)) from why
            raise
        return made

    async def trim(self, topic: str, offset: int) -> None:
        """Let go of all below `offset`; nothing happens when it is gone already.  Raises OffsetOutOfRangeError (of
        aiokafka) above the end."""
        partition = TopicPartition(topic, 0)
        await self._ask(topic, lambda: self._client.delete_records({partition: RecordsToDelete(offset)}), "Delete")

    async def _ask(self, topic: str, call: Callable[[], Awaitable[T]], operation: str = "Describe") -> T:
        """The answer to `call`, which is repeated on passing trouble.  Raises what `classify` makes of it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            try:
                async with asyncio.timeout(min(_TRY_SECONDS, deadline - loop.time())):
                    return await call()
            except kafka.OffsetOutOfRangeError:
                raise
            except TimeoutError as why:
                if loop.time() + _PAUSE_SECONDS > deadline:
                    raise await self.unreachable("no answer in time") from why
                self._client._client.force_metadata_update()
            except kafka.KafkaError as why:
                if loop.time() + _PAUSE_SECONDS > deadline:
                    raise await self.unreachable(str(why)) from why
                if not _passing(why):
                    raise self.classify(topic, why, operation) from why
            await asyncio.sleep(_PAUSE_SECONDS)

    async def close(self) -> None:
        """Repeatable."""
        asker, self._asker = self._asker, None
        if asker is not None:
            await asker.stop()
        await self._client.close()


def _hang_up(consumer: Any) -> None:
    """Its next request makes a new connection.  aiokafka keeps one on which it gave up a question for offsets, and when
    a link comes back TCP has doubled its pauses: after a cut of 36 s the answer came 18 s late (measured)."""
    for connection in list(consumer._client._conns.values()):
        connection.close()


class _Consumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka comes without types
    """One that says who may not read."""

    def __init__(self, admin: Admin, **options: Any) -> None:
        super().__init__(**options)
        self._admin = admin

    async def getmany(self, *partitions: Any, **options: Any) -> Any:
        try:
            return await super().getmany(*partitions, **options)
        except kafka.TopicAuthorizationFailedError as why:
            raise self._admin.classify(partitions[0].topic, why, "Read") from why


def _passing(why: kafka.KafkaError) -> bool:
    connection = (kafka.KafkaConnectionError, kafka.NodeNotReadyError, kafka.StaleMetadata, kafka.KafkaTimeoutError)
    return isinstance(why, connection) or bool(getattr(why, "retriable", False))
