"""Daemons whose clock jumps while they run: nothing stops, nobody is fooled, and the difference is said."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.support.clocks import Clock
from tests.support.daemons import Sites
from tests.support.ferry import MEBI, image, same, scribble, until
from tests.support.kafka import Cluster

pytestmark = pytest.mark.timeout(400)
HOUR = 3600
YOUNG = 60.0
"""Seconds: an RPO in this test is below, however busy the machine, and far from the hour that a clock jumps."""
WORDS = 120.0
"""Seconds until a difference must be told: three words of a source, one every 30 at least."""


class Jumping:
    """Two sites, the clock of each with a mind of its own."""

    def __init__(self, home: Path, bus: str = "", **common: str) -> None:
        self.clocks = {side: Clock(home / f"{side}-clock") for side in ("source", "target")}
        inside = self.clocks["source"].before, self.clocks["target"].before
        self.sites = Sites(home, bus, inside=inside, **common)
        image(self.sites.disk("web"), 8 * MEBI)
        self.sites.serve("web", keep="30m")
        self._seed = 0

    def change(self) -> None:
        """Another 70,000 bytes of the disk."""
        self._seed += 1
        scribble(self.sites.disk("web"), self._seed % 7 * MEBI, 70_000, self._seed)

    def look(self) -> None:
        """Whatever the clocks say, all is well on both sides."""
        source, target = self.sites.source.stream(), self.sites.target.stream()
        for said in (source, target):
            assert (said["state"], said["restarts"]) == ("running", 0), said
        assert target["rpo_by"] == "its source's own word"
        assert 0 <= target["rpo_seconds"] < YOUNG
        assert 0 <= target["source_heard_seconds"] < YOUNG
        (replica,) = source["replicas"]
        assert 0 <= replica["rpo_seconds"] < YOUNG
        assert 0 <= source["current_seconds"] < YOUNG

    def until(self, what: Callable[[], object], patience: float = 60.0) -> None:
        """Wait, looking all the time."""

        def seen() -> bool:
            self.look()
            return bool(what())

        until(seen, patience)

    def replicates(self) -> None:
        """What is written now arrives, and is proved."""
        self.change()
        self.until(lambda: same(self.sites.disk("web"), self.sites.replica()))
        self.until(self.sites.proved())

    def differ(self, seconds: int) -> None:
        """The target tells that its clock is so far ahead of the source's."""

        def told() -> bool:
            source, target = self.sites.source.stream(), self.sites.target.stream()
            if target["proved_epoch"] == source["epoch"]:
                self.change()  # news is said sooner than every 30 seconds
            return bool(abs(target["clock_difference_seconds"] - seconds) < YOUNG)

        self.until(told, WORDS)


@pytest.fixture
def jumping(tmp_path: Path) -> Iterator[Jumping]:
    made = Jumping(tmp_path)
    try:
        made.sites.start()
        until(made.sites.proved())
        until(lambda: made.sites.target.stream()["rpo_by"] == "its source's own word")
        until(lambda: made.sites.source.stream()["replicas"][0]["rpo_seconds"] is not None)
        yield made
    finally:
        made.sites.stop()


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["an hour on", "an hour back"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_clock_that_jumps_stops_nothing_and_fools_nobody(jumping: Jumping, side: str, seconds: int) -> None:
    sites = jumping.sites
    kept = sites.source.stream()["log_bytes"]
    assert kept > 8 * MEBI, "what is applied is kept for half an hour"
    jumping.clocks[side].jump(seconds)
    ahead = seconds if side == "target" else -seconds
    jumping.differ(ahead)
    jumping.replicates()
    shown = sites.target.ferry.run("status").out
    where = "ahead of" if ahead > 0 else "behind"
    assert re.search(rf"our clock is (1 h 00 min|59 min \d\d s) {where} its clock", shown), shown
    for daemon in (sites.source, sites.target):
        assert daemon.ferry.run("status", "--check", "--max-rpo", "60s").code == 0
    assert sites.source.stream()["log_bytes"] >= kept, "what was written a minute ago is not half an hour old"
    jumping.clocks[side].jump(0)
    jumping.differ(0)
    jumping.replicates()
    assert sites.source.stream()["log_bytes"] >= kept
    sites.stop()
    assert sites.target.ferry.run("verify", "web").code == 0


def test_a_target_that_starts_again_behind_its_source_and_under_another_clock_is_not_fooled(jumping: Jumping) -> None:
    sites = jumping.sites
    jumping.clocks["target"].jump(HOUR)
    jumping.differ(HOUR)
    assert sites.target.ferry.run("pause", "web").code == 0
    until(lambda: sites.target.stream()["state"] == "paused")
    epoch = sites.source.stream()["epoch"]
    jumping.change()
    until(lambda: sites.source.stream()["epoch"] > epoch)
    sites.target.kill()
    sites.target.start()
    assert sites.target.stream()["rpo_by"].startswith("both sites' clocks")
    until(lambda: sites.target.stream()["rpo_by"] == "its source's clock")
    assert 0 < sites.target.stream()["rpo_seconds"] < 2 * YOUNG
    assert sites.target.ferry.run("resume", "web").code == 0
    until(sites.proved())


def test_a_source_that_starts_again_under_a_clock_set_back_keeps_no_longer_than_it_should(jumping: Jumping) -> None:
    sites = jumping.sites
    sites.source.stop()
    jumping.clocks["source"].jump(-HOUR)
    sites.source.config["streams"]["web"]["keep"] = "1s"
    sites.source.write()
    sites.source.start()
    until(sites.proved())
    jumping.change()
    until(lambda: sites.source.stream().get("log_bytes", 8 * MEBI) < MEBI)
    until(sites.proved())


@pytest.fixture
def on_kafka(tmp_path: Path, kafka: Cluster) -> Iterator[Jumping]:
    made = Jumping(tmp_path, kafka.url, prefix=f"clock-{tmp_path.name[-20:]}")
    try:
        made.sites.start()
        until(made.sites.proved())
        yield made
    finally:
        made.sites.stop()


async def _stamped(servers: str, topic: str, how: str) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=servers)
    await client.start()
    setting = {"message.timestamp.type": how}
    await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=setting)])
    await client.close()


def test_brokers_take_the_records_of_a_source_whose_clock_is_hours_ahead(on_kafka: Jumping, kafka: Cluster) -> None:
    sites = on_kafka.sites
    on_kafka.clocks["source"].jump(3 * HOUR)
    on_kafka.clocks["target"].jump(2 * HOUR)
    until(lambda: sites.target.stream()["rpo_by"] == "its source's own word")
    until(lambda: sites.source.stream()["replicas"][0]["rpo_seconds"] is not None)
    on_kafka.differ(-HOUR)
    on_kafka.replicates()
    # A topic that was not made by this version: its brokers believe the stamps of producers, within an hour.
    topic = f"{sites.source.config['prefix']}.{sites.source.stream()['stream']}"
    asyncio.run(_stamped(kafka.servers, topic, "CreateTime"))
    on_kafka.change()
    until(lambda: sites.source.stream()["state"] == "trouble")
    why = sites.source.stream()["why"]
    assert f"Kafka topic {topic} refuses the time stamps of this host" in why
    assert "`timedatectl`" in why
    on_kafka.clocks["source"].jump(0)
    until(lambda: same(sites.disk("web"), sites.replica()))
    until(sites.proved())
