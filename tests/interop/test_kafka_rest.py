"""What rests holds nothing: a reader no consumer and nothing that was fetched ahead, a writer no batch it has sent."""

from __future__ import annotations

import asyncio
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.bus.kafka import reader
from engine.bus.kafka.bus import KafkaBus
from tests.support.ferry import until
from tests.support.kafka import Cluster, everything, running


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running(tmp_path / "cluster") as started:
        yield started


async def test_what_rests_lets_go_and_reads_on_when_it_is_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_REST", 0.2)
    bus = await KafkaBus.connect(cluster.servers.split(","))
    log = await bus.open(f"test.{uuid.uuid4()}", write=True)
    await log.append([b"first", b"second"])
    await log.sync()
    assert await everything(log) == [b"first", b"second"]
    inner = log._reader
    await asyncio.to_thread(until, lambda: inner._consumer is None)
    await log.append([b"third"])
    await log.sync()
    assert [one.data for one in await log.read(2, 1 << 20, 30.0)] == [b"third"]
    assert inner._consumer is not None
    await bus.close()
    assert inner._consumer is None


async def test_a_batch_that_was_acknowledged_is_held_by_nobody(cluster: Cluster) -> None:
    bus = await KafkaBus.connect(cluster.servers.split(","))
    log = await bus.open(f"test.{uuid.uuid4()}", write=True)
    await log.append([b"what connecting takes is not counted"])
    await log.sync()
    tracemalloc.start()
    try:
        for _ in range(3):
            await log.append([bytes(600 << 10)] * 3)
            await log.sync()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak > 1800 << 10
    assert held < 200 << 10
    assert len(await everything(log)) == 10
    await bus.close()
