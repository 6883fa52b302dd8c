"""A target's daemon that is killed between any two steps of `target move`: the replica is the old one, or the new."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, Sites
from tests.support.ferry import MEBI, image, same, scribble, until

pytestmark = pytest.mark.timeout(240)

POINTS = {
    "before anything is copied": ("consumers.move:_copy", False, ()),
    "while data is copied": ("engine.device.raw:RawDevice.write", False, (".moving",)),
    "before the copy is compared": ("consumers.check:Check.run", False, (".moving",)),
    "before the copy has its name": ("consumers.move:_name", False, (".moving",)),
    "before the record names it": ("consumers.move:_take", False, ("",)),
    "before its state is closed": ("consumers.offline:Keeper.leave", True, ()),
    "before its end is noted": ("engine.leftover:end", True, ()),
    "before the daemon goes on with it": ("consumers.move:Moved", True, ()),
}
"""Where it dies; whether the replica is the new one then; what is left beside the old one, behind the goal's name."""


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path)
    image(made.disk("web"), 8 * MEBI, {0: 2 * MEBI, 5 * MEBI: 100_000})
    made.serve("web")
    try:
        yield made.start()
    finally:
        made.stop()


def _dying(plain: Daemon, point: str) -> Daemon:
    """The same daemon; the first time that it comes to `point` is its end."""
    return Daemon("target", plain.home, plain.config, [sys.executable, "-m", "tests.support.dying", *_nth(point)])


def _nth(point: str) -> list[str]:
    module, function = point.split(":")
    return [module, function, "1"]


@pytest.mark.parametrize("where", POINTS)
def test_a_move_that_is_killed_leaves_the_old_replica_or_the_new_one(sites: Sites, where: str) -> None:
    point, is_new, left = POINTS[where]
    until(sites.proved())
    sites.source.stop()  # nothing is written to any image but by the move
    before = sites.disk("web").read_bytes()
    sites.target.stop()
    plain, sites.target = sites.target, _dying(sites.target, point)
    old, goal = sites.replica(), sites.replicas / "elsewhere.img"
    sites.target.start()
    until(lambda: sites.target.stream().get("state") == "running")
    sites.target.ask("move", stream="web", path=str(goal))
    until(sites.target.ended)
    assert old.read_bytes() == before
    found = [Path(f"{goal}{suffix}") for suffix in left]
    assert all(one.exists() for one in found)
    sites.target = plain.start()
    now = goal if is_new else old
    until(lambda: sites.target.stream().get("state") == "running")
    said = sites.target.stream()
    assert (said["path"], said["epoch"]) == (str(now), said["proved_epoch"])
    assert now.read_bytes() == before, "whole, wherever it is"
    _is_told(sites, goal, found)
    sites.source.start()
    scribble(sites.disk("web"), 3 * MEBI, 70_000)
    until(lambda: same(sites.disk("web"), now))
    until(sites.proved())
    assert sites.source.stream()["sent_bytes"] < MEBI, "no copy"
    _again(sites, goal, found, is_new)


def _is_told(sites: Sites, goal: Path, left: list[Path]) -> None:
    """What is left is named with what to do; nothing is said where there is nothing."""
    warning, shown = sites.target.stream()["warning"], sites.target.ferry.run("status").out
    if not left:
        assert warning == ""
        assert "was not finished" not in shown
        return
    assert all(str(one) in warning for one in left)
    assert f"`vmferry target move web {goal}`" in warning
    assert f"warning: web: {warning}" in shown
    assert sites.target.ferry.run("status", "--check").code


def _again(sites: Sites, goal: Path, left: list[Path], is_new: bool) -> None:
    """The same command goes on, once what has the place is away; then nothing is told any more."""
    if is_new:
        found = sites.target.ferry.run("target", "move", "web", goal)
        assert (found.code, "exists" in found.err) == (2, True)
        return
    goal.unlink(missing_ok=True)
    assert sites.target.ferry.told("target", "move", "web", goal)["target"] == str(goal)
    until(sites.proved())
    assert same(sites.disk("web"), goal)
    assert sites.target.stream()["warning"] == ""
    assert not any(one.exists() for one in left if one != goal)
