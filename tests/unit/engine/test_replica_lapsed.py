"""Words said between epochs change nothing for a replica, whoever says them and wherever they stand."""

from __future__ import annotations

import pytest

from engine import epoch
from engine.replica import EMPTY, Apply, Begin, Decision, Hear, Refuse, Replica, Restart, Sealed, Skip
from schemas import events
from schemas.identity import GENESIS, Address, Attempt, Chain, Cut, Volume

OLD, NOW, NEXT = (Attempt(counter, bytes([counter]) * 8) for counter in (4, 5, 6))
CLONE = Attempt(5, b"a clone.")
VOLUMES = (Volume("vda", 1000, 64),)
WORD = events.Lapsed(events.Why.CAP, 40, 900, 500, 7, (events.Behind(b"r" * 16, 20, 30),))
STEP = events.Stepped(events.Rung.SCAN, "the bitmap is gone", 7)
WRITTEN, ZEROED = events.Written(0, 64, b"d" * 32, b"x" * 64), events.Zeroed(0, 128, 10)

History = list[tuple[Address, events.Event]]


def sealed(number: int, fits: Chain) -> tuple[History, Chain]:
    writer = epoch.Writer(1, NOW, number, VOLUMES, (events.Fit(fits),))
    found: History = [(writer.next_address(), writer.opened)]
    found += [(writer.change(WRITTEN), WRITTEN), (writer.change(ZEROED), ZEROED)]
    seal = writer.seal(Cut.CRASH, 0, (), 7)
    return [*found, (writer.next_address(), seal)], seal.chain


def history() -> History:
    """A start and two epochs."""
    first, chain = sealed(1, GENESIS)
    second, _ = sealed(2, chain)
    return [(Address(1, NOW, 0, 0), events.Started("web", GENESIS)), *first, *second]


HISTORY = history()


def decided(records: History) -> tuple[list[Decision], Replica]:
    one = Replica(b"my nonce", EMPTY, 0, Attempt(0))
    return [one.admit(address, event, 1000 + at) for at, (address, event) in enumerate(records)], one


def test_the_history_is_admitted_whole() -> None:
    kinds = [type(one) for one in decided(HISTORY)[0]]
    assert kinds == [Restart, Begin, Apply, Apply, Sealed, Begin, Apply, Apply, Sealed]


@pytest.mark.parametrize("said", [WORD, STEP], ids=["lapsed", "stepped"])
@pytest.mark.parametrize("place", range(1, len(HISTORY) + 1))
@pytest.mark.parametrize(
    ("generation", "attempt", "heard"),
    [(1, NOW, True), (1, NEXT, True), (2, OLD, True), (1, OLD, False), (1, CLONE, False), (0, NEXT, False)],
    ids=["its writer", "a newer attempt", "a newer generation", "an older attempt", "a clone", "an older generation"],
)
def test_it_disturbs_no_epoch_not_even_an_open_one(
    place: int, generation: int, attempt: Attempt, heard: bool, said: events.Word
) -> None:
    without, wanted = decided(HISTORY)
    word = (Address(generation, attempt, 0, 0), said)
    found, one = decided([*HISTORY[:place], word, word, *HISTORY[place:]])
    assert found[place : place + 2] == [Hear(said) if heard else Skip()] * 2
    assert [*found[:place], *found[place + 2 :]] == without
    for name in ("tip", "settled", "generation", "fence", "highest", "held", "opened_since_start"):
        assert getattr(one, name) == getattr(wanted, name), name


def test_one_that_is_held_stays_held_and_says_nothing_more() -> None:
    one = decided(HISTORY[:2])[1]
    assert isinstance(one.admit(Address(1, NOW, 1, 3), ZEROED, 5), Refuse)
    reason = one.held
    assert one.admit(Address(1, NOW, 0, 0), WORD, 6) == Hear(WORD)
    assert reason is not None
    assert one.held == reason


def test_an_epoch_that_was_said_before_it_is_still_known_after_it() -> None:
    one = decided([*HISTORY[:3], (Address(1, NOW, 0, 0), WORD)])[1]
    again = [one.admit(address, event, 1000 + at) for at, (address, event) in enumerate(HISTORY[:3])]
    assert again[1:] == [Skip(), Skip()]
