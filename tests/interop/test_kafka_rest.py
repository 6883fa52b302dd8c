"""A reader that nobody reads from holds nothing: neither a consumer nor what one would fetch ahead."""

from __future__ import annotations

import asyncio
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
