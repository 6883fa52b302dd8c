"""What a replica makes of the word that nothing is kept for it: a line in its log, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from consumers.replay import Settings
from engine import envelope
from schemas import events, receipts, wire
from schemas.identity import GENESIS, Address, Attempt
from tests.support.settling import ATTEMPT, REPLICA, STREAM, Bench, fill, told

OTHER = b"a replica of two"
NEWER = Attempt(6, b"attempt6")


def word(offset: int = 100, *replicas: bytes) -> events.Lapsed:
    behind = tuple(events.Behind(one, 0, 0) for one in replicas or (REPLICA,))
    return events.Lapsed(events.Why.CAP, offset, 900, 500, 7, behind)


def say(bench: Bench, said: events.Lapsed, attempt: Attempt = ATTEMPT) -> None:
    bench.say(Address(1, attempt, 0, 0), said)


def everywhere(bench: Bench) -> None:
    """Words between all records of the log, of its writer and of one of the past."""
    found = bench.stream.records
    words = [wire.pack_event(STREAM, Address(1, one, 0, 0), word()) for one in (ATTEMPT, Attempt(3, b"attempt3"))]
    bench.stream.records = [record for one in found for record in (*words, one)] + words


async def replayed(tamper: Callable[[Bench], None]) -> tuple[Bench, list[str]]:
    """What is done to the world when two epochs and an open one are read at once."""
    bench = Bench(Settings(keep=1))
    for content in (b"a", b"b"):
        bench.epoch(fill(content), pieces=4)
    bench.epoch(fill(b"c"), pieces=4, seal=False)
    tamper(bench)
    replay = await bench.replay()
    await bench.read(replay)
    return bench, bench.order


async def test_words_between_all_records_change_neither_bytes_nor_receipts_nor_the_order_of_effects() -> None:
    plain, order = await replayed(lambda bench: None)
    bench, found = await replayed(everywhere)
    assert len(bench.stream.records) == 3 * len(plain.stream.records) + 2
    assert found == order
    assert bench.device.content() == plain.device.content() == fill(b"c")
    assert told(bench, receipts.Applied) == told(plain, receipts.Applied) == [1, 2]
    kinds = [type(one) for _, one in bench.said()]
    assert kinds == [type(one) for _, one in plain.said()] == [receipts.Answered, receipts.Applied, receipts.Applied]
    again = await bench.replay()
    assert bench.device.content() == fill(b"b"), "the open epoch is taken back"
    assert again.state.position.epoch == 2


async def test_how_far_it_has_read_in_an_epoch_stays_its_last_word() -> None:
    bench = Bench()
    replay = await bench.replay()
    bench.epoch(fill(b"a"), pieces=4, seal=False)
    say(bench, word())
    say(bench, word(), Attempt(3, b"attempt3"))
    await bench.read(replay)
    frames = [wire.unpack(record) for record in bench.answers.records]
    said = [wire.receipt(frame.kind, envelope.body(frame))[1] for frame in frames]
    assert [one for one in said if isinstance(one, receipts.Progress)][-1] == receipts.Progress(ATTEMPT, 1, 4)


@pytest.mark.parametrize(
    ("said", "heard"),
    [(word(), True), (word(100, OTHER, REPLICA), True), (word(100, OTHER), False), (word(7), False), (word(8), True)],
    ids=["it", "it and another", "another", "all that it has applied", "a record that it has not applied"],
)
async def test_a_replica_that_is_named_and_lacks_what_goes_tells_its_log(
    said: events.Lapsed, heard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.epoch(fill(b"a"), pieces=4)
    replay = await bench.replay()
    await bench.read(replay)
    assert bench.position.offset == 7
    say(bench, said)
    with caplog.at_level(logging.WARNING, "vmferry.replay"):
        await bench.read(replay)
    lines = [one.getMessage() for one in caplog.records]
    assert len(lines) == heard
    if heard:
        assert f"below offset {said.offset}, which this replica has not applied (cap): it is at epoch 1" in lines[0]
    assert not any(isinstance(one, receipts.Gap) for _, one in bench.said())


async def test_one_that_comes_back_reads_it_of_an_attempt_that_it_does_not_know(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    replay = await bench.replay()
    await bench.read(replay)
    say(bench, word(), NEWER)  # its `Started` is gone with the rest
    with caplog.at_level(logging.WARNING, "vmferry.replay"):
        await bench.read(replay)
    assert "which this replica has not applied" in caplog.text
    bench.say(Address(1, NEWER, 0, 0), events.Started("test", GENESIS))
    await bench.read(replay)
    assert [type(one) for _, one in bench.said()] == [receipts.Answered, receipts.Answered]
