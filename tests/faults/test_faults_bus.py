"""A real Kafka that is away, restarts, moves leadership or refuses a size, as `vmferry replicate` meets it.

Each ends with a message and a state that the next run completes, or is waited out.  What the bus itself promises in
these cases is in tests/interop/test_kafka_*.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from engine import places, registry
from engine.bus.kafka import settings
from engine.bus.kafka.bus import KafkaBus
from engine.errors import Transient, Unsafe
from schemas import topics
from tests.support import ferry as ferries
from tests.support.ferry import MEBI, Ferry, image, same, scribble, until
from tests.support.kafka import Broker, Cluster, free_port, running

T = TypeVar("T")
pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("kafka") / "cluster") as started:
        yield started


@pytest.fixture
def ferry(tmp_path: Path) -> Ferry:
    return Ferry(tmp_path / "state")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", 24 * MEBI)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "replica.img"


def _topic(ferry: Ferry) -> str:
    (stream,) = registry.Registry(places.Places(ferry.state)).streams()
    return topics.stream(stream.identity)


def _asked(cluster: Cluster, ask: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
    async def run() -> T:
        client = AIOKafkaAdminClient(bootstrap_servers=cluster.servers)
        await client.start()
        try:
            return await ask(client)
        finally:
            await client.close()

    return asyncio.run(run())


def _set(cluster: Cluster, topic: str, **changed: str) -> None:
    """The settings of a topic of ours, but for `changed`."""
    wanted = settings.wanted(1) | {name.replace("_", "."): value for name, value in changed.items()}
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, wanted)
    _asked(cluster, lambda client: client.alter_configs([resource]))


def test_a_broker_that_is_away_at_the_start_is_named_and_the_same_command_goes_on_once_it_is_there(
    ferry: Ferry, source: Path, target: Path, cluster: Cluster
) -> None:
    port = free_port()
    away = ferry.run("replicate", source, target, "--bus", f"kafka://127.0.0.1:{port}")
    assert away.code == Transient.exit_code
    assert f"Kafka is away: 0 of 1 brokers answer: nothing listens at 127.0.0.1:{port}" in away.err
    assert not target.exists()
    ferry.replicate(source, target, "--bus", cluster.url)
    assert same(source, target)


def test_a_broker_that_is_away_later_leaves_the_replica_where_it_is(
    ferry: Ferry, source: Path, target: Path, cluster: Cluster
) -> None:
    ferry.replicate(source, target, "--bus", cluster.url)
    before = target.read_bytes()
    scribble(source, 5 * MEBI, 100_000)
    cluster.brokers[0].kill()
    try:
        away = ferry.run("replicate", source, target)
        assert away.code == Transient.exit_code
        assert f"nothing listens at {cluster.servers}" in away.err
        assert target.read_bytes() == before
    finally:
        cluster.start()
    said = ferry.replicate(source, target)
    assert same(source, target)
    assert said["sent"] < MEBI // 4


def test_a_broker_that_restarts_in_the_middle_is_waited_for_and_nothing_is_lost(
    ferry: Ferry, source: Path, target: Path, cluster: Cluster
) -> None:
    goal = _on_disk(cluster.brokers[0]) + 10 * MEBI
    process = ferry.begin("replicate", source, target, "--bus", cluster.url, "--rate", "4M", "--json")
    until(lambda: _on_disk(cluster.brokers[0]) > goal)
    cluster.brokers[0].kill()
    cluster.start()
    found = ferries.ended(process, 120)
    if found.code:  # a machine on which the broker took longer than the patience of the bus
        assert found.code == Transient.exit_code
        assert "no acknowledgement within" in found.err or "did not come within" in found.err
        ferry.replicate(source, target)
    assert same(source, target)
    assert ferry.run("verify", target).code == 0


def _on_disk(broker: Broker) -> int:
    """Bytes of all streams in the broker's log."""
    return sum(path.stat().st_size for path in (broker.home / "data").glob("vmferry.*-0/*.log"))


def test_a_topic_that_refuses_our_sizes_is_refused_with_setting_and_value_before_anything_is_sent(
    ferry: Ferry, source: Path, target: Path, cluster: Cluster
) -> None:
    ferry.replicate(source, target, "--bus", cluster.url)
    before = target.read_bytes()
    topic = _topic(ferry)
    _set(cluster, topic, max_message_bytes="100000")
    scribble(source, 7 * MEBI, MEBI)
    found = ferry.run("replicate", source, target)
    assert found.code == Unsafe.exit_code
    assert f"Kafka topic {topic}: max.message.bytes=100000, must be 4194304: " in found.err
    assert f"--entity-name {topic} --add-config max.message.bytes=4194304" in found.err
    assert target.read_bytes() == before
    _set(cluster, topic)
    said = ferry.replicate(source, target)
    assert same(source, target)
    assert said["sent"] < 1.2 * MEBI


def test_a_size_that_is_refused_in_the_middle_ends_the_run_at_a_sealed_epoch(
    ferry: Ferry, source: Path, target: Path, cluster: Cluster
) -> None:
    image(source, MEBI)
    ferry.replicate(source, target, "--bus", cluster.url)
    topic = _topic(ferry)
    image(source, 24 * MEBI, seed=3)
    goal = _on_disk(cluster.brokers[0]) + 10 * MEBI
    process = ferry.begin("replicate", source, target, "--rate", "4M")
    until(lambda: _on_disk(cluster.brokers[0]) > goal)
    _set(cluster, topic, max_message_bytes="2000")
    found = ferries.ended(process)
    assert found.code == Unsafe.exit_code
    assert f"Kafka topic {topic} refuses a batch for its size: max.message.bytes must be 4194304" in found.err
    assert ferry.run("recover", target).code == 0
    assert ferry.run("verify", target).code == 0
    _set(cluster, topic)
    said = ferry.replicate(source, target, "--rate", "off")
    assert same(source, target)
    assert said["sent"] < 20 * MEBI, "what was sealed on the bus has travelled again"


def test_leadership_that_moves_in_the_middle_is_not_even_noticed(
    ferry: Ferry, source: Path, target: Path, tmp_path: Path
) -> None:
    with running(tmp_path / "cluster", 3) as three:
        process = ferry.begin("replicate", source, target, "--bus", three.url, "--rate", "3M", "--json")
        until(lambda: max(map(_on_disk, three.brokers)) > 6 * MEBI)
        leader = _leader(three, _topic(ferry))
        leader.kill()
        found = ferries.ended(process, 100)
        assert found.code == 0, found.err
        assert found.last["proved"]
        assert same(source, target)
        assert found.last["sent"] < 24 * MEBI * 1.02, "something travelled twice"


def _leader(cluster: Cluster, topic: str) -> Broker:
    """Who leads the topic now."""

    async def ask(client: AIOKafkaAdminClient) -> int:
        (described,) = await client.describe_topics([topic])
        return int(described["partitions"][0]["leader"])

    node = _asked(cluster, ask)
    return next(broker for broker in cluster.brokers if broker.node == node)


async def test_a_reader_of_a_broker_that_went_away_can_be_closed(cluster: Cluster) -> None:
    bus = await KafkaBus.connect(cluster.servers.split(","), patience=5)
    log = await bus.open("vmferry.closing", write=True)
    await log.append([b"one"])
    end = await log.sync()
    readers = [await bus.open("vmferry.closing") for _ in range(6)]
    for reader in readers:
        await reader.read(0, 100, 5)
    await log.close()
    cluster.brokers[0].kill()
    try:
        for reader in readers:
            with contextlib.suppress(Transient):
                await reader.read(end, 100, 0.3)
            await reader.close()  # a CancelledError from here would pass for one of ours, and end its side unsaid
        await bus.close()
    finally:
        await asyncio.to_thread(cluster.start)
