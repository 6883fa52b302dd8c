"""The BLAKE3 digests of a volume's blocks, which of them are claimed, and the Merkle tree over them.

32 zero bytes stand for a block of zeros, so a sparse volume has sparse digests.  On the target the files change with
the blocks themselves and are taken back by the same undo log; on the source they change once a seal is on the bus.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine import digest, merkle, ports
from engine.store import near
from engine.store.bitmap import Bitmap
from schemas.identity import Volume
from schemas.receipts import Claim

_STEP = 1 << 15


class Leaves:
    """Digests of one volume.  `digests` and `claims` are its two files; `scratch` holds the tree's nodes."""

    def __init__(
        self, volume: Volume, digests: ports.File, claims: ports.File, scratch: merkle.Scratch = bytearray
    ) -> None:
        self.digests = digests
        self._scratch = scratch
        self.volume = volume
        self.claims = Bitmap(claims, volume.blocks)
        self._tree: merkle.Tree | None = None

    def read(self, first: int, count: int) -> bytes:
        """The joined digests of `count` blocks."""
        return self.digests.read(first * 32, count * 32).ljust(count * 32, b"\0")

    def read_each(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The joined digests of each (first block, count)."""
        return near.read(self.digests, [(first * 32, count * 32) for first, count in ranges])

    def write(self, first: int, digests: bytes, claim: bool = True) -> None:
        """Set digests from block `first` on, and claim these blocks, or no longer."""
        self.digests.write(first * 32, digests)
        self._touched(first, len(digests) // 32, claim)

    def write_each(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Set the digests of each (first block, joined digests), and claim these blocks."""
        near.write(self.digests, [(first * 32, digests) for first, digests in pieces])
        for first, digests in pieces:
            self._touched(first, len(digests) // 32, True)

    def zero(self, first: int, count: int, claim: bool = True) -> None:
        """These blocks are zeros."""
        for at in range(first, first + count, _STEP):
            size = min(_STEP, first + count - at) * 32
            old = self.digests.read(at * 32, size)
            if old.count(0) != len(old):
                self.digests.discard(at * 32, size)
        self._touched(first, count, claim)

    def unclaim(self, first: int, count: int) -> None:
        """Nothing is known of these blocks any more."""
        self.claims.put(first, count, False)

    def matches(self, block: int, block_digest: bytes) -> bool:
        """Whether the claim on `block` is this digest."""
        return block in self.claims and self.stands_for(block, self.read(block, 1), block_digest)

    def stands_for(self, block: int, have: bytes, block_digest: bytes) -> bool:
        """Whether `have`, as it is kept for `block`, is this digest."""
        return have == block_digest or (have == merkle.ZERO and block_digest == digest.zeros(self.volume.length(block)))

    def _touched(self, first: int, count: int, claim: bool) -> None:
        self.claims.put(first, count, claim)
        if self._tree is not None:
            self._tree.touch(first, count)

    def resize(self, size: int, keep_edge: bool = False) -> None:
        """Follow the volume.  A block whose length changes is claimed no more, unless the caller sees to it."""
        old = self.volume
        self.volume = Volume(old.name, size, old.block_size)
        keep = min(old.size, size) // old.block_size
        if keep < old.blocks and not keep_edge:
            self.claims.put(keep, old.blocks - keep, False)
        self.claims.resize(self.volume.blocks)
        if self.volume.blocks < old.blocks:
            self.digests.truncate(self.volume.blocks * 32)
        self._tree = None

    @property
    def tree(self) -> merkle.Tree:
        """The tree over all digests, claimed or not; made at the first question."""
        if self._tree is None:
            self._tree = merkle.Tree(self.volume, self.read, self._scratch)
            self._tree.touch(0, self.volume.blocks)
        return self._tree

    def tree_of(self, size: int) -> merkle.Tree:
        """The tree over our digests in the shape of a volume of `size` bytes: to compare with one of another size."""
        if size == self.volume.size:
            return self.tree
        tree = merkle.Tree(Volume(self.volume.name, size, self.volume.block_size), self.read, self._scratch)
        tree.touch(0, tree.volume.blocks)
        return tree

    def root(self) -> bytes:
        """The Merkle root; empty where a block is not claimed."""
        return self.tree.root() if self.claims.count == self.volume.blocks else b""

    def claim(self) -> Claim:
        """What can be proved of the volume."""
        return Claim(self.volume.size, self.claims.count, self.root())

    def nodes(self, level: int, first: int, count: int) -> tuple[bytes, ...]:
        """Merkle nodes as receipts give them: a hash, b"+" where only a part is claimed, b"" where nothing is."""
        count = max(0, min(count, self.tree.width(level) - first))
        hashes = self.tree.nodes(level, first, count)
        return tuple(self._node(level, first + at, value) for at, value in enumerate(hashes))

    def _node(self, level: int, index: int, value: bytes) -> bytes:
        start = index << level
        count = min(1 << level, self.volume.blocks - start)
        if self.claims.all(start, count):
            return value
        return b"+" if self.claims.any(start, count) else b""

    def sync(self) -> None:
        """Digests and claims are durable."""
        self.digests.sync()
        self.claims.sync()
