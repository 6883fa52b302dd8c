"""Records that are not what they should be: each is said in words, the position holds, and the next start heals it.

An epoch of three writes, `Open, Written x 3, Seal`, is tampered with on the log while its replica is away.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine import envelope, errors
from producers.ship import Shipper
from schemas import errors as schema_errors
from schemas import events, receipts
from schemas.identity import Address, Attempt, Cut
from tests.support import pair
from tests.support.pair import Pair

Tamper = Callable[[list[bytes]], list[bytes]]
OPEN, FIRST, SECOND, THIRD, SEAL = range(5)


@pytest.fixture
async def whole() -> tuple[Pair, Shipper]:
    """A pair with a baseline that is applied and proved."""
    made = Pair()
    await made.change(range(15))
    shipper = await made.shipper()
    async with made.following():
        await shipper.start()
        await made.ship(shipper)
    assert made.equal()
    assert made.position.usable
    return made, shipper


async def _epoch(made: Pair, shipper: Shipper) -> list[bytes]:
    """The guest changes, and its epoch is taken off the log: to be put back, tampered with."""
    first = len(made.stream.records)
    await made.change()
    assert await shipper.ship() == 1
    records = made.stream.records[first:]
    del made.stream.records[first:]
    kinds = [type(event) for _, event in map(_decoded, records)]
    assert kinds == [events.Open, events.Written, events.Written, events.Written, events.Seal]
    return records


def _decoded(record: bytes) -> tuple[Address, events.Event]:
    frame, event = envelope.event(record)
    return frame.address, event


def _holds(made: Pair, before: receipts.Position, content: bytes) -> None:
    """Nothing moved: the position, the bytes, and everything that was ever acknowledged."""
    assert replace(made.position, offset=0) == replace(before, offset=0)
    assert made.target.content() == content
    applied = [said.position for said in made.said() if isinstance(said, receipts.Applied)]
    assert applied[-1].seal == before.seal


async def _heals(made: Pair, shipper: Shipper) -> None:
    """The replica is back: it is heard, and brought to the source's state by a new start."""
    attempt = shipper.state.attempt
    async with made.following():
        await made.ship(shipper)
    assert made.equal()
    assert made.position.usable
    assert shipper.state.attempt > attempt, "nobody started anew"


def _refusal(made: Pair) -> receipts.Receipt:
    refused = [one for one in made.said() if isinstance(one, receipts.Gap | receipts.Diverged | receipts.Fenced)]
    assert len(refused) == 1, "once for a state, not for every record that follows"
    return refused[0]


def _flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def _swap(records: list[bytes], one: int, other: int) -> list[bytes]:
    records = list(records)
    records[one], records[other] = records[other], records[one]
    return records


def _at(index: int, change: Callable[[bytes], bytes]) -> Tamper:
    return lambda records: [*records[:index], change(records[index]), *records[index + 1 :]]


def _without(index: int) -> Tamper:
    return lambda records: [*records[:index], *records[index + 1 :]]


UNREADABLE = r"the record at offset \d+ cannot be read: "
CASES: dict[str, tuple[Tamper, str]] = {
    "a header cut short": (_at(FIRST, lambda data: data[:40]), UNREADABLE + "40 bytes: a record has a header of 80"),
    "an open cut short": (_at(OPEN, lambda data: data[:-1]), UNREADABLE + r"record of \d+ bytes, its header announces"),
    "a write cut short": (_at(SECOND, lambda data: data[:-9]), UNREADABLE + r"record of \d+ bytes, its header"),
    "a seal cut short": (_at(SEAL, lambda data: data[:-1]), UNREADABLE + r"record of \d+ bytes, its header"),
    "nothing in it": (_at(SECOND, lambda _: b""), UNREADABLE + "0 bytes: a record has a header of 80"),
    "too long": (_at(SECOND, lambda data: data + b"!"), UNREADABLE + r"record of \d+ bytes, its header announces"),
    "a bit of the data": (_at(SECOND, lambda data: _flipped(data, 8 * 150)), UNREADABLE + r".*bytes were changed on"),
    "a bit of an open": (_at(OPEN, lambda data: _flipped(data, 8 * 100)), UNREADABLE + r".*bytes were changed on"),
    "a bit of a seal": (_at(SEAL, lambda data: _flipped(data, 8 * 100)), UNREADABLE + r".*bytes were changed on"),
    "a bit of the address": (_at(THIRD, lambda data: _flipped(data, 8 * 60)), UNREADABLE + r".*bytes were changed on"),
    "a bit of the magic": (_at(FIRST, lambda data: _flipped(data, 3)), UNREADABLE + r"record begins with b'.MFY'"),
    "two writes in the wrong order": (lambda records: _swap(records, FIRST, SECOND), "seq 1 is missing"),
    "a seal before its last write": (lambda records: _swap(records, THIRD, SEAL), "seq 3 is missing"),
    "a write before its open": (lambda records: _swap(records, OPEN, FIRST), "the Open of this epoch is missing"),
    "an open that is missing": (_without(OPEN), "the Open of this epoch is missing"),
    "a write that is missing": (_without(SECOND), "seq 2 is missing"),
    "the last write missing": (_without(THIRD), "seq 3 is missing"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("killed", [False, True], ids=["lives on", "killed in between"])
async def test_a_tampered_epoch_is_refused_in_words_holds_the_position_and_is_healed(
    whole: tuple[Pair, Shipper], case: str, killed: bool
) -> None:
    made, shipper = whole
    before, content = made.position, made.target.content()
    tamper, reason = CASES[case]
    made.stream.add(tamper(await _epoch(made, shipper)))
    await made.catch_up()
    said = _refusal(made)
    assert isinstance(said, receipts.Gap)
    assert re.search(reason, said.reason), said.reason
    assert said.position.seal == before.seal
    _holds(made, before, content)
    if killed:
        await made.catch_up()
        _holds(made, before, content)
    await _heals(made, shipper)


async def test_an_epoch_that_was_never_sealed_stops_the_next_and_is_healed(whole: tuple[Pair, Shipper]) -> None:
    made, shipper = whole
    before, content = made.position, made.target.content()
    made.stream.add((await _epoch(made, shipper))[:SEAL])
    lost = shipper.state.epoch
    made.stream.add(await _epoch(made, shipper))
    await made.catch_up()
    said = _refusal(made)
    assert isinstance(said, receipts.Gap)
    assert f"epoch {lost} of attempt {shipper.state.attempt}, generation 1 was never sealed" in said.reason
    _holds(made, before, content)
    await _heals(made, shipper)


@pytest.mark.parametrize(
    "twice",
    [
        lambda records: [one for record in records for one in (record, record)],
        lambda records: [*records, *records],
        lambda records: [*records[:THIRD], *records],
        lambda records: [*records, records[SEAL], records[OPEN], records[SECOND]],
    ],
    ids=["each", "all", "most, as after a retry", "some, after the seal"],
)
async def test_what_comes_twice_is_applied_once_and_nobody_complains(
    whole: tuple[Pair, Shipper], twice: Tamper
) -> None:
    made, shipper = whole
    made.stream.add(twice(await _epoch(made, shipper)))
    await made.catch_up()
    assert made.equal()
    assert made.position.chain == shipper.state.chain
    assert made.position.usable
    applied = [said.position.epoch for said in made.said() if isinstance(said, receipts.Applied)]
    assert applied == sorted(set(applied)), "an epoch was applied twice"
    assert not [said for said in made.said() if isinstance(said, receipts.Gap | receipts.Diverged)]


async def test_a_seq_that_comes_again_with_other_content_is_two_writers(whole: tuple[Pair, Shipper]) -> None:
    made, shipper = whole
    before, content = made.position, made.target.content()
    records = await _epoch(made, shipper)
    address, event = _decoded(records[SECOND])
    assert isinstance(event, events.Written)
    forged = pair.record(address, replace(event, data=bytes(len(event.data))))
    made.stream.add([*records[:THIRD], forged, *records[THIRD:]])
    await made.catch_up()
    said = _refusal(made)
    assert isinstance(said, receipts.Diverged)
    assert said.reason == "seq 2 came twice with different content: two writers, one attempt"
    _holds(made, before, content)
    await _heals(made, shipper)


@pytest.mark.parametrize(
    ("at", "spoiled", "reason"),
    [
        (SECOND, {"data": bytes(pair.BLOCK)}, "read back from the medium are not what was written"),
        (SECOND, {"digests": bytes(32)}, "its events do not make the chain that its seal names"),
        (SEAL, {"chain": bytes(32)}, "its events do not make the chain that its seal names"),
        (SEAL, {"roots": (bytes(32),)}, "our Merkle root is not the one that its seal names"),
        (SEAL, {"cut": Cut.APPLICATION}, "its events do not make the chain that its seal names"),
    ],
    ids=["data", "digests", "chain", "root", "cut"],
)
async def test_an_epoch_whose_parts_do_not_agree_is_no_state_of_the_source(
    whole: tuple[Pair, Shipper], at: int, spoiled: dict[str, Any], reason: str
) -> None:
    made, shipper = whole
    before, content = made.position, made.target.content()
    records = await _epoch(made, shipper)
    address, event = _decoded(records[at])
    records[at] = pair.record(address, replace(event, **spoiled))
    made.stream.add(records)
    await made.catch_up()
    said = _refusal(made)
    assert isinstance(said, receipts.Diverged)
    assert reason in said.reason
    _holds(made, before, content)
    await _heals(made, shipper)


@pytest.mark.parametrize("which", ["generation", "attempt", "clone"])
async def test_a_writer_of_the_past_is_fenced_by_name_and_disturbs_nobody(
    whole: tuple[Pair, Shipper], which: str
) -> None:
    made, shipper = whole
    state = shipper.state
    attempt = {
        "generation": Attempt(state.attempt.counter + 5, b"restored"),
        "attempt": Attempt(state.attempt.counter - 1, b"restored"),
        "clone": Attempt(state.attempt.counter, b"restored"),
    }[which]
    generation = 0 if which == "generation" else state.generation
    records = await _epoch(made, shipper)
    stale = [_restamped(record, generation, attempt) for record in records]
    started = pair.record(Address(generation, attempt, 0, 0), events.Started("tests", state.chain))
    made.stream.add([*records[:SECOND], started, *stale, *records[SECOND:]])
    await made.catch_up()
    refused = [said for said in made.said() if isinstance(said, receipts.Fenced)]
    assert {(one.refused.attempt, one.generation, one.highest) for one in refused} == {(attempt, 1, state.attempt)}
    assert made.position.chain == shipper.state.chain
    assert made.equal()
    assert made.position.usable


def _restamped(record: bytes, generation: int, attempt: Attempt) -> bytes:
    """The same event, said by another writer, with other data."""
    address, event = _decoded(record)
    if isinstance(event, events.Written):
        event = replace(event, data=bytes(len(event.data)))
    return pair.record(replace(address, generation=generation, attempt=attempt), event)


async def test_records_of_another_stream_are_passed_over_aloud(
    whole: tuple[Pair, Shipper], caplog: pytest.LogCaptureFixture
) -> None:
    made, shipper = whole
    records = await _epoch(made, shipper)
    foreign = [pair.record(*_decoded(record), stream=pair.OTHER) for record in records]
    made.stream.add([one for both in zip(foreign, records, strict=True) for one in both])
    with caplog.at_level(logging.WARNING, "vmferry.reader"):
        await made.catch_up()
    assert f"holds a record of another stream ({pair.OTHER.hex()}): passed over" in caplog.text
    assert made.equal()
    assert made.position.usable


@pytest.mark.parametrize(
    ("at", "wrong", "said"),
    [
        (4, schema_errors.UnknownVersion, "record of version 9; this vmferry reads version 1: upgrade it"),
        (5, schema_errors.UnknownSuite, r"record of suite 9; this vmferry reads suite 0 \(plain\)"),
    ],
    ids=["version", "suite"],
)
async def test_a_record_of_the_future_stops_the_replica_until_it_is_upgraded(
    whole: tuple[Pair, Shipper], at: int, wrong: type[Exception], said: str
) -> None:
    made, shipper = whole
    before, content = made.position, made.target.content()
    records = await _epoch(made, shipper)
    place = len(made.stream.records) + SECOND
    made.stream.add(records)
    made.stream.records[place] = records[SECOND][:at] + b"\x09" + records[SECOND][at + 1 :]
    for _ in range(2):
        with pytest.raises(wrong, match=said):
            await made.catch_up()
        recovered = await made.replay()
        assert recovered.state.position == made.position
        _holds(made, before, content)
    made.stream.records[place] = records[SECOND]  # what an upgraded reader would see
    await made.catch_up()
    assert made.equal()
    assert made.position.usable


@pytest.mark.parametrize("killed", [False, True], ids=["sleeps", "killed"])
async def test_a_gap_after_retention_is_said_and_only_what_differs_travels_again(
    whole: tuple[Pair, Shipper], killed: bool
) -> None:
    made, shipper = whole
    before, content = made.position, made.target.content()
    asleep = None if killed else await made.catch_up()
    made.stream.add(await _epoch(made, shipper))
    made.stream.add(await _epoch(made, shipper))
    end = made.stream.end
    del made.stream.records[: end - made.stream.begin - 3]
    made.stream.begin = end - 3
    replay = asleep or await made.replay()
    while await replay.step(0):
        continue
    said = _refusal(made)
    assert isinstance(said, receipts.Gap)
    if not killed:
        assert re.search(rf"stream: offset \d+ is not on the bus, which holds {end - 3} to {end}", said.reason)
    _holds(made, before, content)
    mark = made.stream.end - made.stream.begin
    await _heals(made, shipper)
    written = [event for _, event in made.events(mark) if isinstance(event, events.Written)]
    assert sum(len(event.data) for event in written) == 3 * pair.BLOCK


async def test_of_two_producers_on_one_stream_the_older_stops_and_says_which_to_stop(
    whole: tuple[Pair, Shipper],
) -> None:
    made, shipper = whole
    clone = await made.shipper(made.producer.clone())
    async with made.following():
        await clone.start()
        await made.change([2])
        await made.ship(clone)
        assert made.equal()
        newer, older = str(clone.state.attempt), str(shipper.state.attempt)
        said = rf"another producer has taken over stream tests: attempt {newer} is newer than {older}\.  Stop one of"
        with pytest.raises(errors.Fenced, match=said):
            await _until_fenced(made, shipper)
        await made.change([3])
        await made.ship(clone)
    assert made.equal()
    assert made.position.usable
    assert made.position.attempt == clone.state.attempt


async def _until_fenced(made: Pair, shipper: Shipper) -> None:
    for _ in range(10):
        await made.change([7])
        await shipper.ship()
        await shipper.drain(0.5)
