"""Sites and a broker, each in a network of its own: the ways between them are cut, lose one direction, are slow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import kafka, netns
from tests.support.daemons import Count, Daemon, Sites
from tests.support.ferry import MEBI, image, scribble
from tests.support.netns import Wan

pytestmark = pytest.mark.timeout(300)
SIZE, CHANGED = 32 * MEBI, 8 * MEBI
CUT = 20.0
"""Seconds that a way stays cut at least; it stays so until the site behind it has said so."""
TELLS = 120.0
"""Seconds within which it says so: a source gives a record up after 30, a target waits 30 for one, and then asks 30."""
SLOW, SLOW_BYTES = "16mbit", 2e6
LOOK = 0.2
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
    """What became of two sites, one of which was behind a bad way.  `places` are their names on the net."""

    sites: Sites
    places: dict[str, str]
    how: Callable[[Wan, str], None]
    side: str
    sent: Count = field(default_factory=lambda: Count("sent_bytes"))
    before: int = 0
    "The last epoch that was proved before the last `change`."
    told: dict[str, Any] = field(default_factory=dict)
    "What the site behind it said of its stream meanwhile."
    other_troubled: bool = False
    spoilt: float = 0.0

    @property
    def site(self) -> Daemon:
        return self.sites.source if self.side == "source" else self.sites.target

    @property
    def other(self) -> Daemon:
        return self.sites.target if self.side == "source" else self.sites.source

    @property
    def place(self) -> str:
        return self.places[self.side]

    def look(self) -> None:
        self.sent.look(self.sites.source.stream())

    def change(self, seed: int) -> None:
        """Write into a quarter of the disk, and count what is sent from now on."""
        self.before = self.sites.target.stream()["proved_epoch"]
        self.look()
        self.sent.total = 0
        scribble(self.sites.disk(), seed * MEBI, CHANGED, seed)

    def equal(self) -> bool:
        """Whether an epoch after the last `change` is proved, and the replica is the disk."""
        proved = self.sites.target.stream().get("proved_epoch") or 0
        return proved > self.before and self.sites.same()

    def spoil(self, wan: Wan) -> bool:
        """Spoil its way once something is on it.  Whether that was done."""
        if not self.spoilt and self.sent.total > CHANGED / 16:
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
        assert not self.equal(), "its way was not cut in the middle"
        wan.heal(self.place)
        wan.hurry(self.place)
        return True


Stories = list[Story]


def until(stories: Stories, what: Callable[[Story], object], patience: float = 120.0) -> None:
    """Wait until `what` was true of every story once, counting what they send meanwhile."""
    deadline, left = time.monotonic() + patience, list(stories)
    while left:
        left = [story for story in left if not what(story)]
        for story in stories:
            story.look()
        for sites in (story.sites for story in left) if time.monotonic() > deadline else ():
            said = f"source {sites.source.stream()}\ntarget {sites.target.stream()}"
            raise AssertionError(f"it did not come to pass: {said}\n{sites.source.tail()}\n{sites.target.tail()}")
        time.sleep(LOOK)


@dataclass
class Net:
    wan: Wan
    stories: dict[str, Story]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Two sites for each case, all of them at once: most of this is waiting."""
    kafka.fetch()
    home = tmp_path_factory.mktemp("link")
    names = [f"{side}{number}" for number in range(len(CASES)) for side in ("source", "target")]
    with contextlib.ExitStack() as stack:
        wan = stack.enter_context(netns.routed("bus", *names))
        bus = wan.places["bus"]
        url = stack.enter_context(kafka.elsewhere(bus.inside, bus.address))
        made = Net(wan, {})
        for number, (name, (how, side)) in enumerate(CASES.items()):
            places = {end: f"{end}{number}" for end in ("source", "target")}
            inside = wan.places[places["source"]].inside, wan.places[places["target"]].inside
            sites = Sites(home / str(number), url, "1s", inside, prefix=f"vmferry-{number}")
            image(sites.disk(), SIZE)
            sites.serve("web")
            stack.callback(sites.stop)
            sites.source.begin()
            sites.target.begin()
            made.stories[name] = Story(sites, places, how, side)
        until(list(made.stories.values()), Story.equal)
        yield made


@pytest.fixture(scope="module")
def stories(net: Net) -> dict[str, Story]:
    """Change each disk, spoil the way while the change is on it, wait until that is told, and mend it."""
    wan, all_of_them = net.wan, list(net.stories.values())
    for story in all_of_them:
        wan.slow(story.place, CRAWL)
    for number, story in enumerate(all_of_them):
        story.change(number)
    until(all_of_them, lambda story: story.spoil(wan))
    until(all_of_them, lambda story: story.mend(wan), TELLS)
    until(all_of_them, Story.equal)
    return net.stories


@pytest.mark.parametrize("case", CASES)
def test_a_way_that_fails_while_shipping_is_told_and_costs_no_copy(stories: dict[str, Story], case: str) -> None:
    story = stories[case]
    assert story.told["label"] == "web"
    assert "Kafka" in story.told["why"]
    assert not story.other_troubled, "the site that reaches the bus has no trouble"
    assert story.sent.total < SIZE / 2, "what was on its way may travel again, the disk does not"


def test_over_slow_ways_replication_goes_on_and_ends_equal(net: Net, stories: dict[str, Story]) -> None:
    story = next(iter(stories.values()))
    ends = story.sites.source, story.sites.target
    restarts = [site.stream()["restarts"] for site in ends]
    for place in story.places.values():
        net.wan.slow(place, SLOW)
    began = time.monotonic()
    story.change(9)
    until([story], Story.equal)
    assert time.monotonic() - began > CHANGED / SLOW_BYTES / 2, "the way was not slow"
    assert [site.stream()["restarts"] for site in ends] == restarts, "slow is no trouble"
    for place in story.places.values():
        net.wan.hurry(place)
