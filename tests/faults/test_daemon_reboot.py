"""A host that goes down in the middle of an epoch, or comes back without its state, while the other site goes on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, Sites
from tests.support.ferry import MEBI, copied, image, same, scribble, until
from tests.support.kafka import Cluster

pytestmark = pytest.mark.timeout(240)
UUID = "0e2c1b7a-58a3-4c1c-9d36-7d2a7a1f0b01"
CHANGE = 6 * MEBI
"""One epoch; at the rate below it takes long enough to be seen."""


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    yield from _running(Sites(tmp_path))


@pytest.fixture
def on_kafka(tmp_path: Path, kafka: Cluster) -> Iterator[Sites]:
    """Where records are seen before their epoch is whole; of an embedded log what is synced, often an epoch at once."""
    yield from _running(Sites(tmp_path, kafka.url, prefix=f"reboot-{tmp_path.name[-20:]}"))


def _running(made: Sites) -> Iterator[Sites]:
    image(made.disk("web"), 8 * MEBI)
    made.serve("web", id=UUID)
    try:
        made.start()
        until(made.proved())
        yield made
    finally:
        if not made.source.ended():
            made.source.send(signal.SIGCONT)
        made.stop()


def _in_the_middle(sites: Sites) -> tuple[Path, int]:
    """Bring both sides into the middle of an epoch.  Gives what the disk was before, and its epoch."""
    before, epoch = copied(sites.disk("web"), "before"), sites.target.stream()["epoch"]
    assert sites.source.ferry.run("rate", "web", "1M").code == 0
    undo = sites.target.stream()["undo_bytes"]
    sites.source.send(signal.SIGSTOP)  # it shall see all of the change at once
    scribble(sites.disk("web"), 0, CHANGE, seed=99)
    sites.source.send(signal.SIGCONT)
    until(lambda: sites.target.stream()["undo_bytes"] > undo + MEBI and not same(before, sites.replica()))
    assert sites.target.stream()["epoch"] == epoch
    return before, epoch


def _rebooted(daemon: Daemon) -> None:
    """What lies in its state is of a boot before: a socket, and locks of a process that is another one now."""
    assert daemon.socket.is_socket()
    locks = list(daemon.state.rglob("lock"))
    assert locks
    for lock in locks:
        lock.write_text(f"{os.getpid():<20}")
    daemon.start()


def test_a_target_that_went_down_within_an_epoch_takes_it_back_says_so_and_goes_on(on_kafka: Sites) -> None:
    sites = on_kafka
    before, epoch = _in_the_middle(sites)
    sites.source.send(signal.SIGSTOP)
    sites.target.kill()
    assert not same(before, sites.replica()), "it was not in the middle"
    _rebooted(sites.target)
    until(lambda: sites.target.stream().get("notes"))
    (note,) = sites.target.stream()["notes"]
    assert f"{sites.replica()} was in the middle of an epoch when it was last left" in note
    assert f"it was epoch {epoch} again" in note
    assert note in sites.target.log.read_text()
    assert f"  note     {note}" in sites.target.ferry.run("status").out
    assert (sites.target.stream()["epoch"], sites.target.stream()["proved_epoch"]) == (epoch, epoch)
    sites.target.kill()  # it has begun with that epoch once more, perhaps; without the daemon it is as easy
    recovered = sites.target.ferry.told("recover", "web")["replicas"][0]
    assert recovered["epoch"] == epoch
    assert same(before, sites.replica())
    assert sites.target.ferry.run("verify", "web").code == 0
    sites.target.start()
    sites.source.send(signal.SIGCONT)
    until(lambda: same(sites.disk("web"), sites.replica()))
    until(sites.proved())
    assert sites.source.stream()["restarts"] == 0


def test_a_source_that_went_down_within_an_epoch_sends_it_again_and_the_target_was_never_torn(on_kafka: Sites) -> None:
    sites = on_kafka
    before, epoch = _in_the_middle(sites)
    sites.source.kill()
    told = sites.target.stream()
    assert (told["state"], told["epoch"], told["proved_epoch"]) == ("running", epoch, epoch)
    released = sites.target.ferry.told("target", "release", "web")
    assert released["epoch"] == epoch
    assert same(before, sites.replica()), "with its source dead it is given away as its last epoch"
    assert sites.target.ferry.run("target", "acquire", "web").code == 0
    assert sites.source.state.joinpath("streams", UUID).is_dir()
    _rebooted(sites.source)
    until(lambda: same(sites.disk("web"), sites.replica()))
    until(sites.proved())
    assert sites.source.stream()["sent_bytes"] < CHANGE + MEBI
    assert sites.target.stream()["restarts"] == 0


def test_a_target_that_lost_its_state_while_the_source_goes_on_costs_what_differs(sites: Sites) -> None:
    sites.target.kill()
    shutil.rmtree(sites.target.state)
    scribble(sites.disk("web"), 2 * MEBI, 70_000)
    until(lambda: sites.source.stream()["current_epoch"] == sites.source.stream()["epoch"] > 1)
    before = sites.source.stream()["sent_bytes"]
    sites.target.start()
    until(lambda: sites.target.stream().get("state") == "unclaimed")
    why = sites.target.stream()["why"]
    assert str(sites.replica()) in why
    assert "adopt = true" in why
    assert sites.source.stream()["restarts"] == 0
    sites.target.config["accept"][0]["adopt"] = True
    sites.target.reload()
    until(lambda: same(sites.disk("web"), sites.replica()))
    until(sites.proved())
    assert sites.source.stream()["sent_bytes"] - before < MEBI // 2, "what differs, and the tree that tells it"


@pytest.mark.parametrize("what", ["state", "stream", "map"])
def test_a_source_that_lost_its_state_while_the_target_goes_on_costs_what_differs(sites: Sites, what: str) -> None:
    source = sites.source.state / "streams" / UUID / "source"
    lost = {"state": sites.source.state, "stream": source, "map": source / "0.digests"}[what]
    sites.source.kill()
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    scribble(sites.disk("web"), 2 * MEBI, 70_000)
    sites.source.start()
    until(lambda: same(sites.disk("web"), sites.replica()))
    until(sites.proved())
    assert sites.source.stream()["sent_bytes"] < MEBI // 2, "what differs, and the tree that tells it"
    assert (sites.target.stream()["restarts"], sites.target.stream()["stream"]) == (0, UUID)


def test_a_source_that_lost_its_whole_state_and_has_no_id_of_its_own_is_another_stream(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    image(sites.disk("web"), MEBI)
    sites.serve("web")
    try:
        sites.start()
        until(sites.proved())
        first = sites.target.stream()["stream"]
        sites.source.kill()
        shutil.rmtree(sites.source.state)
        before = sites.replica().read_bytes()
        sites.source.start()
        until(lambda: len(sites.target.ask("status")["streams"]) == 2)
        (other,) = [one for one in sites.target.ask("status")["streams"] if one["stream"] != first]
        assert other["state"] == "unclaimed"
        assert str(sites.replica()) in other["why"]
        assert sites.replica().read_bytes() == before
    finally:
        sites.stop()
