"""Who wrote a record, and where in the history of its stream it stands."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NewType

Chain = NewType("Chain", bytes)
"""32 bytes: BLAKE3 over all sealed epochs of a stream so far, in order (engine/epoch.py)."""

GENESIS = Chain(bytes(32))
"""The chain before the first epoch.  A replica that holds it holds nothing."""

NO_NONCE = bytes(8)


class Cut(enum.StrEnum):
    """How consistent the source was at the instant that a seal names."""

    NONE = "none"
    CRASH = "crash"
    FILESYSTEM = "filesystem"
    APPLICATION = "application"


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One run of a producer: a counter that only rises, and 8 random bytes that tell two clones apart."""

    counter: int
    nonce: bytes = NO_NONCE

    def __str__(self) -> str:
        return f"{self.counter}.{self.nonce.hex()[:6]}"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a record stands: (generation, attempt, epoch, seq) within one stream.

    Identity lives here and never in bus offsets, which are neither dense nor kept by a mirror of a cluster.
    """

    generation: int
    attempt: Attempt
    epoch: int
    seq: int

    @property
    def seal(self) -> SealId:
        return SealId(self.generation, self.attempt, self.epoch)

    def __str__(self) -> str:
        return f"epoch {self.epoch} seq {self.seq} of attempt {self.attempt}, generation {self.generation}"


@dataclass(frozen=True, slots=True)
class SealId:
    """Names one sealed epoch for ever: (generation, attempt, epoch)."""

    generation: int
    attempt: Attempt
    epoch: int

    def __str__(self) -> str:
        return f"epoch {self.epoch} of attempt {self.attempt}, generation {self.generation}"


@dataclass(frozen=True, slots=True)
class Volume:
    """One disk of a stream: its name, its size in bytes, and the size of its blocks in bytes."""

    name: str
    size: int
    block_size: int

    @property
    def blocks(self) -> int:
        """Number of blocks; the last may be short."""
        return -(-self.size // self.block_size)

    def length(self, block: int) -> int:
        """Bytes in `block`: block_size, less for the last block of an odd-sized volume."""
        return min(self.block_size, self.size - block * self.block_size)
