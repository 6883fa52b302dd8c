"""A real broker goes away and comes back: nothing acknowledged is lost, nobody waits for ever, trouble is said once."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from engine import errors
from engine.bus.kafka.bus import KafkaBus
from engine.bus.kafka.log import KafkaLog
from tests.support.kafka import Cluster, everything, running

PATIENCE = 3.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("kafka") / "cluster") as started:
        yield started


@pytest.fixture
def topic() -> str:
    return f"test.{uuid.uuid4()}"


@pytest.fixture
async def bus(cluster: Cluster) -> AsyncIterator[KafkaBus]:
    opened = await KafkaBus.connect(cluster.servers.split(","), PATIENCE)
    yield opened
    await opened.close()


async def test_a_broker_restarted_amid_appends_loses_nothing_that_was_acknowledged(
    bus: KafkaBus, cluster: Cluster, topic: str
) -> None:
    log = await bus.open(topic, write=True)
    number, spent, after = 0, 0, 50
    restart = asyncio.get_running_loop().run_in_executor(None, _kill_and_start, cluster)
    while after:
        after -= restart.done()
        try:
            await log.append([b"%06d" % number + bytes(20_000)])
            number += 1
            if number % 10 == 0:
                await log.sync()
        except errors.Transient:
            spent += 1
            await log.close()
            log, number = await _open_again(bus, topic)
    await restart
    await log.sync()
    seen = [int(data[:6]) for data in await everything(log)]
    assert spent, "the broker was never missed"
    assert list(dict.fromkeys(seen)) == list(range(number)), "a record is missing or out of order"


def _kill_and_start(cluster: Cluster) -> None:
    time.sleep(0.7)
    cluster.brokers[0].kill()
    time.sleep(PATIENCE + 1)
    cluster.start()


async def _open_again(bus: KafkaBus, topic: str) -> tuple[KafkaLog, int]:
    """A new handle, and the number that follows the last on the log: as every producer of vmferry goes on."""
    while True:
        log = None
        try:
            log = await bus.open(topic, write=True)
            found = await everything(log)
        except errors.Transient:
            if log is not None:
                await log.close()
            await asyncio.sleep(0.2)
            continue
        return log, int(found[-1][:6]) + 1 if found else 0


async def test_no_acknowledgement_in_time_is_said_with_who_answers(
    bus: KafkaBus, cluster: Cluster, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = await bus.open(topic, write=True)
    await log.append([b"one"])
    await log.sync()
    cluster.brokers[0].kill()
    try:
        await log.append([b"two"])
        began = time.monotonic()
        with pytest.raises(errors.Transient) as late:
            await log.sync()
        assert PATIENCE - 0.5 < time.monotonic() - began < 3 * PATIENCE
        assert f"no acknowledgement within {PATIENCE:g} s: 0 of 1 brokers answer" in str(late.value)
        assert f"nothing listens at {cluster.servers}" in str(late.value)
        with pytest.raises(errors.Transient, match="open the log again"):
            await log.append([b"three"])
        with pytest.raises(errors.Transient, match="nothing listens"):
            await log.ends()
        await bus.close()
        gc.collect()
    finally:
        cluster.start()
    assert "never retrieved" not in caplog.text
    assert len([record for record in caplog.records if record.name == "vmferry.bus"]) < 12


async def test_a_reader_that_waits_goes_on_when_the_broker_is_back(bus: KafkaBus, cluster: Cluster, topic: str) -> None:
    log = await bus.open(topic, write=True)
    await log.append([b"one"])
    end = await log.sync()
    reader = await bus.open(topic)
    assert [entry.data for entry in await reader.read(end - 1, 100, 5)] == [b"one"]
    await asyncio.to_thread(cluster.brokers[0].stop)
    assert list(await reader.read(end, 100, 0.5)) == []
    await asyncio.to_thread(cluster.start)
    await log.close()
    log = await bus.open(topic, write=True)
    await log.append([b"two"])
    await log.sync()
    assert [entry.data for entry in await reader.read(end, 100, 20)] == [b"two"]


async def test_a_record_that_is_there_and_does_not_come_is_said_with_who_answers(
    bus: KafkaBus, cluster: Cluster, topic: str
) -> None:
    log = await bus.open(topic, write=True)
    for _ in range(12):
        await log.append([bytes(1 << 20)] * 4)  # more than a reader fetches ahead
    end = await log.sync()
    reader = await bus.open(topic)
    at = (await reader.read(0, 1, 5))[-1].offset + 1

    async def read_on() -> None:
        nonlocal at
        while at < end:
            at = (await reader.read(at, 1 << 20, 5))[-1].offset + 1

    cluster.brokers[0].kill()
    try:
        began = time.monotonic()
        with pytest.raises(errors.Transient) as late:
            await read_on()
        assert time.monotonic() - began < 3 * PATIENCE + 5
        assert f"record {at} of {end} did not come within {PATIENCE:g} s: 0 of 1 brokers answer" in str(late.value)
        assert f"nothing listens at {cluster.servers}" in str(late.value)
    finally:
        await bus.close()
        cluster.start()


async def test_a_broker_that_hangs_is_not_waited_for_longer_than_said(
    bus: KafkaBus, cluster: Cluster, topic: str
) -> None:
    log = await bus.open(topic, write=True)
    await log.append([b"one"])
    await log.sync()
    cluster.brokers[0].pause()
    try:
        began = time.monotonic()
        await log.append([b"two"])
        with pytest.raises(
            errors.Transient, match=r"no acknowledgement within 3 s: 0 of 1 brokers answer .*does not answer"
        ):
            await log.sync()
        await log.close()
        assert time.monotonic() - began < 15
    finally:
        cluster.brokers[0].resume()


async def test_what_aiokafka_says_hundreds_of_times_is_said_once(
    bus: KafkaBus, cluster: Cluster, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    chatty = logging.getLogger("aiokafka.producer.sender")
    for _ in range(300):
        chatty.warning("Got error produce response: %s", topic)
    said = [record.getMessage() for record in caplog.records if record.name == "vmferry.bus"]
    assert [line for line in said if "Got error" in line] == [f"Kafka: Got error produce response: {topic}"]
