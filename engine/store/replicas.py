"""What a replica remembers beside its bytes: position, fence, kept epochs, machine, outbox.  One transaction each.

The port, and its twin in memory.  engine/store/sqlite.py is the one that survives.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from engine import errors
from engine.replica import EMPTY
from schemas import events
from schemas.identity import NO_NONCE, Attempt
from schemas.receipts import Position


@dataclass(frozen=True, slots=True)
class KeptEpoch:
    """A settled epoch whose pre-images are the byte range `start .. end` of the undo log."""

    position: Position
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class State:
    """Everything a replica must know to go on.  `undo_end`: where the pre-images of the position's epoch end.

    `held` says why nothing is applied before a `resume`: released to its user, or rewound.  `intent` is the epoch that
    a rewind is on its way to.
    """

    replica: bytes
    nonce: bytes
    stream: bytes = bytes(16)
    label: str = ""
    position: Position = EMPTY
    undo_end: int = 0
    generation: int = 0
    fence: Attempt = Attempt(0, NO_NONCE)
    next_receipt: int = 1
    held: str = ""
    intent: KeptEpoch | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A receipt that waits in the outbox; `epoch` is the one it speaks of (0: of none)."""

    number: int
    epoch: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Definition:
    """What the machine was said to be in `epoch`.  It holds from there on, until another one does."""

    epoch: int
    said: events.Defined


@dataclass(frozen=True, slots=True)
class Update:
    """One transaction: the new state, what to add of kept epochs, receipts and definitions, and what a rewind drops."""

    state: State
    keep: tuple[KeptEpoch, ...] = ()
    receipts: tuple[Outgoing, ...] = ()
    rewound: bool = False
    definitions: tuple[Definition, ...] = ()
    "Of epochs up to the new position, oldest first."


class ReplicaStore(Protocol):
    """Durable when a method returns; all of an `Update` or nothing of it."""

    def load(self) -> State: ...

    def commit(self, update: Update) -> None:
        """Store it.  Definitions beyond the new position go in the same moment; with `rewound`, kept epochs and outbox
        entries beyond it, too."""

    def kept(self) -> list[KeptEpoch]:
        """Kept epochs, oldest first."""

    def definition(self, epoch: int) -> events.Defined | None:
        """What held at `epoch`, kept or the position's: the newest that was said up to it; None where nothing was."""

    def forget_before(self, epoch: int) -> None:
        """Drop kept epochs with a lower number, and definitions that held at none that is left, nor hold now."""

    def outbox(self) -> list[Outgoing]:
        """Receipts not known to be on the bus, in order."""

    def published(self, number: int) -> None:
        """Receipts up to `number` are durable on the bus."""

    def close(self) -> None: ...


def surviving(entry: Outgoing, position: Position) -> bool:
    """Whether an outbox entry may still be said after a rewind to `position`: what speaks of a later state may not."""
    return 0 < entry.epoch <= position.epoch


def held_at(said: Sequence[int], epoch: int) -> int | None:
    """Which of the epochs `said`, in rising order, said what held at `epoch`."""
    index = bisect_right(said, epoch)
    return said[index - 1] if index else None


def unneeded(said: Sequence[int], kept: Iterable[KeptEpoch]) -> set[int]:
    """Which of the epochs `said`, in rising order, said what holds neither now nor at any kept epoch."""
    return {*said[:-1]} - {held_at(said, one.position.epoch) for one in kept} if len(said) > 1 else set()


@dataclass
class MemoryDisk:
    """What a memory store leaves behind."""

    state: State | None = None
    kept: tuple[KeptEpoch, ...] = ()
    outbox: tuple[Outgoing, ...] = ()
    definitions: tuple[Definition, ...] = ()


@dataclass
class MemoryReplicaStore:
    """Twin of the SQLite store: every method is one atomic step on `disk`, which outlives the object."""

    disk: MemoryDisk = field(default_factory=MemoryDisk)

    def create(self, state: State) -> None:
        """Begin anew with `state`."""
        self.disk.state, self.disk.kept, self.disk.outbox, self.disk.definitions = state, (), (), ()

    def load(self) -> State:
        if self.disk.state is None:
            raise errors.NotFound("the store was never created")
        return self.disk.state

    def commit(self, update: Update) -> None:
        kept, outbox, position = self.disk.kept, self.disk.outbox, update.state.position
        definitions = tuple(one for one in self.disk.definitions if one.epoch <= position.epoch)
        if update.rewound:
            kept = tuple(one for one in kept if one.position.epoch <= position.epoch)
            outbox = tuple(one for one in outbox if surviving(one, position))
        self.disk.state, self.disk.kept, self.disk.outbox = update.state, kept + update.keep, outbox + update.receipts
        self.disk.definitions = definitions + update.definitions

    def kept(self) -> list[KeptEpoch]:
        return list(self.disk.kept)

    def definition(self, epoch: int) -> events.Defined | None:
        said = held_at([one.epoch for one in self.disk.definitions], epoch)
        return next((one.said for one in self.disk.definitions if one.epoch == said), None)

    def forget_before(self, epoch: int) -> None:
        self.disk.kept = tuple(one for one in self.disk.kept if one.position.epoch >= epoch)
        gone = unneeded([one.epoch for one in self.disk.definitions], self.disk.kept)
        self.disk.definitions = tuple(one for one in self.disk.definitions if one.epoch not in gone)

    def outbox(self) -> list[Outgoing]:
        return list(self.disk.outbox)

    def published(self, number: int) -> None:
        self.disk.outbox = tuple(one for one in self.disk.outbox if one.number > number)

    def close(self) -> None:
        """Nothing is held open."""


def at(state: State, position: Position, undo_end: int) -> State:
    """The state once `position` is settled."""
    return replace(state, position=position, undo_end=undo_end)
