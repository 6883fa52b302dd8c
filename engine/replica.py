"""What a replica admits.  Pure: records in, decisions out; nothing here touches a disk or a bus.

It fails closed: the next seq of the open epoch is applied, a known one is skipped if it is identical, and everything
else is refused aloud, once per state; after a refusal nothing is admitted before a newer `Started`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine import epoch
from schemas import events, receipts
from schemas.identity import GENESIS, Address, Attempt, Cut, SealId


@dataclass(frozen=True, slots=True)
class Skip:
    """Known already, or not for us while we are held."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A newer attempt began (or says so again): undo the open epoch, settle what is sealed, answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A question of the source about our digests."""

    question: events.Asked


@dataclass(frozen=True, slots=True)
class Hear:
    """The source says for whom it keeps nothing more, or how it is captured.  Changes nothing, wherever it stands."""

    word: events.Word


@dataclass(frozen=True, slots=True)
class Begin:
    """An epoch opens on the state we are in."""

    opened: events.Open


@dataclass(frozen=True, slots=True)
class Apply:
    """The next change of the open epoch."""

    change: events.Written | events.Zeroed


@dataclass(frozen=True, slots=True)
class Define:
    """The next change of the open epoch is of the machine, and not of a disk's bytes."""

    definition: events.Defined


@dataclass(frozen=True, slots=True)
class Sealed:
    """The open epoch is whole: `position` is where we are once it is settled."""

    position: receipts.Position


@dataclass(frozen=True, slots=True)
class Refuse:
    """Say `receipt`.  Where `hold`, settle what is sealed, undo what is open, and wait for a new `Started`."""

    receipt: receipts.Gap | receipts.Diverged | receipts.Fenced
    hold: bool


Decision = Skip | Restart | Answer | Hear | Begin | Apply | Define | Sealed | Refuse


class _Open:
    """The epoch that is being filled."""

    __slots__ = ("chain", "complete", "identity", "opened", "seen")

    def __init__(self, identity: SealId, opened: events.Open, complete: bool, print_: int) -> None:
        self.identity = identity
        self.opened = opened
        self.complete = complete
        self.chain = epoch.ChainHasher(identity.generation, identity.epoch, opened)
        self.seen = [print_]


class Replica:
    """The state that decides: the fence, the tip (last sealed, perhaps not settled), the open epoch, and whether held.

    `nonce` is that of the replica's store.  `admit` takes (address, event, print): print is the record's checksum as a
    number, by which a repeated seq is known to be identical.
    """

    def __init__(self, nonce: bytes, position: receipts.Position, generation: int, fence: Attempt) -> None:
        self.nonce = nonce
        self.tip = position
        self.settled = position
        self.generation = max(generation, position.generation)
        self.fence = fence
        self.highest = position.epoch
        self.held: str | None = None
        self.opened_since_start = False
        self.open: _Open | None = None

    def admit(self, address: Address, event: events.Event, print_: int) -> Decision:
        """Decide about one record.  Changes the state as if the decision had been carried out."""
        older = self._compare(address)
        if older:
            return self._fenced(address, event)
        if isinstance(event, events.Started):
            return self._started(address)
        if isinstance(event, events.Asked):
            return self._asked(address, event)
        if isinstance(event, events.Word):
            return Hear(event)
        self.highest = max(self.highest, address.epoch)
        if self.held is not None:
            return Skip()
        if address.attempt != self.fence or address.generation != self.generation:
            return self._gap(address, f"attempt {address.attempt} never said that it started")
        if self._known(address):
            return Skip()
        if isinstance(event, events.Open):
            return self._begin(address, event, print_)
        return self._next(address, event, print_)

    def hold(self, reason: str) -> None:
        """Admit nothing before a new `Started`."""
        self.held = reason
        self.open = None

    def back_to(self, position: receipts.Position) -> None:
        """The disk was taken back to `position`: what was sealed after it is not so any more."""
        self.tip = self.settled = position
        self.open = None

    def _compare(self, address: Address) -> bool:
        """Whether the writer is older than the newest seen.  Of two clones with one counter the first stays."""
        if address.generation != self.generation:
            return address.generation < self.generation
        if address.attempt.counter != self.fence.counter:
            return address.attempt.counter < self.fence.counter
        return address.attempt.nonce != self.fence.nonce

    def _fenced(self, address: Address, event: events.Event) -> Decision:
        if not isinstance(event, events.Started | events.Open):
            return Skip()
        return Refuse(receipts.Fenced(address.seal, self.generation, self.fence), hold=False)

    def _started(self, address: Address) -> Decision:
        if (address.generation, address.attempt) == (self.generation, self.fence) and self.opened_since_start:
            return Skip()
        self.generation, self.fence = address.generation, address.attempt
        self.opened_since_start = False
        self.held = None
        self.open = None
        return Restart()

    def _asked(self, address: Address, event: events.Asked) -> Decision:
        if address.attempt != self.fence or self.opened_since_start:
            return Skip()
        return Answer(event)

    def _known(self, address: Address) -> bool:
        """Whether it belongs to an epoch of this attempt that is sealed here."""
        return self.tip.attempt == address.attempt and address.epoch <= self.tip.epoch

    def _begin(self, address: Address, event: events.Open, print_: int) -> Decision:
        if self.open is not None:
            if self.open.identity == address.seal:
                return self._repeated(address, print_)
            return self._gap(address, f"{self.open.identity} was never sealed")
        if address.seq != 0:
            return self._diverged(address, "an Open that is not the first record of its epoch")
        if address.epoch <= self.tip.epoch:
            return self._diverged(address, f"its number is not above {self.tip.epoch}, the last one here")
        if other := self._misplaced(event):
            return self._diverged(address, other)
        complete = self._door(event)
        if complete is None:
            return self._diverged(address, f"it fits no chain of ours ({self.tip.chain.hex()[:12]})")
        self.open = _Open(address.seal, event, complete, print_)
        self.opened_since_start = True
        return Begin(event)

    def _misplaced(self, event: events.Open) -> str:
        """Which of our volumes is not in its place; nothing when all are.  More may follow: disks come, and stay."""
        for index, mine in enumerate(self.tip.volumes):
            other = event.volumes[index] if index < len(event.volumes) else None
            if other is None or (other.name, other.block_size) != (mine.name, mine.block_size):
                found = f"{other.name}, in blocks of {other.block_size}" if other else "none"
                return f"volume {index} is {mine.name}, in blocks of {mine.block_size}, here, and {found}, there"
        return ""

    def _door(self, event: events.Open) -> bool | None:
        """By which of its `fits` we come in: whether we are complete then; None where there is no way in."""
        if event.fits and event.fits[0].chain == self.tip.chain:
            return self.tip.complete
        if any(fit.chain == self.tip.chain and fit.nonce == self.nonce for fit in event.fits[1:]):
            return False
        return None

    def _next(self, address: Address, event: events.Change | events.Seal, print_: int) -> Decision:
        current = self.open
        if current is None or current.identity != address.seal:
            return self._gap(address, "the Open of this epoch is missing")
        if address.seq < len(current.seen):
            return self._repeated(address, print_)
        if address.seq > len(current.seen):
            return self._gap(address, f"seq {len(current.seen)} is missing")
        if isinstance(event, events.Seal):
            return self._seal(address, event, current)
        if not isinstance(event, events.Defined) and (refused := self._outside(event, current)):
            return self._diverged(address, refused)
        current.seen.append(print_)
        current.chain.feed(event)
        return Define(event) if isinstance(event, events.Defined) else Apply(event)

    def _repeated(self, address: Address, print_: int) -> Decision:
        assert self.open is not None
        if self.open.seen[address.seq] == print_:
            return Skip()
        return self._diverged(address, f"seq {address.seq} came twice with different content: two writers, one attempt")

    @staticmethod
    def _outside(event: events.Written | events.Zeroed, current: _Open) -> str | None:
        length = len(event.data) if isinstance(event, events.Written) else event.length
        volumes = current.opened.volumes
        if event.volume >= len(volumes):
            return f"volume {event.volume} of {len(volumes)}"
        if length <= 0 or event.start + length > volumes[event.volume].size:
            return f"bytes {event.start} to {event.start + length} of a volume of {volumes[event.volume].size}"
        return None

    def _seal(self, address: Address, event: events.Seal, current: _Open) -> Decision:
        if event.count != address.seq:
            return self._gap(address, f"its seal counts {event.count} events, {address.seq} came")
        if current.chain.seal(event.cut, event.missing) != event.chain:
            return self._diverged(address, "its events do not make the chain that its seal names")
        if len(event.roots) not in (0, len(current.opened.volumes)):
            return self._diverged(
                address, f"its seal has {len(event.roots)} roots for {len(current.opened.volumes)} volumes"
            )
        position = receipts.Position(
            address.generation, address.attempt, address.epoch, event.chain, current.opened.volumes, event.roots,
            event.cut, event.missing, current.complete or event.missing == 0, event.instant,
        )  # fmt: skip
        self.tip = position
        self.open = None
        return Sealed(position)

    def _gap(self, address: Address, reason: str) -> Decision:
        receipt = receipts.Gap(address.seal, self.settled, reason)
        self.hold(reason)
        return Refuse(receipt, hold=True)

    def _diverged(self, address: Address, reason: str) -> Decision:
        receipt = receipts.Diverged(address.seal, self.settled, reason)
        self.hold(reason)
        return Refuse(receipt, hold=True)


def with_position(receipt: receipts.Receipt, position: receipts.Position) -> receipts.Receipt:
    """The refusal with the position that holds once sealed epochs are settled."""
    if isinstance(receipt, receipts.Gap | receipts.Diverged):
        return replace(receipt, position=position)
    return receipt


EMPTY = receipts.Position(chain=GENESIS, cut=Cut.NONE)
"""Where a replica stands that holds nothing."""
