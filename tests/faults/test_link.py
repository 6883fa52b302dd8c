"""Sites and a broker, each in a network of its own: the ways between them are cut, lose one direction, are slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import kafka, netns, sites
from tests.support.netns import Wan
from tests.support.sites import CHANGED, SIZE, Pair, Site

pytestmark = pytest.mark.timeout(300)
CUT = 20.0
"""Seconds that a way stays cut at least; it stays so until the site behind it has said so."""
TELLS = 120.0
"""Seconds within which it says so: a source gives a record up after 30, a target waits 30 for one, and then asks 30."""
SLOW, SLOW_BYTES = "16mbit", 2e6
CRAWL = "4mbit"
"""So slow that a change is 16 s on its way: also a busy machine cuts it in the middle."""

CASES: dict[str, tuple[Callable[[Wan, str], None], str]] = {
    "the source is cut off, the bus is with the target": (Wan.cut, "source"),
    "the target is cut off, the bus is with the source": (Wan.cut, "target"),
    "the source hears no answers": (Wan.deafen, "source"),
    "nothing that the target says arrives": (Wan.mute, "target"),
    "the interface of the source is down": (Wan.unplug, "source"),
}


@dataclass
class Story:
    """What became of one pair, one of whose sites was behind a bad way."""

    pair: Pair
    how: Callable[[Wan, str], None]
    side: str
    told: dict[str, Any] = field(default_factory=dict)
    "What the site behind it said of its stream meanwhile."
    other_troubled: bool = False
    spoilt: float = 0.0

    @property
    def site(self) -> Site:
        return self.pair.source if self.side == "source" else self.pair.target

    @property
    def other(self) -> Site:
        return self.pair.target if self.side == "source" else self.pair.source

    @property
    def place(self) -> str:
        return self.site.place.name

    def spoil(self, wan: Wan) -> bool:
        """Spoil its way once something is on it.  Whether that was done."""
        if not self.spoilt and self.pair.sent > CHANGED / 16:
            self.how(wan, self.place)
            self.spoilt = time.monotonic()
        return bool(self.spoilt)

    def mend(self, wan: Wan) -> bool:
        """Mend its way once it has told its trouble, and time enough is over.  Whether that was done."""
        found = self.site.stream()
        self.told = found if found.get("state") == "trouble" else self.told
        self.other_troubled |= self.other.stream().get("state") == "trouble"
        if not self.told or time.monotonic() - self.spoilt < CUT:
            return False
        assert not self.pair.equal(), "its way was not cut in the middle"
        wan.heal(self.place)
        wan.hurry(self.place)
        return True


@dataclass
class Net:
    wan: Wan
    stories: dict[str, Story]

    @property
    def pairs(self) -> list[Pair]:
        return [story.pair for story in self.stories.values()]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A pair for each case, all of them at once: most of this is waiting."""
    kafka.fetch()
    home, numbers = tmp_path_factory.mktemp("link"), range(len(CASES))
    names = [f"{side}{number}" for number in numbers for side in ("source", "target")]
    with netns.routed("bus", *names) as wan, sites.broker(wan.places["bus"]) as url:
        made = Net(wan, {})
        try:
            for number, (name, case) in enumerate(CASES.items()):
                ends = wan.places[f"source{number}"], wan.places[f"target{number}"]
                made.stories[name] = Story(Pair(*ends, url, home / str(number)), *case)
            sites.until(made.pairs, Pair.equal)
            yield made
        finally:
            for pair in made.pairs:
                pair.end()


@pytest.fixture(scope="module")
def stories(net: Net) -> dict[str, Story]:
    """Change each disk, spoil the way while the change is on it, wait until that is told, and mend it."""
    wan, told = net.wan, {story.pair: story for story in net.stories.values()}
    for story in told.values():
        wan.slow(story.place, CRAWL)
    for number, story in enumerate(told.values()):
        story.pair.change(number)
    sites.until(net.pairs, lambda pair: told[pair].spoil(wan))
    sites.until(net.pairs, lambda pair: told[pair].mend(wan), TELLS)
    sites.until(net.pairs, Pair.equal)
    return net.stories


@pytest.mark.parametrize("case", CASES)
def test_a_way_that_fails_while_shipping_is_told_and_costs_no_copy(stories: dict[str, Story], case: str) -> None:
    story = stories[case]
    assert story.told["label"] == "web-1"
    assert "Kafka" in story.told["why"]
    assert not story.other_troubled, "the site that reaches the bus has no trouble"
    assert story.pair.sent < SIZE / 2, "what was on its way may travel again, the disk does not"


def test_over_slow_ways_replication_goes_on_and_ends_equal(net: Net, stories: dict[str, Story]) -> None:
    pair = next(iter(stories.values())).pair
    ends = (pair.source.place.name, pair.target.place.name)
    restarts = [site.stream()["restarts"] for site in (pair.source, pair.target)]
    for name in ends:
        net.wan.slow(name, SLOW)
    began = time.monotonic()
    pair.change(9)
    sites.until([pair], Pair.equal)
    assert time.monotonic() - began > CHANGED / SLOW_BYTES / 2, "the way was not slow"
    assert [site.stream()["restarts"] for site in (pair.source, pair.target)] == restarts, "slow is no trouble"
    for name in ends:
        net.wan.hurry(name)
