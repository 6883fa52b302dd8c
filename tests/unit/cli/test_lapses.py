"""Words of what was let go of, as `epochs` finds them on the bus: the newest within bounds, and nobody else's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine import errors, ports, registry
from engine.bus.memory import MemoryBus, Topic
from engine.cli import lapses, waiting
from schemas import events, topics, wire
from schemas.identity import GENESIS, Address, Attempt, Chain

STREAM, OTHER, REPLICA = b"stream of a test", b"another stream 1", b"a replica of one"
RECORD = registry.Replica(REPLICA.hex(), "", "memory:", ())
STARTED = events.Started("web", GENESIS)


def packed(event: events.Event, stream: bytes = STREAM) -> bytes:
    return wire.pack_event(stream, Address(1, Attempt(5, b"attempt5"), 0, 0), event)


def word(offset: int, why: events.Why = events.Why.CAP) -> events.Lapsed:
    cap = 500 if why is events.Why.CAP else 0
    behind = (events.Behind(REPLICA, 7, 30), events.Behind(OTHER, 0, 0))
    return events.Lapsed(why, offset, 2 * cap, cap, 1_700_000_000_123_456_789, behind)


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    """The stream's, on a bus that everybody reaches."""
    made = Topic(begin=1000)
    held = {topics.stream(STREAM): made}

    async def reach(_record: registry.Replica) -> ports.Bus:
        return MemoryBus(held)

    monkeypatch.setattr(waiting, "reach", reach)
    return made


async def test_words_come_oldest_first_with_their_place_and_only_those_of_the_stream(topic: Topic) -> None:
    topic.add([packed(STARTED), packed(word(1)), packed(word(2), OTHER), b"no record", packed(word(3))])
    found = await lapses.of(RECORD, STREAM)
    assert found.words == [(1001, word(1)), (1004, word(3))]
    assert (found.away, found.more) == ("", False)


async def test_a_long_log_is_looked_at_from_its_end_as_far_as_the_bound_goes(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = packed(STARTED)
    for number in range(10):
        topic.add([packed(word(number)), *[started] * 99])
    whole = await lapses.of(RECORD, STREAM)
    assert [at for at, _ in whole.words] == [1000 + 100 * number for number in range(10)]
    assert not whole.more
    monkeypatch.setattr(lapses, "_BYTES", 150 * len(started))
    bounded = await lapses.of(RECORD, STREAM)
    assert bounded.words == whole.words[-1:], "of the newest 64 records, and 128 before them"
    assert bounded.more
    told = lapses.lines(lapses.said(bounded), REPLICA.hex())
    assert "was not looked at" in told[-1]


async def test_an_empty_log_and_one_that_is_not_there_hold_none(topic: Topic) -> None:
    assert await lapses.of(RECORD, STREAM) == lapses.Lapses()
    found = await lapses.of(RECORD, OTHER)
    assert (found.away, found.words) == ("memory: has no log of this stream", [])


async def test_a_bus_that_is_away_ends_no_look(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_record: registry.Replica) -> ports.Bus:
        raise errors.Transient("Kafka is away")

    async def hang(_record: registry.Replica) -> ports.Bus:
        await asyncio.sleep(3600)
        raise AssertionError("it waited for an hour")

    monkeypatch.setattr(waiting, "reach", refuse)
    found = await lapses.of(RECORD, STREAM)
    assert (found.away, found.more) == ("Kafka is away", False)
    told = lapses.lines(lapses.said(found), REPLICA.hex())
    assert told == ["whether its source let go of records, or stepped, was not looked at: Kafka is away"]
    monkeypatch.setattr(waiting, "reach", hang)
    monkeypatch.setattr(waiting, "_SECONDS", 0.05)
    assert "did not answer" in (await lapses.of(RECORD, STREAM)).away


def test_what_is_said_of_them() -> None:
    found = lapses.Lapses(words=[(1001, word(40)), (1002, word(50, events.Why.SILENCE))])
    said: dict[str, Any] = lapses.said(found)
    assert said["lapsed"][0] == {
        "at_offset": 1001, "instant": "2023-11-14T22:13:20.123+00:00", "why": "cap", "below_offset": 40,
        "held_bytes": 1000, "cap_bytes": 500,
        "replicas": [
            {"replica": REPLICA.hex(), "epoch": 7, "offset": 30}, {"replica": OTHER.hex(), "epoch": 0, "offset": 0},
        ],
    }  # fmt: skip
    assert (said["lapsed_more"], said["bus_away"], said["lapsed"][1]["cap_bytes"]) == (False, "", None)
    assert lapses.lines(said, REPLICA.hex()) == [
        "lapsed 2023-11-14T22:13:20.123+00:00: its source let go of records that were not applied by this replica at"
        " epoch 7, replica 616e6f74 at an epoch not known to it; the log held 0.977 KiB of its cap of 500 B",
        "lapsed 2023-11-14T22:13:20.123+00:00: its source let go of records that were not applied by this replica at"
        " epoch 7, replica 616e6f74 at an epoch not known to it; they did not answer, and no history is kept for them",
    ]


def step(rung: events.Rung, reason: str) -> events.Stepped:
    return events.Stepped(rung, reason, 1_700_000_000_123_456_789)


def test_what_is_said_of_steps() -> None:
    down, up = step(events.Rung.SCAN, "the bitmap of vda is gone"), step(events.Rung.TAP, "the mirror is ready")
    said = lapses.said(lapses.Lapses(words=[(1001, down), (1002, word(40)), (1003, up)]))
    assert [one["at_offset"] for one in said["lapsed"]] == [1002]
    assert said["stepped"] == [
        {
            "at_offset": 1001, "instant": "2023-11-14T22:13:20.123+00:00", "rung": "scan",
            "reason": "the bitmap of vda is gone",
        },
        {"at_offset": 1003, "instant": "2023-11-14T22:13:20.123+00:00", "rung": "tap", "reason": "the mirror is ready"},
    ]  # fmt: skip
    assert lapses.lines(said, REPLICA.hex())[1:] == [
        "stepped 2023-11-14T22:13:20.123+00:00: from here on what comparing the disks finds is captured (scan): the"
        " bitmap of vda is gone",
        "stepped 2023-11-14T22:13:20.123+00:00: from here on every write is captured as it is made (tap): the mirror is"
        " ready",
    ]


def test_of_many_steps_the_last_are_told_and_the_object_has_all() -> None:
    said = lapses.said(lapses.Lapses(words=[(at, step(events.Rung.NONE, f"reason {at}")) for at in range(20)]))
    told = lapses.lines(said, REPLICA.hex())
    assert len(said["stepped"]) == 20
    assert told[0] == "stepped 20 times; these are the last 8, and --json has all of them"
    assert [line.rpartition(" ")[2] for line in told[1:]] == [str(at) for at in range(12, 20)]


async def test_every_rung_is_found_among_other_words_and_told(topic: Topic) -> None:
    steps = [step(rung, rung.value) for rung in events.Rung]
    topic.add([packed(STARTED), packed(word(1)), *map(packed, steps), packed(steps[0], OTHER)])
    found = await lapses.of(RECORD, STREAM)
    assert [one for _, one in found.words] == [word(1), *steps]
    assert len(lapses.lines(lapses.said(found), REPLICA.hex())) == 1 + len(steps)


def test_a_word_is_nothing_that_waits_to_be_applied() -> None:
    found = waiting.Waiting()
    waiting._take(packed(word(40)), STREAM, found)
    waiting._take(packed(step(events.Rung.TAP, "")), STREAM, found)
    assert found == waiting.Waiting()
    waiting._take(packed(events.Open((), (events.Fit(Chain(bytes(32))),))), STREAM, found)
    assert found.open_size > 0
