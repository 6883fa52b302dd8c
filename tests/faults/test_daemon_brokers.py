"""Two daemons, and brokers that die: both say how many answer, and go on where they were."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, Sites
from tests.support.ferry import MEBI, image, same, scribble, until
from tests.support.kafka import Cluster, running

pytestmark = pytest.mark.timeout(400)
TELLS = 45.0
"""Seconds within which both sides name it: a look every 10, 5 for each of two kinds of asking, and a busy machine."""
GIVES_UP = 120.0
"""The same for a stream: a record is given up after 30, and what the copies are is asked in vain."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running(tmp_path / "cluster", 3) as started:
        yield started


@pytest.fixture
def sites(tmp_path: Path, cluster: Cluster) -> Iterator[Sites]:
    made = Sites(tmp_path / "sites", cluster.url)
    image(made.disk("web"), 16 * MEBI)
    made.serve("web")
    try:
        yield made.start()
    finally:
        made.stop()


def _tells(daemon: Daemon, words: str) -> None:
    until(lambda: words in daemon.ask("status")["bus_trouble"], TELLS)


def test_two_of_three_brokers_dead_are_named_on_both_sides_and_what_was_written_arrives(
    sites: Sites, cluster: Cluster
) -> None:
    until(sites.proved(), 120)
    both = (sites.source, sites.target)
    assert [daemon.ask("status")["bus_trouble"] for daemon in both] == ["", ""]
    sent = sites.source.stream()["sent_bytes"]
    dead = cluster.brokers[:2]
    for broker in dead:
        broker.kill()
    scribble(sites.disk("web"), 3 * MEBI, 500_000)
    for daemon in both:
        _tells(daemon, "1 of 3 brokers answer: ")
        trouble = daemon.ask("status")["bus_trouble"]
        assert all(f"nothing listens at {broker.server}" in trouble for broker in dead)
        assert f"warning: the bus: {trouble}" in daemon.ferry.run("status").out
        judged = daemon.ferry.run("status", "--check", "--max-rpo", "10m")
        assert judged.code
        assert "bus away (Kafka: 1 of 3 brokers answer" in judged.out
    until(lambda: sites.source.stream()["state"] == "trouble", GIVES_UP)
    assert "1 of 3 brokers answer" in sites.source.stream()["why"]
    assert not same(sites.disk("web"), sites.replica())
    for broker in dead:
        broker.start()
    for broker in dead:
        broker.wait_ready()
    until(lambda: [daemon.ask("status")["bus_trouble"] for daemon in both] == ["", ""], TELLS)
    until(lambda: same(sites.disk("web"), sites.replica()), GIVES_UP)
    until(sites.proved(), GIVES_UP)
    assert sites.source.stream()["sent_bytes"] < sent / 4, "what is on its way may travel again, the disk does not"


def test_a_target_whose_brokers_all_die_says_so_and_applies_what_comes_when_they_return(
    sites: Sites, cluster: Cluster
) -> None:
    until(sites.proved(), 120)
    cluster.kill()
    began = time.monotonic()
    _tells(sites.target, "0 of 3 brokers answer: ")
    until(lambda: sites.target.stream()["state"] == "trouble", GIVES_UP)
    assert "Kafka" in sites.target.stream()["why"]
    assert "0 of 3 brokers answer" in sites.target.stream()["why"]
    print(f"its stream said so after {time.monotonic() - began:.0f} s")
    scribble(sites.disk("web"), 9 * MEBI, 70_000)
    cluster.start()
    until(lambda: same(sites.disk("web"), sites.replica()), GIVES_UP)
    until(sites.proved(), GIVES_UP)
    for daemon in (sites.source, sites.target):
        until(lambda: daemon.ask("status")["bus_trouble"] == "", TELLS)  # noqa: B023  # it is called at once
