"""What a consumer says back.  Receipts are the only thing that flows from a replica to a source, and the audit log."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.identity import GENESIS, NO_NONCE, Attempt, Chain, Cut, SealId, Volume


@dataclass(frozen=True, slots=True)
class Position:
    """How far a replica is: always a seal, never between two.

    `offset` is the bus offset just past the seal: advice, checked by identity before it is believed.
    `instant` is the source's clock at the cut, in nanoseconds.
    """

    generation: int = 0
    attempt: Attempt = Attempt(0, NO_NONCE)
    epoch: int = 0
    chain: Chain = GENESIS
    volumes: tuple[Volume, ...] = ()
    roots: tuple[bytes, ...] = ()
    cut: Cut = Cut.NONE
    missing: int = 0
    complete: bool = False
    instant: int = 0
    offset: int = 0

    @property
    def seal(self) -> SealId:
        return SealId(self.generation, self.attempt, self.epoch)

    @property
    def usable(self) -> bool:
        """Equal to the source at one consistent instant: may be started, read, or rewound to."""
        return self.complete and self.cut is not Cut.NONE


@dataclass(frozen=True, slots=True)
class Claim:
    """What a replica can prove of a volume: how many `blocks`, and its Merkle root where that is every block."""

    size: int
    blocks: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The reply to `Started`: where the replica is, the nonce of its store, the highest epoch number it has seen."""

    attempt: Attempt
    position: Position
    nonce: bytes
    highest: int
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Nodes:
    """The reply to `Asked`, an entry for each node: 32 bytes, its hash; b"+", part of it is claimed; b"", nothing."""

    request: int
    nodes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the replica has read, admitted or not: bounds what is in flight.  Advice; repeated and lost at will."""

    attempt: Attempt
    epoch: int
    seq: int
    "The last record read; epoch 0 when it was `Started` or `Asked`."


@dataclass(frozen=True, slots=True)
class Applied:
    """Durable at the target: chain equal, every written extent read back from the medium equal."""

    position: Position


@dataclass(frozen=True, slots=True)
class Verified:
    """Proved: the Merkle roots computed by source and target, each from its own reading, are equal."""

    position: Position


@dataclass(frozen=True, slots=True)
class Gap:
    """Records are missing before `refused`; the position is held until a new `Started`."""

    refused: SealId
    position: Position
    reason: str


@dataclass(frozen=True, slots=True)
class Diverged:
    """`refused` fits no state this replica is in, or did not make the state it promised; the position is held."""

    refused: SealId
    position: Position
    reason: str


@dataclass(frozen=True, slots=True)
class Fenced:
    """`refused` comes from a writer older than (generation, attempt) `highest`, which it should learn from."""

    refused: SealId
    generation: int
    highest: Attempt


@dataclass(frozen=True, slots=True)
class Rewound:
    """The replica was taken back to `position`, and is held there."""

    position: Position
    abandoned: int
    "The epoch it was at before."


@dataclass(frozen=True, slots=True)
class Left:
    """The replica's site gave it up at `position`: nothing need be kept, and nobody need wait, for it any more."""

    position: Position


Receipt = Answered | Nodes | Progress | Applied | Verified | Gap | Diverged | Fenced | Rewound | Left


@dataclass(frozen=True, slots=True)
class Sender:
    """Who says a receipt, and which one it is: (replica, incarnation of its store, number) repeats only if resent."""

    replica: bytes
    incarnation: bytes
    number: int
