"""One reader of a topic for many: each sees everything, once and in order, whatever becomes of the others."""

from __future__ import annotations

import asyncio

import pytest

from engine import errors, ports
from engine.bus import fan
from engine.bus.memory import MemoryBus, MemoryLog, Topic
from engine.bus.shared import Lease, SharedBus
from tests.support.sim.loop import virtual

NAME = "all.receipts"


class Bench:
    def __init__(self) -> None:
        self.topic = Topic()
        self.trouble: Exception | None = None
        self.operations: list[str] = []
        self.connects = 0
        self.shared = SharedBus(self.connect, frozenset({NAME}))

    async def connect(self) -> MemoryBus:
        self.connects += 1
        await asyncio.sleep(0.1)
        return MemoryBus({NAME: self.topic}, self.gate)

    async def gate(self, operation: str, _topic: str) -> None:
        self.operations.append(operation)
        if operation == "read" and self.trouble is not None:
            raise self.trouble

    async def reader(self) -> ports.Log:
        return await (await self.shared.lease()).open(NAME)

    def say(self, first: int, count: int = 1) -> None:
        self.topic.add([b"%d" % one for one in range(first, first + count)])


async def follow(log: ports.Log, at: int, upto: int, limit: int = 1 << 20) -> list[int]:
    """The numbers read from `at` up to `upto`, each of which stands at its own offset."""
    found: list[int] = []
    while at < upto:
        for entry in await log.read(at, limit, 5):
            assert entry.offset == at == int(entry.data)
            found.append(at)
            at += 1
    return found


@pytest.mark.parametrize("limit", [1, 1 << 20])
@virtual
async def test_every_reader_sees_everything_in_order_wherever_it_begins_by_one_connection(limit: int) -> None:
    bench = Bench()
    bench.say(0, 20)
    readers = [await bench.reader() for _ in range(9)]
    tasks = [
        asyncio.ensure_future(follow(one, at, 50, limit)) for one, at in zip(readers, range(0, 21, 2), strict=False)
    ]
    for at in range(20, 50):
        await asyncio.sleep(0.05 * (at % 3))
        bench.say(at)
    for at, task in zip(range(0, 21, 2), tasks, strict=False):
        assert await task == list(range(at, 50))
    assert bench.connects == 1


@virtual
async def test_waiting_readers_cost_one_read_for_all() -> None:
    bench = Bench()
    readers = [await bench.reader() for _ in range(50)]
    bench.say(0, 3)
    await asyncio.gather(*(follow(one, 0, 3) for one in readers[:1]))
    tasks = [asyncio.ensure_future(follow(one, 3, 13)) for one in readers]
    await asyncio.sleep(0.1)
    bench.operations.clear()
    for at in range(3, 13):
        bench.say(at)
        await asyncio.sleep(0.1)
    await asyncio.gather(*tasks)
    assert bench.operations.count("read") <= 2 * 10 + 2
    assert "open" not in bench.operations


@virtual
async def test_a_first_reader_that_learns_the_end_late_sets_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asks, travels = MemoryLog.ends, [0, 3]

    async def ends(log: MemoryLog) -> tuple[int, int]:
        found = await asks(log)
        await asyncio.sleep(travels.pop(0) if travels else 0)
        return found

    monkeypatch.setattr(MemoryLog, "ends", ends)
    bench = Bench()
    one, other = await bench.reader(), await bench.reader()
    first = asyncio.ensure_future(follow(one, 0, 6))
    second = asyncio.ensure_future(other.read(0, 100, 60))
    await asyncio.sleep(1)
    bench.say(0, 3)
    await asyncio.sleep(4)
    assert second.done(), "what was read for all is there for who learns the end late"
    assert [entry.offset for entry in await second] == [0, 1, 2]
    bench.say(3, 3)
    assert await first == [0, 1, 2, 3, 4, 5]
    assert await follow(other, 0, 6) == [0, 1, 2, 3, 4, 5]


@virtual
async def test_who_never_waits_sees_what_is_there_too() -> None:
    bench = Bench()
    log = await bench.reader()
    assert await log.read(0, 100, 0) == []
    bench.say(0, 2)
    assert [one.offset for one in await log.read(0, 100, 0)] == [0, 1]


@virtual
async def test_readers_beyond_what_was_read_for_all_share_one_read_again() -> None:
    bench = Bench()
    readers = [await bench.reader() for _ in range(10)]
    await asyncio.gather(*(one.read(0, 100, 0) for one in readers))
    bench.say(0, 5)
    for one in readers:
        assert len(await one.read(0, 100, 0)) == 5
    tasks = [asyncio.ensure_future(one.read(5, 100, 5)) for one in readers]
    bench.operations.clear()
    await asyncio.sleep(1)
    assert bench.operations.count("read") == 1
    bench.say(5)
    assert [[entry.offset for entry in found] for found in await asyncio.gather(*tasks)] == [[5]] * 10


@virtual
async def test_what_is_not_kept_any_more_is_read_from_the_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan, "KEEP", 10)
    bench = Bench()
    one, other = await bench.reader(), await bench.reader()
    task = asyncio.ensure_future(follow(one, 0, 100))
    for at in range(100):
        await asyncio.sleep(0.01)
        bench.say(at)
    assert await task == list(range(100))
    assert await follow(other, 0, 100) == list(range(100))


@pytest.mark.parametrize("why", [errors.Transient("away"), errors.Fenced("no"), ZeroDivisionError("a bug")])
@virtual
async def test_trouble_reaches_all_who_wait_at_once_and_the_next_read_recovers(why: Exception) -> None:
    bench = Bench()
    readers = [await bench.reader() for _ in range(5)]
    tasks = [asyncio.ensure_future(one.read(0, 100, 20)) for one in readers]
    await asyncio.sleep(1)
    bench.trouble = why
    bench.say(0)
    began = asyncio.get_running_loop().time()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [(type(one), str(one)) for one in found] == [(type(why), str(why))] * 5
    assert asyncio.get_running_loop().time() == began
    bench.trouble = None
    bench.say(1)
    assert await asyncio.gather(*(follow(one, 0, 2) for one in readers)) == [[0, 1]] * 5


@virtual
async def test_an_offset_that_is_not_there_is_said_to_who_asked_and_to_nobody_else() -> None:
    bench = Bench()
    bench.topic.begin = 3
    one, other = await bench.reader(), await bench.reader()
    waiting = asyncio.ensure_future(one.read(3, 100, 20))
    await asyncio.sleep(0.1)
    for offset in (0, 99):
        with pytest.raises(errors.OffsetGone):
            await other.read(offset, 100, 1)
    bench.say(3)
    assert [entry.offset for entry in await waiting] == [3]


@virtual
async def test_a_reader_that_is_cancelled_harms_nobody_even_if_it_came_first() -> None:
    bench = Bench()
    readers = [await bench.reader() for _ in range(3)]
    tasks = [asyncio.ensure_future(follow(one, 0, 2)) for one in readers]
    await asyncio.sleep(1)
    tasks[0].cancel()
    bench.say(0)
    await asyncio.sleep(1)
    tasks[1].cancel()
    bench.say(1)
    assert await tasks[2] == [0, 1]
    assert await follow(readers[0], 0, 2) == [0, 1]


@virtual
async def test_a_wait_ends_when_it_was_to_end() -> None:
    log = await Bench().reader()
    began = asyncio.get_running_loop().time()
    assert list(await log.read(0, 100, 7)) == []
    assert asyncio.get_running_loop().time() == began + 7


@virtual
async def test_closing_ends_the_reading_is_repeatable_and_a_lease_closes_only_its_own() -> None:
    bench = Bench()
    lease = await bench.shared.lease()
    log, other = await lease.open(NAME), await bench.reader()
    await log.read(0, 100, 1)
    await lease.close()
    task = asyncio.ensure_future(follow(other, 0, 1))
    await asyncio.sleep(0.1)
    bench.say(0)
    assert await task == [0]
    for _ in range(2):
        await lease.close()
        await other.close()
        await bench.shared.close()
    assert len(asyncio.all_tasks()) == 1
    assert bench.topic.waiters == {}


@virtual
async def test_it_is_for_reading_and_who_writes_has_a_handle_of_its_own() -> None:
    bench = Bench()
    lease: Lease = await bench.shared.lease()
    log = await lease.open(NAME)
    for wrong in (log.append([b"x"]), log.trim(1)):
        with pytest.raises(errors.Usage):
            await wrong
    writer = await lease.open(NAME, write=True)
    await writer.append([b"0"])
    assert await writer.sync() == await log.sync() == 1
    with pytest.raises(errors.InUse):
        await lease.open(NAME, write=True)
