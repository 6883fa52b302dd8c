"""What a newer vmferry wrote is the trouble of its stream: a daemon starts, names it, and serves all others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import registry
from engine.daemon import wishes
from tests.support.daemons import Daemon, Sites
from tests.support.ferry import MEBI, image, until

pytestmark = pytest.mark.timeout(240)
OLD, GOOD = "old", "good"


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    """Two streams, both proved; both daemons have ended."""
    made = Sites(tmp_path)
    for number, name in enumerate((OLD, GOOD)):
        image(made.disk(name), MEBI, {0: 200_000}, seed=number)
        made.serve(name)
    try:
        made.start()
        until(lambda: all(made.replica(name).exists() for name in (OLD, GOOD)))
        until(made.proved(OLD))
        until(made.proved(GOOD))
        made.stop()
        yield made
    finally:
        made.stop()


def newer(daemon: Daemon, stream: str, pattern: str, known: int) -> str:
    """Raise the version of the one file of OLD below its state.  Gives what is to be said of it."""
    (path,) = (daemon.state / "streams" / stream).glob(pattern)
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": known + 1}))
    return f"{path} is of version {known + 1}, and this vmferry knows {known}"


def record(daemon: Daemon) -> str:
    """The UUID of OLD."""
    found = [path for path in daemon.state.glob("streams/*/stream.json") if f'"{OLD}"' in path.read_text()]
    assert len(found) == 1
    return found[0].parent.name


def well(sites: Sites) -> None:
    """The other stream is replicated as if nothing were."""
    image(sites.disk(GOOD), MEBI, {0: 300_000}, seed=7)
    until(lambda: sites.same(GOOD) and sites.proved(GOOD)())


@pytest.mark.parametrize("pattern", ["stream.json", "replica-*/replica.json"])
def test_a_target_leaves_a_newer_record_alone_and_serves_the_others(sites: Sites, pattern: str) -> None:
    words = newer(sites.target, record(sites.target), pattern, registry.VERSION)
    sites.target.config["accept"][0]["adopt"] = True  # the file of it is not taken for somebody's, either
    sites.target.write()
    before = sites.replica(OLD).read_bytes()
    image(sites.disk(OLD), MEBI, {0: 300_000}, seed=8)
    sites.start()
    well(sites)
    said = sites.target.ask("status")
    assert any(words in one for one in said["problems"])
    until(lambda: words in sites.target.stream(OLD).get("why", ""))
    assert sites.replica(OLD).read_bytes() == before
    assert words in sites.target.ferry.run("status").out
    judged = sites.target.ferry.run("status", "--check")
    assert judged.code == 2
    assert "cannot be read" in judged.out


@pytest.mark.parametrize("side", ["source", "target"])
def test_newer_wishes_are_the_trouble_of_their_stream(sites: Sites, side: str) -> None:
    daemon: Daemon = getattr(sites, side)
    stream = record(daemon)
    place = "source" if side == "source" else "replica-*"
    (directory,) = (daemon.state / "streams" / stream).glob(place)
    wishes.save(directory, wishes.Wishes(paused=True))
    words = newer(daemon, stream, f"{place}/{wishes.FILE}", wishes.VERSION)
    sites.start()
    well(sites)
    until(lambda: words in daemon.stream(OLD)["why"])
    refused = daemon.ferry.run("pause", OLD)
    assert refused.code != 0
    assert words in refused.err


def test_a_source_begins_no_stream_that_may_have_a_newer_record(sites: Sites) -> None:
    words = newer(sites.source, record(sites.source), "stream.json", registry.VERSION)
    sites.start()
    well(sites)
    until(lambda: words in sites.source.stream(OLD)["why"])
    assert len(list(sites.source.state.glob("streams/*/stream.json"))) == 2
