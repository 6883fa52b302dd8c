"""An upgrade as docs/DAEMONS.md has it: targets first, then sources, while everything goes on; and what it costs."""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import envelope
from engine.bus import connect
from schemas import events, topics
from tests.support.daemons import Daemon, Sites
from tests.support.ferry import MEBI, image, scribble, until
from tests.support.kafka import Cluster, everything

pytestmark = pytest.mark.timeout(300)
BIG, SMALL = 128 * MEBI, 4 * MEBI
AGAIN = 0.01
"""The most that may travel twice, of what is on the bus."""
BLOCK = 65536


class Load:
    """Writes into the small disk again and again, never the same bytes."""

    def __init__(self, disk: Path) -> None:
        self._disk, self._stop = disk, threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        chance = random.Random(1)
        while not self._stop.wait(0.4):
            scribble(self._disk, chance.randrange(SMALL - 9000), 9000, chance.randrange(1 << 30))


@pytest.fixture
def sites(kafka: Cluster, tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path, kafka.url, prefix=f"vmferry-{uuid.uuid4().hex[:8]}")
    image(made.disk("big"), BIG)
    image(made.disk("small"), SMALL)
    made.serve("big", rate="12M", keep="1h")  # nothing is trimmed: all that travelled can be looked at
    made.serve("small", keep="1h")
    try:
        yield made
    finally:
        made.stop()


def _restart(daemon: Daemon) -> None:
    """As `systemctl restart` does.  It comes to its good end, is another process, and its streams have no trouble."""
    before = daemon.ask("status")
    assert daemon.stop() == 0
    daemon.start()
    said = daemon.ask("status")
    assert said["pid"] != before["pid"]
    assert said["started"] > before["started"]
    until(lambda: {one["state"] for one in daemon.ask("status")["streams"]} <= {"running", "waiting"})
    until(lambda: all(one["epoch"] >= _epoch(before, one["label"]) for one in daemon.ask("status")["streams"]))
    assert {one["restarts"] for one in daemon.ask("status")["streams"]} == {0}


def _epoch(said: dict[str, Any], label: str) -> int:
    return next((one.get("epoch") or 0 for one in said["streams"] if one["label"] == label), 0)


async def _records(bus: str, topic: str) -> list[bytes]:
    opened = await connect.connect(bus)
    try:
        return await everything(await opened.open(topic))
    finally:
        await opened.close()


def _travelled(records: list[bytes]) -> tuple[int, int]:
    """Bytes of data in records, and how many of them had travelled before and changed nothing."""
    total = again = 0
    known: dict[int, bytes] = {}
    for _, event in map(envelope.event, records):
        if isinstance(event, events.Zeroed):
            for block in range(event.start // BLOCK, -(-(event.start + event.length) // BLOCK)):
                known.pop(block, None)
        if not isinstance(event, events.Written):
            continue
        for at in range(0, len(event.data), BLOCK):
            block, data = (event.start + at) // BLOCK, event.data[at : at + BLOCK]
            total += len(data)
            again += len(data) if known.get(block) == data else 0
            known[block] = data
    return total, again


def test_both_sides_are_upgraded_under_load_and_next_to_nothing_travels_twice(sites: Sites) -> None:
    sites.start()
    with Load(sites.disk("small")):
        until(lambda: sites.source.stream("big").get("sent_bytes", 0) > BIG / 8)
        _restart(sites.target)  # in the middle of a baseline
        until(lambda: (sites.target.stream("big").get("epoch") or 0) > 10)
        _restart(sites.source)
        until(lambda: sites.source.stream("big").get("missing_bytes", BIG) < BIG / 4)
        _restart(sites.target)
        _restart(sites.source)
        until(sites.proved("big"))
        _restart(sites.target)  # and when all there is is the load
        _restart(sites.source)
    for name in ("big", "small"):
        until(sites.proved(name))
        assert sites.same(name)
        own, said = sites.source.stream(name), sites.target.stream(name)
        assert said["proved_epoch"] == own["epoch"] == own["replicas"][0]["proved_epoch"]
        topic = topics.stream(uuid.UUID(own["stream"]).bytes, str(sites.source.config["prefix"]))
        records = asyncio.run(_records(sites.source.config["bus"], topic))
        total, again = _travelled(records)
        assert total >= sites.disk(name).stat().st_size, "all of it travelled, and all of it is looked at"
        assert again <= AGAIN * total, f"{again:,} of {total:,} bytes of {name} travelled twice"
        if name == "big":
            assert _travelled(2 * records)[1] == again + total, "what travels twice is seen"
