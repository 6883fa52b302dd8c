"""Records off the bus: each with its place, those that are not whole as such, and none of another stream."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumers.reader import Reader, Record, Unreadable
from engine import digest
from engine.bus.memory import MemoryLog, Topic, open_gate
from schemas import errors, events, wire
from schemas.identity import GENESIS, Address, Attempt, Chain, Cut, Volume
from schemas.receipts import Position

STREAM, OTHER = b"stream of a test", b"another stream 1"
ATTEMPT, CHAIN = Attempt(5, b"attempt5"), Chain(b"c" * 32)
OPEN = events.Open((Volume("vda", 640, 64),), (events.Fit(GENESIS),))
WRITTEN = events.Written(0, 64, digest.of_pieces(64, b"x" * 64, 64), b"x" * 64)
SEAL = events.Seal(2, CHAIN, Cut.CRASH, 0, (), 7)
EPOCH: list[events.Event] = [OPEN, WRITTEN, SEAL]


def packed(seq: int, event: events.Event, stream: bytes = STREAM) -> bytes:
    return wire.pack_event(stream, Address(1, ATTEMPT, 9, seq), event)


def reader(*records: bytes, begin: int = 10, limit: int = 8 << 20) -> tuple[Reader, Topic]:
    topic = Topic(begin, list(records))
    made = Reader(STREAM, MemoryLog("stream", topic, open_gate, None), limit)
    made.seek(begin)
    return made, topic


def whole() -> tuple[Reader, Topic]:
    return reader(*(packed(seq, event) for seq, event in enumerate(EPOCH)))


async def test_records_come_in_order_with_their_place_their_size_and_a_print_of_their_own() -> None:
    source, topic = whole()
    records = await source.next(0)
    assert [(one.offset, one.address.seq, one.event) for one in records] == [
        (10 + seq, seq, event) for seq, event in enumerate(EPOCH)
    ]
    assert [one.size for one in records] == [len(one) for one in topic.records]
    assert len({one.print_ for one in records}) == 3
    assert await source.next(0) == ()


async def test_the_print_tells_two_contents_of_one_address_apart() -> None:
    other = replace(WRITTEN, data=b"y" * 64)
    source, _ = reader(packed(1, WRITTEN), packed(1, WRITTEN), packed(1, other))
    first, again, different = [one.print_ for one in await source.next(0)]
    assert first == again != different


async def test_a_batch_is_bounded_and_the_next_goes_on_behind_it() -> None:
    source, _ = reader(*(packed(seq, WRITTEN) for seq in range(5)), limit=300)
    batches = []
    while records := await source.next(0):
        batches.append([one.address.seq for one in records])
    assert [seq for batch in batches for seq in batch] == [0, 1, 2, 3, 4]
    assert len(batches) > 1


async def test_a_record_of_another_stream_is_none_of_ours() -> None:
    source, _ = reader(packed(0, OPEN), packed(1, WRITTEN, OTHER), packed(1, WRITTEN))
    assert [(one.offset, one.address.seq) for one in await source.next(0)] == [(10, 0), (12, 1)]


async def test_a_record_that_is_not_whole_is_said_with_its_place_and_reading_goes_on() -> None:
    spoiled = bytearray(packed(1, WRITTEN))
    spoiled[-1] ^= 1
    source, _ = reader(packed(0, OPEN), bytes(spoiled), packed(2, SEAL))
    first, bad, last = await source.next(0)
    assert (first.event, last.event) == (OPEN, SEAL)
    assert isinstance(bad.event, Unreadable)
    assert bad.event.reason.startswith("the record at offset 11 cannot be read: ")
    assert bad.address.attempt == Attempt(0), "nobody can be named for it"


async def test_a_record_of_the_future_ends_the_run() -> None:
    newer = bytearray(packed(1, WRITTEN))
    newer[4] = 2
    source, _ = reader(bytes(newer))
    with pytest.raises(errors.UnknownVersion):
        await source.next(0)


@pytest.mark.parametrize(("at", "goes_on"), [(3, 10), (99, 13)], ids=["trimmed", "tail lost"])
async def test_what_the_bus_has_lost_is_said_once_and_reading_goes_on_at_what_there_is(at: int, goes_on: int) -> None:
    source, topic = whole()
    source.seek(at)
    (lost,) = await source.next(0)
    said = f"stream: offset {at} is not on the bus, which holds 10 to 13"
    assert (lost.event, lost.offset, lost.size) == (Unreadable(said), goes_on, 0)
    topic.add([packed(0, OPEN)])
    assert (await source.next(0))[0].offset == goes_on


POSITION = Position(1, ATTEMPT, 9, CHAIN)


@pytest.mark.parametrize(
    ("offset", "position", "found"),
    [
        (12, POSITION, True),
        (11, POSITION, False),
        (9, POSITION, False),
        (13, POSITION, False),
        (-1, POSITION, False),
        (12, replace(POSITION, epoch=8), False),
        (12, replace(POSITION, generation=2), False),
        (12, replace(POSITION, attempt=Attempt(5, b"a clone.")), False),
        (12, replace(POSITION, chain=GENESIS), False),
        (12, replace(POSITION, offset=77, missing=3), True),
    ],
)
async def test_a_position_is_found_by_the_identity_of_its_seal(offset: int, position: Position, found: bool) -> None:
    source, _ = whole()
    assert await source.holds(offset, position) == found


async def test_a_seal_of_another_stream_or_one_that_cannot_be_read_is_no_position() -> None:
    source, topic = whole()
    topic.records[2] = packed(2, SEAL, OTHER)
    assert not await source.holds(12, POSITION)
    topic.records[2] = packed(2, SEAL)[:-1]
    assert not await source.holds(12, POSITION)


async def test_looking_for_a_position_does_not_move_the_reader() -> None:
    source, _ = whole()
    await source.holds(12, POSITION)
    record = (await source.next(0))[0]
    assert isinstance(record, Record)
    assert record.offset == 10
    assert await source.begin() == 10
