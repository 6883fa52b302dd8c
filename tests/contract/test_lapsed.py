"""Words of what is let go of, between a real producer and a real replica: read over by both, whoever starts again."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from engine import errors
from producers import lease
from producers.ship import Shipper
from schemas import events, receipts
from schemas.events import Behind, Lapsed, Why
from schemas.identity import Address, Attempt
from tests.support import pair
from tests.support.pair import REPLICA, Pair

AWAY = b"replica, it went"


@pytest.fixture
async def made() -> Pair:
    """A pair with a baseline that is applied and proved, and a second replica that is registered and away."""
    found = Pair()
    await found.change(range(15))
    shipper = await found.shipper()
    async with found.following():
        await shipper.start()
        await found.ship(shipper)
    shipper.ledger.keep(peers=(REPLICA, AWAY))
    await shipper.close()
    found.settings = replace(found.settings, answer=0.5)
    return found


async def _let_go(shipper: Shipper) -> Lapsed:
    assert await lease.let_go(shipper, shipper.state.offset, Why.CAP, 900, 500)
    return Lapsed(Why.CAP, shipper.state.offset, 900, 500, 0, ())


def _sent(found: Pair, first: int) -> int:
    """Bytes of data on the log behind its record `first`."""
    written = [event for _, event in found.events(first - found.stream.begin) if isinstance(event, events.Written)]
    return sum(len(event.data) for event in written)


async def test_a_producer_that_starts_again_reads_over_its_own_words_and_sends_only_what_changed(made: Pair) -> None:
    for _ in range(2):
        shipper = await made.shipper()
        async with made.following():
            await shipper.start()
            mark = made.stream.end
            await made.change([3])
            await made.ship(shipper)
            assert _sent(made, mark) == pair.BLOCK
            await _let_go(shipper)
            await made.change([4])
            await made.ship(shipper)
        await shipper.close()
        assert made.equal()
    words = [event for _, event in made.events() if isinstance(event, Lapsed)]
    assert [word.replicas for word in words] == [(Behind(AWAY, 0, 0),)], "the first went with what the second names"
    assert not [one for one in made.said() if isinstance(one, receipts.Gap | receipts.Diverged | receipts.Fenced)]


async def test_a_seal_that_was_not_counted_is_adopted_also_with_words_around_it(made: Pair) -> None:
    dying = False

    async def gate(operation: str, topic: str) -> None:
        if dying and (operation, topic) == ("synced", "stream"):
            raise errors.Transient("killed between the seal and its counting")

    shipper = await made.shipper(gate=gate)
    async with made.following():
        await shipper.start()
        await made.ship(shipper)
    before, attempt, dying = shipper.state.epoch, shipper.state.attempt, True
    await made.change([2])
    _say(made, attempt)
    with pytest.raises(errors.Transient, match="killed"):
        await shipper.ship()
    _say(made, attempt)
    _say(made, Attempt(1, b"a zombie"))
    assert shipper.state.epoch == before
    await shipper.close()
    again = await made.shipper()
    async with made.following():
        await again.start()
        assert again.state.epoch == before + 1
        mark = made.stream.end
        await made.ship(again)
        assert _sent(made, mark) == 0
    assert made.equal()
    assert made.position.usable
    await again.close()


def _say(made: Pair, attempt: Attempt) -> None:
    made.stream.add([pair.record(Address(1, attempt, 0, 0), Lapsed(Why.CAP, 3, 900, 500, 0, (Behind(AWAY, 0, 0),)))])


async def test_the_replica_that_was_passed_finds_the_word_behind_the_gap_and_is_healed_by_what_differs(
    made: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    at = made.position
    shipper = await made.shipper()
    await shipper.start()  # nobody answers
    for block in (2, 6):
        await made.change([block])
        await shipper.ship()
    await _let_go(shipper)
    assert made.stream.begin == shipper.state.offset > at.offset
    mark = made.stream.end
    with caplog.at_level(logging.WARNING, "vmferry.replay"):
        async with made.following():
            await made.change([9])
            await made.ship(shipper)
    assert made.equal()
    assert made.position.usable
    assert _sent(made, mark) <= 4 * pair.BLOCK, "the one epoch that it refused, and the three blocks that differ"
    assert f"lets go of the records below offset {made.stream.begin}, which this replica has not applied" in caplog.text
    assert [one for one in made.said() if isinstance(one, receipts.Gap | receipts.Diverged)]
    await shipper.close()


async def test_the_word_of_a_producer_that_was_overtaken_is_nobodys(made: Pair) -> None:
    old = await made.shipper()
    async with made.following():
        await old.start()
        await made.ship(old)
        new = await made.shipper(made.producer.clone())
        await new.start()
        await old.say(Lapsed(Why.CAP, 1 << 40, 900, 500, 0, (Behind(REPLICA, 0, 0),)))
        mark = made.stream.end
        await made.change([5])
        await made.ship(new)
        assert _sent(made, mark) == pair.BLOCK
        assert made.position.attempt == new.state.attempt
        again = await made.shipper(made.producer.clone())
        await again.start()  # over the word of the past, too
        assert again.state.attempt.counter > new.state.attempt.counter
    assert made.equal()
    assert not [one for one in made.said() if isinstance(one, receipts.Gap | receipts.Diverged)]
    for one in (old, new, again):
        await one.close()


async def test_a_word_that_the_bus_does_not_acknowledge_keeps_every_record_for_the_replica_that_is_away(
    made: Pair,
) -> None:
    async def gate(operation: str, topic: str) -> None:
        if (operation, topic) == ("sync", "stream") and refusing:
            raise errors.Transient("the broker is away")

    refusing = False
    shipper = await made.shipper(gate=gate)
    await shipper.start()
    await made.change([2])
    await shipper.ship()
    held, refusing = list(made.stream.records), True
    with pytest.raises(errors.Transient):
        await _let_go(shipper)
    assert (made.stream.begin, made.stream.records) == (0, held)
    await shipper.close()
    await made.catch_up()
    assert made.position.epoch == shipper.state.epoch, "history was all that it needed"
    assert made.equal()
