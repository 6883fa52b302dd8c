"""What a producer makes of what it hears: which answers count, who has to be heard again, and who has taken over."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from engine import errors
from engine.bus.memory import MemoryLog, Topic, open_gate
from producers.ear import Ear, Restart
from schemas import receipts, wire
from schemas.identity import Address, Attempt, Chain, Cut, SealId
from tests.support.sim.loop import run

STREAM, OTHER = b"stream of a test", b"another stream 1"
ONE, TWO = b"a replica of one", b"a replica of two"
NONCE, STRANGER = b"my nonce", b"a nonce."
BEFORE, NOW, NEWER = (Attempt(counter, b"attempt%d" % counter) for counter in (4, 5, 6))
OWN, THEIRS, NEW = (Chain(letter * 32) for letter in (b"o", b"t", b"n"))
AT = receipts.Position(1, BEFORE, 20, THEIRS, (), (), Cut.CRASH, 0, complete=True)


class Bench:
    """An ear at a topic of receipts."""

    def __init__(self) -> None:
        self.topic = Topic()
        self.ear = Ear(STREAM, "web", MemoryLog("receipts", self.topic, open_gate, None))

    def say(
        self, receipt: receipts.Receipt, who: bytes = ONE, attempt: Attempt = NOW, stream: bytes = STREAM,
        nonce: bytes = NONCE,
    ) -> None:  # fmt: skip
        sender = receipts.Sender(who, nonce, 1)
        self.topic.add([wire.pack_receipt(stream, Address(1, attempt, 0, 0), sender, receipt)])

    async def hear(self, *said: receipts.Receipt, who: bytes = ONE) -> None:
        for one in said:
            self.say(one, who)
        await self.ear.hear(0)

    async def compared(self, *answers: receipts.Answered) -> None:
        """A start was made, these answers came to it and were compared."""
        await self.ear.listen(NOW)
        await self.hear(*answers)
        self.ear.close_answers()
        self.ear.compared(OWN)


def answered(
    chain: Chain = THEIRS, attempt: Attempt = NOW, nonce: bytes = NONCE, of: Attempt = BEFORE
) -> receipts.Answered:
    return receipts.Answered(attempt, replace(AT, chain=chain, attempt=of), nonce, 20, ())


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_only_answers_to_this_attempt_count() -> None:
    bench = Bench()
    await bench.ear.listen(NOW)
    await bench.hear(answered(attempt=BEFORE), answered(attempt=NEWER), answered(attempt=Attempt(5, b"a clone.")))
    assert bench.ear.close_answers() == {}
    assert bench.ear.waited_for() == []


async def test_what_was_said_before_we_listened_does_not_count() -> None:
    bench = Bench()
    bench.say(answered())
    bench.say(receipts.Fenced(SealId(1, NOW, 0), 1, NEWER))
    await bench.ear.listen(NOW)
    await bench.ear.hear(0)
    assert bench.ear.close_answers() == {}
    bench.ear.check()


async def test_of_two_answers_the_later_counts() -> None:
    bench = Bench()
    await bench.ear.listen(NOW)
    await bench.hear(answered(THEIRS), answered(NEW))
    assert bench.ear.close_answers() == {ONE: answered(NEW)}


async def test_what_a_replica_wanted_before_it_answered_this_start_gives_it() -> None:
    bench = Bench()
    await bench.ear.listen(NOW)
    await bench.hear(receipts.Gap(SealId(1, NOW, 21), AT, "seq 3 is missing"), answered())
    bench.ear.check()


@pytest.mark.parametrize(
    ("late", "welcome"),
    [
        (answered(), True),
        (answered(OWN), True),
        (answered(NEW, of=NOW), True),
        (answered(NEW), False),
        (answered(nonce=STRANGER), False),
        (answered(OWN, nonce=STRANGER), True),
        (answered(NEW, attempt=BEFORE), True),
    ],
    ids=["as before", "our own chain", "a state of this attempt", "another state", "another store", "a new store, ours",
         "to an older start"],
)  # fmt: skip
async def test_a_late_answer_fits_what_was_compared_or_asks_for_a_new_start(
    late: receipts.Answered, welcome: bool
) -> None:
    bench = Bench()
    await bench.compared(answered())
    await bench.hear(late)
    if welcome:
        bench.ear.check()
    else:
        with pytest.raises(Restart, match="it answered late, from a state that was not compared"):
            bench.ear.check()


async def test_while_trees_are_compared_our_own_chain_is_not_known_yet() -> None:
    bench = Bench()
    await bench.ear.listen(NOW)
    bench.ear.close_answers()
    await bench.hear(answered(OWN))
    with pytest.raises(Restart):
        bench.ear.check()


async def test_a_replica_that_never_spoke_before_asks_for_a_new_start() -> None:
    bench = Bench()
    await bench.compared(answered())
    await bench.hear(answered(NEW), who=TWO)
    with pytest.raises(Restart, match=f"replica {TWO.hex()[:8]}"):
        bench.ear.check()
    assert [peer.replica for peer in bench.ear.waited_for()] == [ONE, TWO]


async def test_nodes_are_kept_by_question_and_only_of_this_attempt() -> None:
    bench = Bench()
    await bench.ear.listen(NOW)
    bench.say(receipts.Nodes(1, (b"+",)))
    bench.say(receipts.Nodes(2, (b"",)), attempt=BEFORE)
    await bench.ear.hear(0)
    assert bench.ear.nodes == {1: (b"+",)}
    await bench.ear.listen(NEWER)
    assert bench.ear.nodes == {}


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [receipts.Gap, receipts.Diverged])
@pytest.mark.parametrize(
    ("refused", "heard"), [(NOW, True), (BEFORE, False), (NEWER, False), (Attempt(0), True)],
    ids=["of this attempt", "of an older one", "of a newer one", "of a record that nobody could read"],
)  # fmt: skip
async def test_a_refusal_asks_for_a_new_start_unless_it_is_about_another_attempt(
    kind: type[receipts.Gap], refused: Attempt, heard: bool
) -> None:
    bench = Bench()
    await bench.compared(answered())
    await bench.hear(kind(SealId(1, refused, 21), AT, "seq 3 is missing"))
    if heard:
        with pytest.raises(Restart, match=f"replica {ONE.hex()[:8]}: seq 3 is missing"):
            bench.ear.check()
    else:
        bench.ear.check()


async def test_a_rewound_replica_needs_a_new_start() -> None:
    bench = Bench()
    await bench.compared(answered())
    await bench.hear(receipts.Rewound(AT, 25))
    with pytest.raises(Restart, match="it was rewound"):
        bench.ear.check()


async def test_a_new_start_forgets_what_was_wanted_of_the_one_before() -> None:
    bench = Bench()
    await bench.compared(answered())
    await bench.hear(receipts.Gap(SealId(1, NOW, 21), AT, "x"), receipts.Fenced(SealId(1, NOW, 0), 1, NEWER))
    await bench.ear.listen(NEWER)
    bench.ear.check()
    assert bench.ear.waited_for() == []


@pytest.mark.parametrize(
    ("refused", "highest", "stops"),
    [
        (NOW, NEWER, True),
        (NOW, Attempt(5, b"a clone."), True),
        (NOW, BEFORE, False),
        (BEFORE, NEWER, False),
        (Attempt(5, b"a clone."), NEWER, False),
    ],
    ids=["by a newer one", "by a clone", "by an older one", "our own past", "a clone's"],
)
async def test_a_newer_producer_stops_this_one_by_name(refused: Attempt, highest: Attempt, stops: bool) -> None:
    bench = Bench()
    await bench.compared(answered())
    await bench.hear(receipts.Fenced(SealId(1, refused, 0), 1, highest))
    if stops:
        said = f"another producer has taken over stream web: attempt {highest} is newer than {NOW}"
        with pytest.raises(errors.Fenced, match=said):
            bench.ear.check()
    else:
        bench.ear.check()


async def test_being_fenced_comes_before_a_wish_for_a_new_start() -> None:
    bench = Bench()
    await bench.compared(answered())
    await bench.hear(receipts.Rewound(AT, 25), receipts.Fenced(SealId(1, NOW, 0), 1, NEWER))
    with pytest.raises(errors.Fenced):
        bench.ear.check()


# -- the rest ----------------------------------------------------------------------------------------------------------


async def test_the_word_of_other_streams_and_what_cannot_be_read_is_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    await bench.ear.listen(NOW)
    bench.say(answered(NEW), stream=OTHER)
    bench.topic.add([b"garbage"])
    with caplog.at_level(logging.WARNING, "vmferry.ship"):
        await bench.hear(answered())
    assert bench.ear.close_answers() == {ONE: answered()}
    assert "a receipt at offset 1 cannot be read" in caplog.text


async def test_receipts_that_the_bus_has_lost_are_passed_over_and_hearing_goes_on() -> None:
    bench = Bench()
    await bench.ear.listen(NOW)
    bench.topic.begin = 7
    await bench.ear.hear(0)
    await bench.hear(answered())
    assert bench.ear.close_answers() == {ONE: answered()}
    bench.topic.records.clear()
    bench.topic.begin = 3
    await bench.ear.hear(0)
    await bench.hear(receipts.Applied(AT))
    assert bench.ear.peers[ONE].applied == AT


async def test_every_receipt_is_passed_on_and_what_was_reached_is_noted() -> None:
    bench, told = Bench(), list[tuple[bytes, receipts.Receipt]]()
    bench.ear.heard = lambda replica, receipt: told.append((replica, receipt))
    await bench.ear.listen(NOW)
    said: list[receipts.Receipt] = [answered(), receipts.Applied(replace(AT, epoch=21)), receipts.Verified(AT)]
    await bench.hear(*said)
    assert told == [(ONE, one) for one in said]
    peer = bench.ear.peers[ONE]
    assert (peer.applied.epoch, peer.verified.epoch, peer.nonce) == (21, 20, NONCE)


async def test_progress_counts_of_this_attempt_alone() -> None:
    bench = Bench()
    await bench.compared(answered())
    bench.ear.window.add(21, 0, 100)
    await bench.hear(receipts.Progress(BEFORE, 99, 9))
    assert bench.ear.window.behind(bench.ear.waited_for()) == 100
    await bench.hear(receipts.Progress(NOW, 21, 0))
    assert bench.ear.window.behind(bench.ear.waited_for()) == 0


async def test_what_was_applied_was_read_even_if_its_reader_died_before_it_said_so() -> None:
    bench = Bench()
    await bench.compared(answered())
    bench.ear.window.add(21, 0, 100)
    await bench.hear(receipts.Applied(replace(AT, attempt=BEFORE, epoch=21)))
    assert bench.ear.window.behind(bench.ear.waited_for()) == 100
    await bench.hear(receipts.Applied(replace(AT, attempt=NOW, epoch=21)))
    assert bench.ear.window.behind(bench.ear.waited_for()) == 0


def test_a_lease_ends_after_silence_and_any_progress_renews_it() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.compared(answered())
        loop = asyncio.get_running_loop()
        bench.ear.lapse(60, loop.time())
        assert len(bench.ear.waited_for()) == 1
        since = loop.time()
        await asyncio.sleep(61)
        bench.ear.lapse(60, since + 30)
        assert len(bench.ear.waited_for()) == 1, "it is counted from the begin of the wait at the earliest"
        bench.ear.lapse(60, since)
        assert bench.ear.waited_for() == []
        await bench.hear(receipts.Progress(NOW, 21, 0))
        assert len(bench.ear.waited_for()) == 1

    run(main())
