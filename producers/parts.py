"""Parts: a pass travels in sealed epochs of a bounded size, so that one that is killed goes on at the next."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine import epoch
from engine.store.stage import StagedBlocks, StagedZeros
from producers.scan import Blocks, Found
from schemas import events
from schemas.identity import Volume

_SHARE = 128
LEAST = 512 << 10
"""Bytes of the smallest part: each costs some 5 ms, and 128 of them half a second."""


def bound(total: int, most: int) -> int:
    """Bytes of a part, at most `most`, beside `total` bytes of data at the source.

    A killed baseline sends less than 1 % of them twice; of a few bytes all may well travel twice.
    """
    return min(most, max(total // _SHARE, LEAST)) if total > 4 * most else most


def size(piece: Found) -> int:
    """Bytes of data in it."""
    return len(piece.data) if isinstance(piece, Blocks) else 0


@dataclass(slots=True)
class Part:
    """The epoch that is being written."""

    writer: epoch.Writer
    blocks: list[StagedBlocks] = field(default_factory=list)
    zeros: list[StagedZeros] = field(default_factory=list)
    size: int = 0
    sure: int = 0
    "Unsure blocks that travel in it."

    def put(self, piece: Found, volume: Volume) -> events.Written | events.Zeroed:
        """Take what was found, as much as one event holds.  Gives the event."""
        start = piece.first * volume.block_size
        if isinstance(piece, Blocks):
            self.blocks.append(StagedBlocks(piece.volume, piece.first, piece.prints, piece.digests))
            self.size += size(piece)
            return events.Written(piece.volume, start, piece.digests, piece.data)
        self.zeros.append(StagedZeros(piece.volume, piece.first, piece.count))
        return events.Zeroed(piece.volume, start, min(piece.count * volume.block_size, volume.size - start))
