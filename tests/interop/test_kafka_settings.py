"""A real broker: topics are made as they must be, and those under which records could be lost are refused by name."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from engine import errors, ports
from engine.bus.connect import connect
from engine.bus.kafka import settings
from engine.bus.kafka.bus import KafkaBus
from tests.support.kafka import Cluster, free_port


@pytest.fixture
async def admin(kafka: Cluster) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
    await client.start()
    yield client
    await client.close()


@pytest.fixture
async def bus(kafka: Cluster) -> AsyncIterator[KafkaBus]:
    opened = await KafkaBus.connect(kafka.servers.split(","))
    yield opened
    await opened.close()


async def _make(admin: AIOKafkaAdminClient, changed: dict[str, str], partitions: int = 1) -> str:
    """A topic as vmferry makes it, but for `changed`."""
    topic = f"test.{uuid.uuid4()}"
    made = settings.wanted(1) | changed
    await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=made)])
    return topic


async def test_a_topic_is_made_with_one_partition_and_kept_for_ever(bus: KafkaBus, admin: AIOKafkaAdminClient) -> None:
    topic = f"test.{uuid.uuid4()}"
    await bus.open(topic)
    (described,) = await admin.describe_topics([topic])
    assert len(described["partitions"]) == 1
    (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    found = {entry[0]: entry[1] for entry in response.resources[0][4]}
    assert {name: found[name] for name in settings.wanted(1)} == settings.wanted(1)
    assert (found["retention.ms"], found["retention.bytes"], found["cleanup.policy"]) == ("-1", "-1", "delete")


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("max.message.bytes", "1048588", "4194304"),
        ("retention.ms", "604800000", "-1"),
        ("retention.bytes", "1073741824", "-1"),
        ("cleanup.policy", "compact", "delete"),
        ("cleanup.policy", "compact,delete", "delete"),
        ("unclean.leader.election.enable", "true", "false"),
        ("compression.type", "gzip", "producer"),
    ],
)
async def test_a_dangerous_setting_is_refused_with_its_value_the_right_one_and_the_command(
    bus: KafkaBus, admin: AIOKafkaAdminClient, kafka: Cluster, name: str, value: str, right: str
) -> None:
    topic = await _make(admin, {name: value})
    with pytest.raises(errors.Unsafe) as refused:
        await bus.open(topic, write=True)
    said = str(refused.value)
    assert f"{topic}: {name}={value}, must be {right}: " in said
    assert (
        f"kafka-configs.sh --bootstrap-server {kafka.servers} --alter --entity-type topics --entity-name {topic} "
        f"--add-config {name}={right}" in said
    )


async def test_all_wrong_settings_are_named_at_once(bus: KafkaBus, admin: AIOKafkaAdminClient) -> None:
    topic = await _make(admin, {"retention.ms": "1000", "max.message.bytes": "1000"})
    with pytest.raises(errors.Unsafe, match=r"--add-config retention.ms=-1,max.message.bytes=4194304$"):
        await bus.open(topic)


async def test_a_topic_with_two_partitions_is_refused(bus: KafkaBus, admin: AIOKafkaAdminClient) -> None:
    topic = await _make(admin, {}, partitions=2)
    with pytest.raises(errors.Unsafe, match="has 2 partitions, must be 1"):
        await bus.open(topic)


async def test_the_smallest_setting_that_is_accepted_takes_our_largest_batches(
    bus: KafkaBus, admin: AIOKafkaAdminClient
) -> None:
    topic = await _make(admin, {"max.message.bytes": str(settings.BATCH)})
    log = await bus.open(topic, write=True)
    await log.append([bytes(700)] * 9000)
    await log.append([bytes(1 << 20)] * 3)
    await log.append([bytes(settings.BATCH - 1024)])
    assert await log.sync() == 9004


async def test_a_setting_that_is_lowered_later_spends_the_handle_and_is_named(
    bus: KafkaBus, admin: AIOKafkaAdminClient
) -> None:
    topic = await _make(admin, {})
    log = await bus.open(topic, write=True)
    await log.append([b"one"])
    await log.sync()
    lowered = settings.wanted(1) | {"max.message.bytes": "2000"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, lowered)])
    with pytest.raises(errors.Unsafe, match=r"max\.message\.bytes must be 4194304"):
        await _until_refused(log)
    with pytest.raises(errors.Transient, match="open the log again"):
        await log.append([b"two"])


async def _until_refused(log: ports.Log) -> None:
    for _ in range(200):
        await log.append([bytes(100_000)])
        await log.sync()


async def test_a_record_that_no_batch_can_hold_is_refused_before_it_is_sent(bus: KafkaBus) -> None:
    log = await bus.open(f"test.{uuid.uuid4()}", write=True)
    with pytest.raises(errors.Unsafe, match="a record of 2097152 bytes; at most 2096128"):
        await log.append([bytes(settings.BATCH)])


async def test_one_broker_is_not_refused_and_what_it_means_is_said(
    bus: KafkaBus, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vmferry.bus"):
        await bus.open(f"test.{uuid.uuid4()}")
    assert "on one broker an acknowledgement is not on disk" in caplog.text


async def test_a_broker_that_is_not_there_is_named() -> None:
    port, other = free_port(), free_port()
    with pytest.raises(errors.Transient) as away:
        await connect(f"kafka://127.0.0.1:{port},127.0.0.1:{other}")
    assert f"nothing listens at 127.0.0.1:{port}; nothing listens at 127.0.0.1:{other}" in str(away.value)
    assert "0 of 2 brokers answer" in str(away.value)


async def test_one_good_address_of_several_is_enough(kafka: Cluster) -> None:
    bus = await connect(f"kafka://127.0.0.1:{free_port()},{kafka.servers}")
    assert not await bus.exists("test.none")
    await bus.close()
