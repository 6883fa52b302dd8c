"""Records that a replica has not applied go only behind a word of it that the bus has acknowledged."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from engine import errors
from producers import lease
from producers.pace import Peer
from producers.ship import Shipper
from schemas import events
from schemas.events import Behind, Lapsed, Why
from schemas.identity import Attempt, Cut
from schemas.receipts import Position
from tests.support.pair import Pair
from tests.support.sim.loop import virtual

AWAY, SLOW, WELL = b"replica, it went", b"replica, is slow", b"replica, is well"


class Bench:
    """A source with three sealed epochs on its log and three registered replicas, one of which it hears.

    `order` is what happens to its stream's log from then on; the operation `failing` fails.
    """

    def __init__(self) -> None:
        self.pair = Pair()
        self.pair.settings = replace(self.pair.settings, answer=0.02, repeat=0.02)
        self.order: list[str] = []
        self.failing = ""

    async def gate(self, operation: str, topic: str) -> None:
        if topic == "stream" and operation in ("append", "sync", "synced", "trim"):
            self.order.append(operation)
            if operation == self.failing:
                raise errors.Transient(f"{operation}: the broker is away")

    async def started(self) -> Shipper:
        shipper = await self.pair.shipper(gate=self.gate)
        await shipper.start()
        return shipper

    async def shipped(self) -> Shipper:
        """A process that has sealed three epochs."""
        shipper = await self.started()
        for block in (1, 5, 9):
            await self.pair.change([block])
            await shipper.ship()
        shipper.ledger.keep(peers=(AWAY, SLOW, WELL))
        self.applied(shipper, WELL, shipper.state.offset)
        self.applied(shipper, SLOW, 3)
        self.order.clear()
        return shipper

    def applied(self, shipper: Shipper, replica: bytes, offset: int, answered: bool = True) -> None:
        position = Position(attempt=shipper.state.attempt, epoch=7, offset=offset)
        shipper.peers[replica] = Peer(replica, applied=position, answered=answered)

    def words(self) -> list[Lapsed]:
        return [event for _, event in self.pair.events() if isinstance(event, Lapsed)]


async def test_it_is_said_then_synced_then_let_go_of_in_this_order_and_no_other() -> None:
    bench = Bench()
    shipper = await bench.shipped()
    upto, end = shipper.state.offset, bench.pair.stream.end
    assert await lease.let_go(shipper, upto, Why.CAP, 900, 500)
    assert bench.order == ["append", "sync", "synced", "trim"]
    (word,) = bench.words()
    assert replace(word, instant=0) == Lapsed(Why.CAP, upto, 900, 500, 0, (Behind(AWAY, 0, 0), Behind(SLOW, 7, 3)))
    assert (bench.pair.stream.begin, bench.pair.stream.end) == (upto, end + 1), "the word stays when what it names goes"
    ((address, _),) = bench.pair.events()
    assert (address.attempt, address.epoch, address.seq) == (shipper.state.attempt, 0, 0)


@pytest.mark.parametrize(("failing", "said"), [("append", 0), ("sync", 0), ("synced", 1), ("trim", 1)])
async def test_a_word_that_is_not_acknowledged_and_a_trim_that_fails_let_nothing_go(failing: str, said: int) -> None:
    bench = Bench()
    shipper = await bench.shipped()
    bench.failing = failing
    with pytest.raises(errors.Transient, match=failing):
        await lease.let_go(shipper, shipper.state.offset, Why.CAP, 900, 500)
    assert bench.order[-1] == failing
    assert (bench.pair.stream.begin, shipper.trimmed) == (0, 0)
    assert len(bench.words()) == said
    await shipper.close()
    bench.failing = ""
    again = await bench.started()  # the next process finds as much to let go of, and says it in its own name
    assert await lease.let_go(again, again.state.offset, Why.CAP, 900, 500)
    assert bench.pair.stream.begin == again.state.offset
    assert len(bench.words()) == said + 1


async def test_what_every_registered_replica_has_applied_goes_without_a_word() -> None:
    bench = Bench()
    shipper = await bench.shipped()
    bench.applied(shipper, AWAY, 3)
    assert await lease.let_go(shipper, 3, Why.CAP)
    assert bench.order == ["trim"]
    assert not await lease.let_go(shipper, 3, Why.CAP)
    assert not await lease.let_go(shipper, 2, Why.CAP)
    assert bench.order == ["trim"], "it is gone already"


async def test_whoever_did_not_answer_is_named_when_a_run_that_keeps_no_history_lets_go() -> None:
    bench = Bench()
    shipper = await bench.shipped()
    bench.applied(shipper, SLOW, 5, answered=False)
    await lease.trim_applied(shipper)
    assert bench.order == ["append", "sync", "synced", "trim"]
    (word,) = bench.words()
    assert (word.why, word.offset, word.held, word.cap) == (Why.SILENCE, shipper.state.offset, 0, 0)
    assert word.replicas == (Behind(AWAY, 0, 0), Behind(SLOW, 7, 5))


async def test_nobody_who_answers_lets_nothing_go() -> None:
    bench = Bench()
    shipper = await bench.shipped()
    for replica in (SLOW, WELL):
        bench.applied(shipper, replica, 5, answered=False)
    await lease.trim_applied(shipper)
    assert bench.order == []


async def test_one_whose_lease_has_ended_is_waited_for_no_more_and_said() -> None:
    bench = Bench()
    shipper = await bench.shipped()
    shipper.ledger.keep(peers=(SLOW, WELL))
    shipper.peers[SLOW].lapsed = True
    await lease.trim_applied(shipper)
    (word,) = bench.words()
    assert word.replicas == (Behind(SLOW, 7, 3),)


async def test_an_offset_of_an_earlier_start_may_be_of_a_lost_log_and_lets_nothing_go() -> None:
    bench = Bench()
    shipper = await bench.shipped()
    old = replace(shipper.peers[SLOW].applied, attempt=Attempt(0), offset=10**6)
    shipper.peers[SLOW].applied = old
    await lease.trim_applied(shipper)
    assert bench.order == []
    assert lease.lagging(shipper, 2) == (Behind(AWAY, 0, 0), Behind(SLOW, 7, 0))


async def test_one_that_was_overtaken_lets_nothing_go() -> None:
    bench = Bench()
    shipper = await bench.shipped()
    shipper.ear.fenced = Attempt(99)
    assert not await lease.let_go(shipper, shipper.state.offset, Why.CAP)
    assert not await lease.let_go(shipper, 2, Why.CAP)
    assert bench.order == []


@pytest.mark.parametrize("opened", ["on its way", "on the bus", "its seal pending", "its seal on its way"])
async def test_nothing_is_said_within_an_epoch_and_nothing_goes_unsaid(opened: str) -> None:
    bench = Bench()
    shipper = await bench.shipped()
    state = shipper.state
    where = replace(shipper._address(), epoch=state.highest + 1)
    await shipper.post.add(where, events.Open(state.volumes, ()))
    if opened == "on the bus":
        await (await shipper.post.hand_over())
    if opened.startswith("its seal"):
        shipper.post._settings = replace(shipper.settings, batch=1 << 20 if opened == "its seal pending" else 100)
        await shipper.post.add(replace(where, seq=1), events.Seal(1, state.chain, Cut.NONE, 0, (), 0))
    bench.order.clear()
    assert not await lease.let_go(shipper, state.offset, Why.CAP)
    assert bench.order == []
    await shipper.start()  # what was open is left behind
    bench.order.clear()
    assert await lease.let_go(shipper, state.offset, Why.CAP)
    assert bench.order == ["append", "sync", "synced", "trim"]
    await shipper.close()


@virtual
async def test_while_a_pass_is_under_way_what_can_go_is_looked_for_once_a_second() -> None:
    state, looks = SimpleNamespace(attempt=1, offset=700), list[float]()
    shipper = cast(Shipper, SimpleNamespace(before_epoch=None, state=state))

    async def trim() -> None:
        looks.append(round(asyncio.get_running_loop().time(), 1))

    async def go_on(epochs: int) -> None:
        assert shipper.before_epoch is not None
        for _ in range(epochs):
            await asyncio.sleep(0.4)
            await shipper.before_epoch()

    lease.while_shipping(shipper, trim)
    await go_on(5)
    assert looks == [], "nothing of this start is on the log yet"
    state.offset = 3
    await go_on(5)
    assert looks == [2.4, 3.6]
    state.attempt = 2
    await go_on(5)
    assert looks == [2.4, 3.6], "after a new start neither"
