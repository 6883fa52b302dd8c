"""Merkle trees in the shape of RFC 6962, over the blocks of a volume.

    leaf  = SHA-256(0x00 || length, 4 bytes big-endian || BLAKE3(block))
    node  = SHA-256(0x01 || left || right)

A level of odd length hands its last node up as it is, which gives the tree of RFC 6962 section 2.1.  The place of a
block is proved by its path and by the size of the tree, so its number is not hashed: all subtrees of zeros on one
level are equal, and a sparse volume costs what its data costs.  (With the number in every leaf a 1 TiB sparse volume
took 33 million hashes on each side.)

Digests of blocks and hashes of nodes are 32 bytes; 32 zero bytes stand for "a whole subtree of zeros", so that holes
in the files that keep them mean just that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSequence
from hashlib import sha256
from typing import Any

from engine import digest
from schemas.extent import Ranges
from schemas.identity import Volume

SIZE = 32
ZERO = bytes(SIZE)
_CHUNK = 4096
"""Nodes handled at once: 128 KiB, one comparison to see that all of them are zeros."""
_NOTHING = bytes(2 * _CHUNK * SIZE)
_FEW = 16
"""Nodes that are hashed rather than looked at once more for holes."""

Scratch = Callable[[int], "MutableSequence[int] | Any"]
"""Gives a writable buffer of so many zero bytes: a bytearray, or an mmap that the kernel may page out."""


def leaf(length: int, block_digest: bytes) -> bytes:
    """The leaf over a block of `length` bytes."""
    return sha256(b"\x00" + length.to_bytes(4, "big") + block_digest).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The node over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


def root(lengths_and_digests: Iterable[tuple[int, bytes]]) -> bytes:
    """The root over (length, BLAKE3) of each block, computed plainly: what a reader in another language writes."""
    level = [leaf(length, value) for length, value in lengths_and_digests]
    if not level:
        return sha256(b"").digest()
    while len(level) > 1:
        pairs = [node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = pairs + (level[-1:] if len(level) % 2 else [])
    return level[0]


class Tree:
    """The nodes above the block digests of one volume, computed when asked for.

    `read(first, count)` gives the joined digests of blocks; `touched` says which have changed since.  Only what lies
    above touched blocks is hashed again, at the next question.
    """

    def __init__(self, volume: Volume, read: Callable[[int, int], bytes], scratch: Scratch = bytearray) -> None:
        self.volume = volume
        self._read = read
        self._sizes = [volume.blocks]
        while self._sizes[-1] > 1:
            self._sizes.append(-(-self._sizes[-1] // 2))
        self._nodes: list[Any] = [b"", *(scratch(size * SIZE) for size in self._sizes[1:])]
        self._zeros = [leaf(volume.block_size, digest.zeros(volume.block_size))]
        for _ in self._sizes[1:]:
            self._zeros.append(node(self._zeros[-1], self._zeros[-1]))
        self._dirty = Ranges()
        self.touch(volume.blocks - 1, 1)  # the last block may be short, and its path is no plain subtree

    @property
    def height(self) -> int:
        """The level of the root; leaves are level 0."""
        return len(self._sizes) - 1

    def width(self, level: int) -> int:
        """How many nodes `level` has."""
        return self._sizes[level]

    def touch(self, first: int, count: int) -> None:
        """The digests of these blocks have changed."""
        self._dirty.add(max(first, 0), min(first + count, self.volume.blocks))

    def root(self) -> bytes:
        """The root of the tree; of an empty volume the hash of nothing."""
        return self.nodes(self.height, 0, 1)[0] if self.volume.blocks else sha256(b"").digest()

    def nodes(self, level: int, first: int, count: int) -> list[bytes]:
        """The hashes of `count` nodes of `level` from `first` on (fewer at the edge)."""
        self._refresh()
        count = min(count, self._sizes[level] - first)
        return list(self._hashes(level, first, count))

    def _refresh(self) -> None:
        dirty, self._dirty = self._dirty, Ranges()
        for level in range(1, len(self._sizes)):
            above = Ranges()
            for start, end in dirty:
                above.add(start // 2, (end + 1) // 2)
            for start, end in above:
                for first in range(start, end, _CHUNK):
                    self._combine(level, first, min(_CHUNK, end - first))
            dirty = above

    def _combine(self, level: int, first: int, count: int) -> None:
        """Hash `count` nodes of `level` from the level below."""
        below = level - 1
        have = min(2 * count, self._sizes[below] - 2 * first)
        at_edge = 2 * first + have == self._sizes[below]
        target = slice(first * SIZE, (first + count) * SIZE)
        raw = self._raw(below, 2 * first, have)
        if not at_edge and raw == _NOTHING[: have * SIZE]:
            if self._nodes[level][target] != bytes(count * SIZE):
                self._nodes[level][target] = bytes(count * SIZE)
            return
        if count > _FEW and raw.count(0) > have * SIZE * 3 // 4:
            # Mostly holes: in halves, so that a block of data in them costs its own path and little more.
            self._combine(level, first, count // 2)
            self._combine(level, first + count // 2, count - count // 2)
            return
        hashes = list(self._hashes(below, 2 * first, have, raw))
        parents = [node(hashes[at], hashes[at + 1]) for at in range(0, have - 1, 2)]
        if have % 2:
            parents.append(hashes[-1])
        plain = self._zeros[level]
        edge = count - 1 if at_edge else count  # an edge node is kept as it is: its zeros are not a whole subtree
        self._nodes[level][target] = b"".join(
            ZERO if value == plain and at != edge else value for at, value in enumerate(parents)
        )

    def _raw(self, level: int, first: int, count: int) -> bytes:
        if level == 0:
            return self._read(first, count)
        return bytes(self._nodes[level][first * SIZE : (first + count) * SIZE])

    def _hashes(self, level: int, first: int, count: int, raw: bytes = b"") -> Iterator[bytes]:
        raw, plain = raw or self._raw(level, first, count), self._zeros[level]
        values = (raw[at : at + SIZE] for at in range(0, count * SIZE, SIZE))
        if level:
            yield from (plain if value == ZERO else value for value in values)
            return
        for block, value in enumerate(values, first):
            length = self.volume.length(block)
            if value != ZERO:
                yield leaf(length, value)
            else:
                yield plain if length == self.volume.block_size else leaf(length, digest.zeros(length))
