"""What a replica admits: for each state and record what is decided, and what state that leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from engine import epoch, replica
from engine.replica import Answer, Apply, Begin, Decision, Refuse, Replica, Restart, Sealed, Skip
from schemas import events, receipts
from schemas.identity import GENESIS, NO_NONCE, Address, Attempt, Chain, Cut, Volume

NONCE, STRANGER = b"my nonce", b"a nonce."
HERE, ELSEWHERE = Chain(b"h" * 32), Chain(b"e" * 32)
OLD, NOW, NEXT = (Attempt(counter, bytes([counter]) * 8) for counter in (4, 5, 6))
CLONE = Attempt(5, b"a clone.")
VOLUMES = (Volume("vda", 1000, 64), Volume("vdb", 10, 64))
AT = receipts.Position(3, OLD, 20, HERE, VOLUMES, (), Cut.CRASH, 0, complete=True, offset=99)
OWN = (events.Fit(HERE),)
STARTED = events.Started("web", HERE)
ASKED = events.Asked(1, b"r" * 16, 0, 0, 0, 1)
OPEN = events.Open(VOLUMES, OWN)
WRITTEN = events.Written(0, 64, b"d" * 32, b"x" * 64)
ZEROED = events.Zeroed(1, 0, 10)
SEALED = receipts.Position(3, NOW, 21, GENESIS, VOLUMES, (), Cut.CRASH, 0, complete=True)
"""But for its chain, which its seal makes."""


def seal_of(opened: events.Open, *changes: events.Written | events.Zeroed, missing: int = 0) -> events.Seal:
    hasher = epoch.ChainHasher(3, 21, opened)
    for change in changes:
        hasher.feed(change)
    return events.Seal(1 + len(changes), hasher.seal(Cut.CRASH, missing), Cut.CRASH, missing, (), 7)


SEAL = seal_of(OPEN, WRITTEN, ZEROED)


@dataclass(frozen=True)
class Record:
    """One record; what is not said is what comes next in order. Its print is made of all of it."""

    event: events.Event
    seq: int = 0
    number: int = 21
    attempt: Attempt = NOW
    generation: int = 3
    print_: int = 0

    @property
    def address(self) -> Address:
        return Address(self.generation, self.attempt, self.number, self.seq)

    def to(self, one: Replica) -> Decision:
        return one.admit(self.address, self.event, self.print_ or 1000 + self.seq)


def started() -> Replica:
    """At a sealed epoch of an older attempt; the present one has said that it started."""
    one = Replica(NONCE, AT, 3, OLD)
    assert Record(STARTED, number=0).to(one) == Restart()
    return one


def filled() -> Replica:
    """In the middle of an epoch: two changes came, the seal did not."""
    one = started()
    assert Record(OPEN).to(one) == Begin(OPEN)
    assert Record(WRITTEN, 1).to(one) == Apply(WRITTEN)
    assert Record(ZEROED, 2).to(one) == Apply(ZEROED)
    return one


def sealed() -> Replica:
    """An epoch of this attempt is sealed, and not settled yet."""
    one = filled()
    position = replace(SEALED, chain=SEAL.chain, instant=7)
    assert Record(SEAL, 3).to(one) == Sealed(position)
    assert one.tip == position
    assert one.settled == AT
    return one


def held() -> Replica:
    """A seq was missing."""
    one = filled()
    assert isinstance(Record(ZEROED, 4).to(one), Refuse)
    return one


def fresh() -> Replica:
    """Just recovered: it has heard nothing of the present attempt."""
    return Replica(NONCE, AT, 3, OLD)


def empty() -> Replica:
    """It never held anything."""
    one = Replica(NONCE, replica.EMPTY, 0, Attempt(0))
    assert Record(STARTED, number=0).to(one) == Restart()
    return one


def gap(record: Record, reason: str, position: receipts.Position = AT) -> Refuse:
    return Refuse(receipts.Gap(record.address.seal, position, reason), hold=True)


def diverged(record: Record, reason: str, position: receipts.Position = AT) -> Refuse:
    return Refuse(receipts.Diverged(record.address.seal, position, reason), hold=True)


def fenced(record: Record, highest: Attempt = NOW, generation: int = 3) -> Refuse:
    return Refuse(receipts.Fenced(record.address.seal, generation, highest), hold=False)


def opening(*fits: events.Fit, number: int = 21) -> Record:
    return Record(events.Open(VOLUMES, fits), number=number)


Case = tuple[Callable[[], Replica], Record, Callable[[Record], Decision] | Decision]
CASES: dict[str, Case] = {
    # What comes next, and what came already.
    "the next change": (filled, Record(WRITTEN, 3), Apply(WRITTEN)),
    "a known change, the same": (filled, Record(WRITTEN, 1), Skip()),
    "a known change, another content": (
        filled, Record(WRITTEN, 1, print_=5),
        lambda one: diverged(one, "seq 1 came twice with different content: two writers, one attempt"),
    ),
    "a known open, the same": (filled, Record(OPEN), Skip()),
    "a known open, another content": (
        filled, Record(OPEN, print_=5),
        lambda one: diverged(one, "seq 0 came twice with different content: two writers, one attempt"),
    ),
    "a change too far": (filled, Record(WRITTEN, 4), lambda one: gap(one, "seq 3 is missing")),
    "a seal too far": (filled, Record(SEAL, 4), lambda one: gap(one, "seq 3 is missing")),
    "a change of an epoch that never opened": (
        started, Record(WRITTEN, 1), lambda one: gap(one, "the Open of this epoch is missing"),
    ),
    "a change of the next epoch": (
        filled, Record(WRITTEN, 1, 22), lambda one: gap(one, "the Open of this epoch is missing"),
    ),
    "a seal of an epoch that never opened": (
        started, Record(SEAL, 3), lambda one: gap(one, "the Open of this epoch is missing"),
    ),
    "an open while another epoch is open": (
        filled, Record(OPEN, 0, 22), lambda one: gap(one, f"epoch 21 of attempt {NOW}, generation 3 was never sealed"),
    ),
    "a change of a sealed epoch": (sealed, Record(WRITTEN, 1, print_=5), Skip()),
    "the seal of a sealed epoch": (sealed, Record(SEAL, 3), Skip()),
    "the open of a sealed epoch": (sealed, Record(OPEN), Skip()),
    "an open that is not the first record": (
        started, Record(OPEN, 1), lambda one: diverged(one, "an Open that is not the first record of its epoch"),
    ),
    # Seals.
    "a seal that counts more": (
        filled, Record(replace(SEAL, count=4), 3), lambda one: gap(one, "its seal counts 4 events, 3 came"),
    ),
    "a seal that counts less": (
        filled, Record(replace(SEAL, count=2), 3), lambda one: gap(one, "its seal counts 2 events, 3 came"),
    ),
    "a seal of another chain": (
        filled, Record(replace(SEAL, chain=ELSEWHERE), 3),
        lambda one: diverged(one, "its events do not make the chain that its seal names"),
    ),
    "a seal of another cut": (
        filled, Record(replace(SEAL, cut=Cut.APPLICATION), 3),
        lambda one: diverged(one, "its events do not make the chain that its seal names"),
    ),
    "a seal with another number missing": (
        filled, Record(replace(SEAL, missing=1), 3),
        lambda one: diverged(one, "its events do not make the chain that its seal names"),
    ),
    "a seal with a root too few": (
        filled, Record(replace(SEAL, roots=(b"r" * 32,)), 3),
        lambda one: diverged(one, "its seal has 1 roots for 2 volumes"),
    ),
    "a seal with a root too many": (
        filled, Record(replace(SEAL, roots=(b"r" * 32,) * 3), 3),
        lambda one: diverged(one, "its seal has 3 roots for 2 volumes"),
    ),
    "a seal with roots": (
        filled, Record(replace(SEAL, roots=(b"r" * 32,) * 2), 3),
        Sealed(replace(SEALED, chain=SEAL.chain, instant=7, roots=(b"r" * 32,) * 2)),
    ),
    # Doors.
    "an open that fits by the source's own chain": (started, opening(*OWN), Begin(OPEN)),
    "an open that fits by our answer": (
        started, opening(events.Fit(ELSEWHERE), events.Fit(HERE, NONCE)),
        Begin(events.Open(VOLUMES, (events.Fit(ELSEWHERE), events.Fit(HERE, NONCE)))),
    ),
    "an open that fits by another's answer": (
        started, opening(events.Fit(ELSEWHERE), events.Fit(HERE, STRANGER)),
        lambda one: diverged(one, f"it fits no chain of ours ({HERE.hex()[:12]})"),
    ),
    "an open that fits by an answer without a nonce": (
        started, opening(events.Fit(ELSEWHERE), events.Fit(HERE, NO_NONCE)),
        lambda one: diverged(one, f"it fits no chain of ours ({HERE.hex()[:12]})"),
    ),
    "an open that fits what we were": (
        sealed, opening(*OWN, number=22),
        lambda one: diverged(one, f"it fits no chain of ours ({SEAL.chain.hex()[:12]})"),
    ),
    "an open that fits what is sealed and not settled": (
        sealed, opening(events.Fit(SEAL.chain), number=22), Begin(events.Open(VOLUMES, (events.Fit(SEAL.chain),))),
    ),
    "an open that fits nothing": (
        started, opening(), lambda one: diverged(one, f"it fits no chain of ours ({HERE.hex()[:12]})"),
    ),
    "the first open of an empty replica": (
        empty, opening(events.Fit(GENESIS), number=1), Begin(events.Open(VOLUMES, (events.Fit(GENESIS),))),
    ),
    "an open that leaves numbers out": (started, opening(*OWN, number=99), Begin(OPEN)),
    "an open whose number was used": (
        started, opening(*OWN, number=20),
        lambda one: diverged(one, "its number is not above 20, the last one here"),
    ),
    "an open whose number is lower": (
        started, opening(*OWN, number=3),
        lambda one: diverged(one, "its number is not above 20, the last one here"),
    ),
    # Ranges.
    "a write up to the last byte": (
        filled, Record(replace(WRITTEN, start=936), 3), Apply(replace(WRITTEN, start=936)),
    ),
    "a write beyond the last byte": (
        filled, Record(replace(WRITTEN, start=937), 3),
        lambda one: diverged(one, "bytes 937 to 1001 of a volume of 1000"),
    ),
    "zeros beyond the last byte": (
        filled, Record(replace(ZEROED, length=11), 3), lambda one: diverged(one, "bytes 0 to 11 of a volume of 10"),
    ),
    "a write of nothing": (
        filled, Record(replace(WRITTEN, data=b""), 3), lambda one: diverged(one, "bytes 64 to 64 of a volume of 1000"),
    ),
    "zeros of no length": (
        filled, Record(replace(ZEROED, length=0), 3), lambda one: diverged(one, "bytes 0 to 0 of a volume of 10"),
    ),
    "a write to a volume that is not there": (
        filled, Record(replace(WRITTEN, volume=2), 3), lambda one: diverged(one, "volume 2 of 2"),
    ),
    # The fence.
    "a lower attempt that starts": (started, Record(STARTED, number=0, attempt=OLD), fenced),
    "a lower attempt that opens": (filled, Record(OPEN, 0, 22, OLD), fenced),
    "a change of a lower attempt": (filled, Record(WRITTEN, 1, 22, OLD), Skip()),
    "a seal of a lower attempt": (filled, Record(SEAL, 3, 22, OLD), Skip()),
    "a question of a lower attempt": (started, Record(ASKED, 1, 0, OLD), Skip()),
    "a clone that starts": (started, Record(STARTED, number=0, attempt=CLONE), fenced),
    "a clone that opens": (filled, Record(OPEN, 0, 22, CLONE), fenced),
    "a change of a clone, in the open epoch": (filled, Record(WRITTEN, 3, attempt=CLONE), Skip()),
    "a seal of a clone, of the open epoch": (filled, Record(SEAL, 3, attempt=CLONE), Skip()),
    "a lower generation that starts": (started, Record(STARTED, number=0, attempt=NEXT, generation=2), fenced),
    "a lower generation that opens": (filled, Record(OPEN, 0, 22, NEXT, 2), fenced),
    "a change of a lower generation": (filled, Record(WRITTEN, 3, 21, NEXT, 2), Skip()),
    "a higher attempt that never started": (
        filled, Record(OPEN, 0, 22, NEXT), lambda one: gap(one, f"attempt {NEXT} never said that it started"),
    ),
    "a change of a higher attempt that never started": (
        filled, Record(WRITTEN, 3, 21, NEXT), lambda one: gap(one, f"attempt {NEXT} never said that it started"),
    ),
    "a higher generation that never started": (
        filled, Record(OPEN, 0, 22, OLD, 4), lambda one: gap(one, f"attempt {OLD} never said that it started"),
    ),
    "the attempt of before a restart goes on": (
        fresh, Record(OPEN, 0, 21, OLD), Begin(OPEN),
    ),
    "the epoch of before a restart comes again": (fresh, Record(SEAL, 9, 20, OLD), Skip()),
    # Starts and questions.
    "a higher attempt that starts": (filled, Record(STARTED, number=0, attempt=NEXT), Restart()),
    "a higher generation that starts with a lower attempt": (
        filled, Record(STARTED, number=0, attempt=OLD, generation=4), Restart(),
    ),
    "a start that is repeated before anything opened": (started, Record(STARTED, number=0), Restart()),
    "a start that is repeated after an epoch opened": (filled, Record(STARTED, number=0), Skip()),
    "a start that is repeated after an epoch was sealed": (sealed, Record(STARTED, number=0), Skip()),
    "a question before anything opened": (started, Record(ASKED, 1, 0), Answer(ASKED)),
    "a question after an epoch opened": (filled, Record(ASKED, 1, 0), Skip()),
    "a question of an attempt that never started": (started, Record(ASKED, 1, 0, NEXT), Skip()),
    # Held.
    "the missing change, too late": (held, Record(ZEROED, 3), Skip()),
    "the seal of what was refused": (held, Record(SEAL, 3), Skip()),
    "the next epoch, while held": (held, Record(OPEN, 0, 22), Skip()),
    "the same attempt's start, while held": (held, Record(STARTED, number=0), Skip()),
    "a higher attempt's epoch, while held": (held, Record(OPEN, 0, 22, NEXT), Skip()),
    "a lower attempt's open, while held": (held, Record(OPEN, 0, 22, OLD), fenced),
    "a higher attempt's start, while held": (held, Record(STARTED, number=0, attempt=NEXT), Restart()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_record_in_each_state_is_decided_as_the_table_says(case: str) -> None:
    make, record, wanted = CASES[case]
    one = make()
    decision = record.to(one)
    assert decision == (wanted(record) if callable(wanted) else wanted)
    refused = isinstance(decision, Refuse) and decision.hold
    assert (one.held is not None) == (refused or (make is held and not isinstance(decision, Restart)))
    if refused or isinstance(decision, Restart):
        assert one.open is None


@pytest.mark.parametrize("case", [name for name, (make, _, _) in CASES.items() if make in (filled, sealed, started)])
def test_nothing_but_a_seal_moves_the_tip(case: str) -> None:
    make, record, _ = CASES[case]
    one = make()
    before = one.tip
    decision = record.to(one)
    assert one.tip == (decision.position if isinstance(decision, Sealed) else before)


@pytest.mark.parametrize("case", [name for name, one in CASES.items() if callable(one[2]) and one[2] is not fenced])
def test_one_refusal_is_said_for_a_state_and_a_newer_start_ends_it(case: str) -> None:
    make, record, _ = CASES[case]
    one = make()
    assert isinstance(record.to(one), Refuse)
    for again in (record, Record(OPEN, 0, 50), Record(WRITTEN, 1, 50), Record(SEAL, 2, 50)):
        assert again.to(one) == Skip()
    newest = Attempt(9, b"newest..")
    assert Record(STARTED, 0, 0, newest, 9).to(one) == Restart()
    assert one.held is None
    following = replace(OPEN, fits=(events.Fit(one.tip.chain),))
    assert Record(following, 0, 60, newest, 9).to(one) == Begin(following)


@pytest.mark.parametrize(
    ("was", "fits", "missing", "complete"),
    [
        (True, (events.Fit(HERE),), 0, True),
        (True, (events.Fit(HERE),), 3, True),
        (False, (events.Fit(HERE),), 3, False),
        (False, (events.Fit(HERE),), 0, True),
        (True, (events.Fit(ELSEWHERE), events.Fit(HERE, NONCE)), 3, False),
        (True, (events.Fit(ELSEWHERE), events.Fit(HERE, NONCE)), 0, True),
        (False, (events.Fit(ELSEWHERE), events.Fit(HERE, NONCE)), 3, False),
        (True, (events.Fit(HERE), events.Fit(HERE, NONCE)), 3, True),
    ],
)
def test_complete_comes_by_ones_own_door_or_once_nothing_is_missing(
    was: bool, fits: tuple[events.Fit, ...], missing: int, complete: bool
) -> None:
    one = Replica(NONCE, replace(AT, complete=was), 3, OLD)
    opened = events.Open(VOLUMES, fits)
    Record(STARTED, number=0).to(one)
    Record(opened).to(one)
    Record(WRITTEN, 1).to(one)
    decision = Record(seal_of(opened, WRITTEN, missing=missing), 2).to(one)
    assert isinstance(decision, Sealed)
    assert decision.position.complete == complete
    assert decision.position.missing == missing
    assert decision.position.usable == complete


def test_completeness_is_that_of_the_tip_and_not_of_what_is_settled() -> None:
    one = Replica(NONCE, replace(AT, complete=False), 3, OLD)
    Record(STARTED, number=0).to(one)
    Record(OPEN).to(one)
    Record(seal_of(OPEN), 1).to(one)
    assert one.tip.complete
    opened = events.Open(VOLUMES, (events.Fit(one.tip.chain),))
    Record(opened, number=22).to(one)
    hasher = epoch.ChainHasher(3, 22, opened)
    seal = events.Seal(1, hasher.seal(Cut.NONE, 4), Cut.NONE, 4, (), 0)
    decision = Record(seal, 1, 22).to(one)
    assert isinstance(decision, Sealed)
    assert decision.position.complete
    assert not decision.position.usable, "its cut is none"


def test_the_highest_number_seen_counts_what_was_refused_and_what_was_skipped() -> None:
    one = held()
    assert one.highest == 21
    Record(OPEN, 0, 35).to(one)
    assert one.highest == 35
    Record(OPEN, 0, 70, OLD).to(one)
    assert one.highest == 35, "the numbers of a fenced writer are its own"
    assert fresh().highest == 20


def test_a_refusal_names_the_settled_position_until_it_is_given_another() -> None:
    one = sealed()
    decision = Record(WRITTEN, 5, 22).to(one)
    assert isinstance(decision, Refuse)
    assert not isinstance(decision.receipt, receipts.Fenced)
    assert decision.receipt.position == AT
    later = replica.with_position(decision.receipt, one.tip)
    assert later == replace(decision.receipt, position=one.tip)
    word = receipts.Fenced(AT.seal, 3, NOW)
    assert replica.with_position(word, one.tip) is word


def test_taken_back_it_admits_what_fits_the_older_position() -> None:
    one = sealed()
    one.back_to(AT)
    assert (one.tip, one.settled, one.open) == (AT, AT, None)
    assert Record(OPEN, 0, 22).to(one) == Begin(OPEN)


def test_the_stored_generation_is_never_below_that_of_the_position() -> None:
    assert Replica(NONCE, AT, 0, OLD).generation == 3
    assert Replica(NONCE, AT, 8, OLD).generation == 8
