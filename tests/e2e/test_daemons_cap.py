"""Two daemons over an embedded log that may hold little: whoever reads the topic finds what was let go of, and why."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import envelope, errors
from engine.bus import connect
from schemas import events, topics, wire
from schemas.events import Lapsed
from schemas.receipts import Applied
from tests.support.daemons import Sites
from tests.support.ferry import MEBI, Ferry, image, same, scribble, until

pytestmark = pytest.mark.timeout(240)
CAP = MEBI
CHANGE = 3 * 65536
"""Whole blocks: five such epochs are more than 80 % of the cap, and six are beyond it."""


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path)
    image(made.disk("web"), 8 * MEBI, {0: 300_000})
    made.serve("web", cap="1M")
    try:
        yield made
    finally:
        made.stop()


class Auditor:
    """Reads a stream's topic and its receipts, with nothing but the right to read them, again and again."""

    def __init__(self, sites: Sites) -> None:
        self.url = f"log:{sites.home / 'log'}"
        self.stream = uuid.UUID(sites.source.stream()["stream"]).bytes
        (peer,) = sites.source.stream()["replicas"]
        self.replica = bytes.fromhex(peer["replica"])
        self.begin = 0
        self.words: list[Lapsed] = []

    def look(self) -> bool:
        """Whether something is gone that had not been applied.

        What is gone is looked at first: if its word comes later, this finds it out.
        """
        try:
            return self._look()
        except errors.OffsetGone:  # let go of while we read
            return False

    def _look(self) -> bool:
        self.begin, records = asyncio.run(self._read(topics.stream(self.stream)))
        found = [envelope.event(record)[1] for record in records]
        self.words = [event for event in found if isinstance(event, Lapsed)]
        if self.begin <= self._applied():
            return False
        named = [word for word in self.words if word.offset >= self.begin]
        assert any(one.replica == self.replica for word in named for one in word.replicas), self.words
        return True

    def _applied(self) -> int:
        """Behind all that the replica ever said it has applied."""
        _, records = asyncio.run(self._read(topics.receipts()))
        frames = [wire.unpack(record) for record in records]
        said = [wire.receipt(frame.kind, envelope.body(frame))[1] for frame in frames if frame.stream == self.stream]
        return max((one.position.offset for one in said if isinstance(one, Applied)), default=0)

    async def _read(self, topic: str) -> tuple[int, list[bytes]]:
        bus = await connect.connect(self.url)
        try:
            log = await bus.open(topic)
            begin, _ = await log.ends()
            at, found = begin, list[bytes]()
            while entries := await log.read(at, 8 << 20, 0):
                found += [entry.data for entry in entries]
                at = entries[-1].offset + 1
            return begin, found
        finally:
            await bus.close()


def _grow(sites: Sites, auditor: Auditor, seed: int) -> None:
    """One more epoch of CHANGE bytes on the log."""
    before = sites.source.stream()["epoch"]
    scribble(sites.disk("web"), MEBI, CHANGE, seed)

    def sealed() -> bool:
        auditor.look()
        return bool(sites.source.stream().get("epoch", 0) > before)

    until(sealed)


def test_passing_the_cap_is_warned_of_then_said_on_the_topic_then_done_and_then_healed(sites: Sites) -> None:
    sites.start()
    until(sites.proved())
    auditor = Auditor(sites)
    until(lambda: sites.source.stream()["replicas"][0]["epoch"] == sites.source.stream()["epoch"])
    auditor.look()
    assert auditor.words == []
    sites.target.kill()
    at = sites.source.stream()["replicas"][0]["epoch"]
    for seed in range(5):
        _grow(sites, auditor, seed)
    until(lambda: "of its cap of 1 MiB for a replica that has not applied it" in sites.source.stream()["warning"])
    auditor.look()
    assert auditor.words == [], "warned of, and within the cap"
    _grow(sites, auditor, 5)
    until(auditor.look)
    (word,) = auditor.words
    assert word.offset == auditor.begin
    assert (word.why, word.cap) == (events.Why.CAP, CAP)
    assert CAP < word.held < CAP + 2 * CHANGE
    ((behind),) = word.replicas
    assert (behind.replica, behind.epoch) == (auditor.replica, at)
    assert 0 < behind.offset < word.offset
    until(lambda: "nothing is kept any more for replica" in sites.source.stream()["warning"])

    sites.source.kill()  # whoever comes next reads over the words, and keeps the rule
    sites.source.start()
    until(lambda: sites.source.stream().get("state") == "running" and sites.source.stream().get("epoch"))
    for seed in range(6, 12):
        _grow(sites, auditor, seed)
    until(lambda: auditor.look() and auditor.begin > word.offset)
    assert auditor.words[-1].offset == auditor.begin
    assert (auditor.words[-1].replicas[0].replica, auditor.words[-1].replicas[0].epoch) == (auditor.replica, 0)
    told = sites.target.ferry.told("epochs", "web")
    assert [one["below_offset"] for one in told["lapsed"]] == [one.offset for one in auditor.words]
    assert told["lapsed"][-1]["replicas"][0]["replica"] == told["replica"] == auditor.replica.hex()
    assert "records that were not applied by this replica" in sites.target.ferry.run("epochs", "web").out

    sites.target.start()
    until(sites.proved())
    until(lambda: same(sites.disk("web"), sites.replica()))
    until(lambda: sites.source.stream()["warning"] == "")
    assert "which this replica has not applied (cap)" in sites.target.log.read_text()


def test_a_run_that_keeps_no_history_says_for_whom_it_keeps_none(tmp_path: Path) -> None:
    ferry = Ferry(tmp_path / "state")
    source = image(tmp_path / "disk.img", 4 * MEBI, {0: MEBI})
    one, other = tmp_path / "one.img", tmp_path / "other.img"
    ferry.replicate(source, one)
    assert ferry.told("epochs", str(one))["lapsed"] == []
    scribble(source, MEBI, 5000)
    ferry.replicate(source, other)
    told = ferry.told("epochs", str(one))
    (word,) = told["lapsed"]
    assert (word["why"], word["held_bytes"], word["cap_bytes"]) == ("silence", 0, None)
    assert [each["replica"] for each in word["replicas"]] == [told["replica"]]
    ferry.replicate(source, one)
    assert same(source, one)
