"""What a producer says: an epoch is opened, filled and sealed; everything else is how two sides find each other."""

from __future__ import annotations

import enum
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


class Form(enum.StrEnum):
    """How a machine is defined."""

    LIBVIRT = "libvirt"


@dataclass(frozen=True, slots=True)
class Defined:
    """The definition of the machine that has these disks, from this epoch on: a change that touches no byte of them.

    It is sealed, settled and rewound with its epoch.  A producer that knows it repeats it in the first epoch after each
    `Started`, so that a replica which came in by comparing digests has it too, and says it when it differs.
    """

    form: Form
    "libvirt: `text` is the XML of an inactive domain, migratable."
    text: str
    nvram: bytes
    "The bytes of the file that keeps its UEFI variables; empty where there is none, or it is larger than one record."


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


class Why(enum.StrEnum):
    """Why records are let go of that a registered replica has not applied."""

    CAP = "cap"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Behind:
    """A replica that is behind: the last epoch that it said it has applied, and the bus offset behind that one's seal.

    Both are 0 where it has said nothing since its producer began.
    """

    replica: bytes
    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The lease of these replicas has ended: records that they have not applied are about to be let go of.

    Said durably before that is done, and only between epochs.  It belongs to no epoch and changes no state: every
    reader passes over it.  A replica that it names, and that is still there, is healed by comparing digests.
    """

    why: Why
    "cap: the log reached the most that is kept for a replica; silence: it did not answer, and no history is kept."
    offset: int
    "Records below this bus offset are let go of."
    held: int
    "About how many bytes the log held when this was said; 0 where they are not counted."
    cap: int
    "The most bytes that are kept for a replica that is behind; 0 where there is no such bound."
    instant: int
    "The source's clock, in nanoseconds since 1970: for people, never for order."
    replicas: tuple[Behind, ...]


class Rung(enum.StrEnum):
    """How the source is captured, the best first."""

    TAP = "tap"
    CHECKPOINT = "checkpoint"
    SCAN = "scan"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Stepped:
    """From here on the source is captured by another rung of the ladder.

    Said durably, and only between epochs.  It belongs to no epoch and changes no state: every reader passes over it.
    """

    rung: Rung
    "tap: every write, as it is made; checkpoint: what a bitmap says; scan: what comparing finds; none: not at all."
    reason: str
    "Why, in words."
    instant: int
    "The source's clock, in nanoseconds since 1970: for people, never for order."


Change = Written | Zeroed | Defined
"""What fills an epoch."""
Word = Lapsed | Stepped
"""What is said between epochs, and changes no state."""
Event = Started | Asked | Open | Change | Seal | Word
