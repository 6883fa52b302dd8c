"""What a site says of its streams, when, and what another makes of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from engine import errors
from engine.bus.memory import MemoryBus, Topic
from engine.bus.shared import SharedBus
from engine.daemon.presence import EVERY, KEEP, SOON, Announcer, Listener
from schemas import topics, wire
from schemas.control import Present
from tests.support.sim.loop import virtual

A, B = b"a" * 16, b"b" * 16
TOPIC = topics.control(topics.PREFIX)
WEB = Present("ams", "web", (), 1, 0, 0)


class Air:
    """A bus, and when who was heard of on it."""

    def __init__(self) -> None:
        self.topic = Topic()
        self.away = ""
        self.bus = SharedBus(self.connect)
        self.told: list[tuple[float, bytes, float | None]] = []
        self.listener = Listener(self.bus, topics.PREFIX, self.tell)
        self.streams = [(A, WEB), (B, replace(WEB, label="db"))]
        self.announcer = Announcer(self.bus, topics.PREFIX, lambda: self.streams)
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> MemoryBus:
        return MemoryBus({TOPIC: self.topic}, self.gate)

    async def gate(self, operation: str, _topic: str) -> None:
        if self.away == operation:
            raise errors.Transient("the bus is away")

    def tell(self, stream: bytes, _present: Present, late: float | None) -> None:
        self.told.append((asyncio.get_running_loop().time(), stream, late))

    async def listen(self) -> None:
        self.tasks.append(asyncio.ensure_future(self.listener.run()))
        await asyncio.sleep(0.01)

    async def announce(self) -> None:
        self.tasks.append(asyncio.ensure_future(self.announcer.run()))
        await asyncio.sleep(0.01)

    def say(self, *words: tuple[bytes, Present]) -> None:
        self.topic.add([wire.pack_control(*one) for one in words])

    def heard(self) -> list[tuple[int, bytes]]:
        """And forget it."""
        told, self.told = self.told, []
        return [(round(at), stream) for at, stream, _ in told]


@virtual
async def test_everything_is_said_at_once_and_every_30_seconds() -> None:
    air = Air()
    await air.listen()
    await air.announce()
    await asyncio.sleep(3 * EVERY + 1)
    assert air.heard() == [(at, one) for at in (0, 30, 60, 90) for one in (A, B)]


@virtual
async def test_news_of_one_stream_says_that_one_soon_and_all_when_they_are_due() -> None:
    air = Air()
    await air.listen()
    await air.announce()
    air.announcer.news(B)
    await asyncio.sleep(20)
    air.announcer.news(B)
    await asyncio.sleep(41)
    assert air.heard() == [(0, A), (0, B), (round(SOON), B), (20, B), (30, A), (30, B), (60, A), (60, B)]


@virtual
async def test_much_news_is_few_words() -> None:
    air = Air()
    await air.listen()
    await air.announce()
    for _ in range(100):
        air.announcer.news(A)
        await asyncio.sleep(0.1)
    assert len(air.heard()) <= 2 + 10 / SOON


@virtual
async def test_what_could_not_be_said_is_said_once_the_bus_is_back() -> None:
    air = Air()
    await air.listen()
    await air.announce()
    air.heard()
    air.away = "sync"
    air.announcer.news(A)
    await asyncio.sleep(5)
    air.away = ""
    await asyncio.sleep(EVERY + SOON)
    assert {one for _, one in air.heard()} == {A, B}


@virtual
async def test_words_older_than_an_hour_are_let_go_and_no_others() -> None:
    air = Air()
    await air.announce()
    await asyncio.sleep(KEEP - 1)
    assert air.topic.begin == 0
    await asyncio.sleep(2 * KEEP)
    rounds = len(air.topic.records) / 2
    assert KEEP / EVERY <= rounds <= KEEP / EVERY + 2
    await air.announcer.close()
    await air.announcer.close()


@virtual
async def test_of_words_that_were_there_before_the_last_counts_and_nobody_can_tell_how_old_it_is() -> None:
    air = Air()
    air.say((A, replace(WEB, gone=True)), (B, WEB), (A, WEB))
    await air.listen()
    await asyncio.sleep(EVERY)
    air.say((A, WEB))
    await asyncio.sleep(1)
    assert [(stream, late) for _, stream, late in air.told] == [(A, None), (B, None), (A, 0.0)]


@virtual
async def test_a_backlog_is_late_by_the_clock_of_its_own_site() -> None:
    air = Air()
    await air.listen()
    fra = replace(WEB, site="fra", sent=10**15)
    air.say((A, WEB), (B, fra), (A, replace(WEB, sent=7 * 10**9)), (B, replace(fra, sent=10**15 + 10**9)))
    await asyncio.sleep(1)
    assert [(stream, late) for _, stream, late in air.told] == [(A, 7.0), (B, 1.0), (A, 0.0), (B, 0.0)]


@virtual
async def test_garbage_is_passed_over() -> None:
    air = Air()
    await air.listen()
    good = wire.pack_control(A, WEB)
    flipped = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
    air.topic.add([b"", b"x", good[:-1], good + b"x", b"\0" * 200, *flipped])
    air.say((B, WEB))
    await asyncio.sleep(1)
    assert [stream for _, stream, _ in air.told] == [B]
    assert air.listener.away == ""


@virtual
async def test_a_bus_that_is_away_is_said_and_tried_again_soon_each_time() -> None:
    air = Air()
    await air.listen()
    for _ in range(8):
        air.away = "read"
        air.say((A, WEB))
        await asyncio.sleep(0.5)
        assert air.listener.away == "the bus is away"
        air.away = ""
        air.topic.records.clear()
        await asyncio.sleep(0.6)
        air.say((B, WEB))
        await asyncio.sleep(0.1)
        assert (air.told.pop()[1:], air.listener.away) == ((B, 0.0), "")


@virtual
async def test_a_topic_that_was_trimmed_or_made_anew_is_heard_from_where_it_is() -> None:
    air = Air()
    air.say(*[(A, WEB)] * 50)
    await air.listen()
    await asyncio.sleep(1)
    air.told.clear()
    air.topic.records, air.topic.begin = [], 0
    await asyncio.sleep(EVERY + 1)
    air.say((B, WEB))
    await asyncio.sleep(1)
    assert [one[1:] for one in air.told] == [(B, 0.0)]
    air.topic.records, air.topic.begin = [], 100
    air.say((A, WEB))
    await asyncio.sleep(EVERY + 1)
    assert air.told.pop()[1:] == (A, 0.0)
