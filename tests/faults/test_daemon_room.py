"""Daemons whose disks are full: that stream waits and says what it wants, the others go on, nothing is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemon, Sites
from tests.support.ferry import MEBI, copied, image, same, scribble, until
from tests.support.room import Small, small

pytestmark = pytest.mark.timeout(240)
WEB, DB = "0e2c1b7a-58a3-4c1c-9d36-7d2a7a1f0a01", "0e2c1b7a-58a3-4c1c-9d36-7d2a7a1f0a02"


@contextlib.contextmanager
def _sites(home: Path) -> Iterator[Sites]:
    """Two streams: `web`, whose disk will be full, and `db`."""
    made = Sites(home)
    for name, identity in (("web", WEB), ("db", DB)):
        image(made.disk(name), 12 * MEBI, {0: 2 * MEBI})
        made.serve(name, id=identity, block_size=4096)
    try:
        yield made
    finally:
        made.stop()


def _begin(sites: Sites) -> None:
    sites.start()
    until(lambda: sites.proved()() and sites.proved("db")())


def _waits_for_room(sites: Sites, daemon: Daemon, place: Path, streams: tuple[str, ...] = ("web",)) -> None:
    """Each of `streams` says that there is no room at `place`, and what to do; monitoring is told."""
    for name in streams:
        found: dict[str, Any] = {}

        def in_trouble() -> bool:
            found.update(daemon.stream(name))  # noqa: B023  # it is called at once
            return bool(found["state"] == "trouble")  # noqa: B023

        until(in_trouble)
        why = found["why"]
        assert str(place) in why
        assert "no space left" in why
        assert "free some" in why
        assert "bug" not in why
    # Between two tries it is being opened, and that is no trouble yet.
    until(lambda: daemon.ferry.run("status", "--check").code in (1, 2))
    until(lambda: "state    trouble: " in daemon.ferry.run("status", "web").out)


def _goes_on(sites: Sites, name: str) -> None:
    """What is written to this stream now arrives, with no trouble on either side."""
    scribble(sites.disk(name), 9 * MEBI, 200_000, seed=77)
    until(lambda: same(sites.disk(name), sites.replica(name)))
    until(sites.proved(name))


def _replica_at(sites: Sites, place: Path) -> None:
    rules = sites.target.config["accept"]
    rules.insert(0, {"streams": "site-a/web", "path": f"{place}/{{site}}-{{name}}.img"})
    sites.target.write()


def test_a_replica_without_room_waits_at_its_last_epoch_and_the_other_goes_on(tmp_path: Path) -> None:
    with small(tmp_path / "small", 10 * MEBI) as disk, _sites(tmp_path / "sites") as sites:
        _replica_at(sites, disk.place)
        replica = disk.place / "site-a-web.img"
        _begin(sites)
        before, epoch = copied(sites.disk("web"), "before"), sites.target.stream()["proved_epoch"]
        disk.fill()
        scribble(sites.disk("web"), 4 * MEBI, 3 * MEBI)
        _waits_for_room(sites, sites.target, replica)
        assert sites.target.stream()["proved_epoch"] >= epoch, "what was acknowledged is still there"
        _goes_on(sites, "db")
        sites.target.stop()
        (recovered,) = sites.target.ferry.told("recover", "web")["replicas"]
        assert recovered["epoch"] >= epoch
        if recovered["epoch"] == epoch:  # else a part of it found room
            assert same(before, replica)
        sites.target.start()
        _waits_for_room(sites, sites.target, replica)
        disk.give_room()
        until(lambda: same(sites.disk("web"), replica))
        until(sites.proved())
        assert sites.target.stream("db")["restarts"] == 0
        assert sites.source.stream("db")["restarts"] == 0


@pytest.mark.parametrize("block", [4096, 1024])  # of blocks smaller than a page mapped files have their own troubles
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_stream_whose_state_has_no_room_waits_and_the_other_goes_on(tmp_path: Path, side: str, block: int) -> None:
    place = tmp_path / "sites" / f"{side}-state" / "streams" / WEB
    (tmp_path / "sites").mkdir()
    with small(place, 8 * MEBI, block) as disk, _sites(tmp_path / "sites") as sites:
        daemon: Daemon = getattr(sites, side)
        _begin(sites)
        before, epoch = copied(sites.disk("web"), "before"), sites.target.stream()["proved_epoch"]
        disk.fill()
        scribble(sites.disk("web"), 4 * MEBI, 5 * MEBI)
        scribble(sites.disk("web"), 0, 2 * MEBI, seed=3)
        _waits_for_room(sites, daemon, place)
        _goes_on(sites, "db")
        whole = block == 4096  # with smaller ones a state may not even be opened until there is room
        if whole:
            assert sites.target.stream()["proved_epoch"] >= epoch
        assert not same(sites.disk("web"), sites.replica())
        if whole:
            _still_whole(sites, before, epoch)
        disk.give_room()
        until(lambda: same(sites.disk("web"), sites.replica()))
        until(sites.proved())
        assert daemon.stream("db")["restarts"] == 0


def _still_whole(sites: Sites, before: Path, epoch: int) -> None:
    """At rest the replica is what its last epoch says, by the bytes where that is the one from before."""
    sites.target.stop()
    verified = sites.target.ferry.run("verify", "web")
    if verified.code:  # it was stopped in the middle of something
        assert sites.target.ferry.run("recover", "web").code == 0
        assert sites.target.ferry.run("verify", "web").code == 0
    if sites.target.ferry.told("epochs", "web")["position"]["epoch"] == epoch:
        assert same(before, sites.replica())
    sites.target.start()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_daemon_whose_whole_state_has_no_room_lives_starts_and_goes_on_when_there_is(
    tmp_path: Path, side: str
) -> None:
    place = tmp_path / "sites" / f"{side}-state"
    (tmp_path / "sites").mkdir()
    with small(place, 12 * MEBI) as disk, _sites(tmp_path / "sites") as sites:
        daemon: Daemon = getattr(sites, side)
        _begin(sites)
        _fill_and_change(sites, disk)
        _waits_for_room(sites, daemon, place, ("web", "db"))
        daemon.kill()
        daemon.start()
        _waits_for_room(sites, daemon, place, ("web", "db"))
        disk.give_room()
        for name in ("web", "db"):
            until(lambda: same(sites.disk(name), sites.replica(name)))  # noqa: B023  # it is called at once
            until(sites.proved(name))


def _fill_and_change(sites: Sites, disk: Small) -> None:
    disk.fill()
    for name in ("web", "db"):
        scribble(sites.disk(name), 0, 7 * MEBI, seed=11)
