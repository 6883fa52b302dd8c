"""What a producer says: an epoch is opened, filled and sealed; everything else is how two sides find each other."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.identity import NO_NONCE, Chain, Cut, Volume


@dataclass(frozen=True, slots=True)
class Started:
    """A producer began a new attempt.  Every replica undoes its open epoch, settles what is sealed, and answers."""

    label: str
    chain: Chain
    "The producer's own chain: what its map says the world holds."


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to one replica: the Merkle nodes `first .. first+count` of `level` on a volume.

    Level 0 are the leaves.  Only asked between `Started` and the first `Open` of the attempt, so that the answer
    is about the position that the replica answered with.
    """

    request: int
    replica: bytes
    volume: int
    level: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Fit:
    """A state that an epoch fits: the producer's own chain (nonce zero), or that of one asker's store."""

    chain: Chain
    nonce: bytes = NO_NONCE


@dataclass(frozen=True, slots=True)
class Open:
    """An epoch begins.  `volumes` give the sizes that hold once it is applied; `fits` the states it may be laid on."""

    volumes: tuple[Volume, ...]
    fits: tuple[Fit, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """`data` stands at `start` (bytes) of `volume`; one BLAKE3 digest (32 bytes) for each block that it touches."""

    volume: int
    start: int
    digests: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Zeroed:
    """`length` bytes from `start` of `volume` read as zeros: a write like any other."""

    volume: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Seal:
    """The epoch is whole: only now does it count.

    `count` events stand before it, `Open` included.  `chain` is what the epoch makes.  `missing` is how many blocks
    some replica may still lack.  `roots` has one Merkle root (32 bytes) for each volume, or is empty where the source
    does not know whole blocks or something is missing.  `instant` is the source's clock at the cut, in nanoseconds
    since 1970: for people and lag tools, never for order.
    """

    count: int
    chain: Chain
    cut: Cut
    missing: int
    roots: tuple[bytes, ...]
    instant: int


Event = Started | Asked | Open | Written | Zeroed | Seal
