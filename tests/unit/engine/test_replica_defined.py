"""A definition is a change of its epoch: admitted in its place, in the chain, and of no disk's bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine import epoch
from engine.replica import EMPTY, Begin, Decision, Define, Refuse, Replica, Restart, Sealed, Skip
from schemas import events, receipts
from schemas.identity import GENESIS, Address, Attempt, Cut, Volume

OLD, NOW, NEXT = (Attempt(counter, bytes([counter]) * 8) for counter in (4, 5, 6))
DEFINED = events.Defined(events.Form.LIBVIRT, "<domain/>", b"nvram")
OTHER = replace(DEFINED, text="<domain id='1'/>")
WRITER = epoch.Writer(1, NOW, 1, (Volume("vda", 1000, 64),), (events.Fit(GENESIS),))


def admitted(one: Replica, seq: int, event: events.Event, attempt: Attempt = NOW, number: int = 1) -> Decision:
    """Its print is made of what it says, as a checksum is."""
    return one.admit(Address(1, attempt, number, seq), event, hash(event))


def opened() -> Replica:
    one = Replica(b"my nonce", EMPTY, 0, Attempt(0))
    assert admitted(one, 0, events.Started("web", GENESIS), number=0) == Restart()
    assert admitted(one, 0, WRITER.opened) == Begin(WRITER.opened)
    return one


def sealing(*definitions: events.Defined) -> events.Seal:
    hasher = epoch.ChainHasher(1, 1, WRITER.opened)
    for one in definitions:
        hasher.feed(one)
    return events.Seal(1 + len(definitions), hasher.seal(Cut.CRASH, 0), Cut.CRASH, 0, (), 7)


def test_an_epoch_of_nothing_else_is_whole() -> None:
    one = opened()
    assert admitted(one, 1, DEFINED) == Define(DEFINED)
    assert admitted(one, 2, OTHER) == Define(OTHER)
    assert isinstance(admitted(one, 3, sealing(DEFINED, OTHER)), Sealed)
    assert admitted(one, 1, DEFINED) == Skip(), "it is of an epoch that is sealed"


@pytest.mark.parametrize("said", [(), (OTHER,), (DEFINED, DEFINED), (OTHER, DEFINED)])
def test_a_seal_of_other_definitions_is_not_of_this_epoch(said: tuple[events.Defined, ...]) -> None:
    one = opened()
    admitted(one, 1, DEFINED)
    if len(said) == 2:
        admitted(one, 2, OTHER)
    seal = replace(sealing(*said), count=max(2, 1 + len(said)))
    decision = admitted(one, seal.count, seal)
    assert isinstance(decision, Refuse)
    assert isinstance(decision.receipt, receipts.Diverged)


def test_one_that_came_already_is_skipped_and_another_in_its_place_is_refused() -> None:
    one = opened()
    admitted(one, 1, DEFINED)
    assert admitted(one, 1, DEFINED) == Skip()
    decision = admitted(one, 1, OTHER)
    assert isinstance(decision, Refuse)
    assert isinstance(decision.receipt, receipts.Diverged)


@pytest.mark.parametrize(("seq", "number"), [(2, 1), (1, 2)], ids=["a seq is missing", "its Open is missing"])
def test_one_that_does_not_come_next_is_refused(seq: int, number: int) -> None:
    decision = admitted(opened(), seq, DEFINED, number=number)
    assert isinstance(decision, Refuse)
    assert isinstance(decision.receipt, receipts.Gap)


def test_one_of_a_fenced_writer_is_skipped_and_one_of_an_abandoned_epoch_refused() -> None:
    one = opened()
    assert admitted(one, 1, DEFINED, OLD) == Skip()
    assert admitted(one, 0, events.Started("web", GENESIS), NEXT, 0) == Restart()
    assert admitted(one, 1, DEFINED) == Skip()
    assert isinstance(admitted(one, 1, DEFINED, NEXT), Refuse)
