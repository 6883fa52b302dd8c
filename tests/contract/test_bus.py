"""One suite that every bus must pass: what `ports.Bus` and `ports.Log` promise, on each adapter."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine import errors, ports
from engine.bus.connect import connect
from engine.bus.embedded import EmbeddedBus
from engine.bus.memory import MemoryBus
from schemas import wire

LIMIT = 1 << 20


@pytest.fixture(params=["memory", "embedded", "kafka"])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ports.Bus]:
    opened: ports.Bus
    if request.param == "memory":
        opened = MemoryBus()
    elif request.param == "embedded":
        opened = EmbeddedBus(tmp_path / "log")
    else:
        opened = await connect(request.getfixturevalue("kafka").url)
    yield opened
    await opened.close()


@pytest.fixture
def topic() -> str:
    return f"test.{uuid.uuid4()}"


async def drain(log: ports.Log, offset: int, limit: int = LIMIT) -> list[ports.Entry]:
    """All records from `offset` to the end, and the offsets rise."""
    found: list[ports.Entry] = []
    _, end = await log.ends()
    while offset < end:
        entries = await log.read(offset, limit, 5)
        assert entries, f"nothing at {offset}, and the log ends at {end}"
        for entry in entries:
            assert entry.offset >= offset
            offset = entry.offset + 1
        found += entries
    return found


def numbered(count: int, start: int = 0, size: int = 100) -> list[bytes]:
    return [b"%08d" % number + bytes(size) for number in range(start, start + count)]


async def test_records_come_back_in_order_and_byte_for_byte(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    sent = [b"", b"\0", *numbered(50), bytes(range(256)) * 400]
    await log.append(sent[:10])
    await log.append(sent[10:])
    end = await log.sync()
    begin, seen_end = await log.ends()
    assert seen_end == end
    assert [entry.data for entry in await drain(log, begin)] == sent


async def test_sync_gives_the_offset_just_past_the_last_record(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    assert await log.sync() == (await log.ends())[1]
    await log.append(numbered(3))
    end = await log.sync()
    entries = await drain(log, (await log.ends())[0])
    assert end == entries[-1].offset + 1
    await log.append(numbered(1))
    assert await log.sync() > end


async def test_records_may_be_appended_while_others_are_made_durable(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    sent = numbered(40, size=700_000)
    syncs: list[asyncio.Task[int]] = []
    for record in sent:
        await log.append([record])
        syncs += [asyncio.create_task(log.sync()) for _ in range(2)]
        await asyncio.sleep(0)
    ends = await asyncio.gather(*syncs)
    last = await log.sync()
    assert max(ends) <= last == (await log.ends())[1]
    assert [entry.data for entry in await drain(log, (await log.ends())[0])] == sent


async def test_an_empty_log_has_its_begin_at_its_end_and_gives_nothing(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic)
    begin, end = await log.ends()
    assert begin == end
    assert list(await log.read(begin, LIMIT, 0.05)) == []


async def test_a_topic_exists_once_it_was_opened(bus: ports.Bus, topic: str) -> None:
    assert not await bus.exists(topic)
    await bus.open(topic)
    assert await bus.exists(topic)


async def test_another_handle_sees_all_that_was_synced(bus: ports.Bus, topic: str) -> None:
    writer, reader = await bus.open(topic, write=True), await bus.open(topic)
    await writer.append(numbered(20))
    end = await writer.sync()
    assert (await reader.ends())[1] == end
    assert [entry.data for entry in await drain(reader, 0)] == numbered(20)


async def test_a_read_stops_once_the_limit_is_passed_and_gives_at_least_one(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    await log.append([b"x" * 1000] * 10)
    await log.sync()
    assert len(await log.read(0, 1, 5)) == 1
    assert 1 <= len(await log.read(0, 2500, 5)) <= 3
    got = await log.read(0, 1, 5)
    assert [entry.data for entry in await drain(log, got[-1].offset + 1, 1)] == [b"x" * 1000] * 9


async def test_a_read_can_be_repeated_and_begin_anywhere(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    await log.append(numbered(100))
    await log.sync()
    entries = await drain(log, 0)
    for at in (99, 3, 50, 50, 0, 98):
        got = await log.read(entries[at].offset, 300, 5)
        assert got[0] == entries[at]
        assert list(got) == entries[at : at + len(got)]


async def test_a_read_at_the_end_waits_for_the_next_record(bus: ports.Bus, topic: str) -> None:
    writer, reader = await bus.open(topic, write=True), await bus.open(topic)
    await writer.append(numbered(1))
    end = await writer.sync()
    waiting = asyncio.create_task(reader.read(end, LIMIT, 20))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await writer.append([b"late"])
    await writer.sync()
    assert [entry.data for entry in await waiting] == [b"late"]


async def test_a_read_at_the_end_gives_nothing_when_its_time_is_over(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    await log.append(numbered(1))
    end = await log.sync()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert list(await log.read(end, LIMIT, 0.2)) == []
    assert 0.15 <= loop.time() - began < 5


async def test_several_readers_each_see_everything(bus: ports.Bus, topic: str) -> None:
    writer = await bus.open(topic, write=True)
    readers = [await bus.open(topic) for _ in range(3)]
    await writer.append(numbered(200))
    await writer.sync()
    for entries in await asyncio.gather(*(drain(reader, 0, 700) for reader in readers)):
        assert [entry.data for entry in entries] == numbered(200)


async def test_reading_beside_appending_sees_every_record_once(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)

    async def write() -> None:
        for number in range(60):
            await log.append(numbered(5, number * 5))
            await log.sync()

    async def read() -> list[bytes]:
        seen: list[bytes] = []
        offset = 0
        while len(seen) < 300:
            for entry in await log.read(offset, 1000, 10):
                seen.append(entry.data)
                offset = entry.offset + 1
        return seen

    _, seen = await asyncio.gather(write(), read())
    assert seen == numbered(300)


async def test_an_offset_above_the_end_is_refused_with_what_the_bus_holds(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    await log.append(numbered(4))
    end = await log.sync()
    with pytest.raises(errors.OffsetGone) as gone:
        await log.read(end + 5, LIMIT, 1)
    assert (gone.value.offset, gone.value.begin, gone.value.end) == (end + 5, 0, end)
    assert len(await drain(log, 0)) == 4


async def test_trim_lets_go_of_what_is_below_and_of_nothing_else(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    await log.append(numbered(50))
    await log.sync()
    entries = await drain(log, 0)
    await log.trim(entries[20].offset)
    await log.trim(entries[20].offset)
    begin, _ = await log.ends()
    assert begin <= entries[20].offset
    assert [entry for entry in await drain(log, begin) if entry.offset >= entries[20].offset] == entries[20:]
    await log.append([b"after"])
    await log.sync()
    assert (await drain(log, entries[-1].offset))[-1].data == b"after"


async def test_an_offset_below_the_begin_is_refused_with_what_the_bus_holds(bus: ports.Bus, topic: str) -> None:
    log, reader = await bus.open(topic, write=True), await bus.open(topic)
    await log.append(numbered(50))
    end = await log.sync()
    assert await reader.read(0, 1, 5)
    await log.trim(end)
    begin, _ = await log.ends()
    assert begin > 0
    for handle in (log, reader):
        with pytest.raises(errors.OffsetGone) as gone:
            await handle.read(0, LIMIT, 1)
        assert (gone.value.begin, gone.value.end) == (begin, end)


async def test_a_topic_that_was_trimmed_whole_goes_on_at_its_end(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    await log.append(numbered(5))
    end = await log.sync()
    await log.trim(end)
    assert list(await log.read(end, LIMIT, 0.05)) == []
    await log.append([b"new"])
    assert await log.sync() > end
    assert [entry.data for entry in await log.read(end, LIMIT, 5)] == [b"new"]


async def test_a_writer_that_is_opened_again_goes_on_behind_the_last_record(bus: ports.Bus, topic: str) -> None:
    for number in range(4):
        log = await bus.open(topic, write=True)
        await log.append(numbered(5, number * 5))
        await log.sync()
        await log.close()
    reader = await bus.open(topic)
    assert [entry.data for entry in await drain(reader, 0)] == numbered(20)


async def test_the_largest_record_of_the_wire_passes(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    sent = [bytes([number]) * wire.MAX_RECORD for number in range(5)]
    await log.append(sent)
    await log.sync()
    assert [entry.data for entry in await drain(log, 0)] == sent
    assert [entry.data for entry in await drain(log, 0, 8 << 20)] == sent


async def test_several_processes_append_to_a_shared_topic(bus: ports.Bus, topic: str) -> None:
    logs = [await bus.open(topic, write=True, shared=True) for _ in range(3)]

    async def speak(number: int) -> None:
        for count in range(10):
            await logs[number].append([b"%d.%d" % (number, count)])
            end = await logs[number].sync()
            assert (await logs[number].ends())[1] >= end

    await asyncio.gather(*(speak(number) for number in range(3)))
    heard = [entry.data for entry in await drain(logs[0], 0)]
    for number in range(3):
        mine = [data for data in heard if data.startswith(b"%d." % number)]
        assert mine == [b"%d.%d" % (number, count) for count in range(10)]


async def test_a_bus_that_is_well_has_no_trouble_to_tell(bus: ports.Bus, topic: str) -> None:
    assert await bus.trouble() == ""
    await bus.open(topic)
    assert await bus.trouble() == ""


async def test_closing_twice_is_harmless(bus: ports.Bus, topic: str) -> None:
    log = await bus.open(topic, write=True)
    await log.append(numbered(1))
    await log.sync()
    await log.close()
    await log.close()
    await bus.close()
    await bus.close()
