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

from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
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
_PAGE = 128
"""Nodes in 4 KiB: to write those between two that changed costs less than another call."""
_FEW = 16
"""Nodes of which each is looked at by itself, when some of them are holes."""

Scratch = Callable[[int], "MutableSequence[int] | Any"]
"""Gives a writable buffer of so many zero bytes: a bytearray, or an mmap that the kernel may page out."""


_NODE = sha256(b"\x01")


def _leaf_head(length: int) -> bytes:
    return b"\x00" + length.to_bytes(4, "big")


def leaf(length: int, block_digest: bytes) -> bytes:
    """The leaf over a block of `length` bytes."""
    return sha256(_leaf_head(length) + block_digest).digest()


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
        raw, plain = self._raw(level, first, count), self._zeros[level]
        kept = raw if level else self._leaves(first, raw)
        return [plain if value == ZERO else value for value in _values(kept)]

    def _refresh(self) -> None:
        dirty, self._dirty = self._dirty, Ranges()
        for level in range(1, len(self._sizes)):
            above = Ranges()
            for start, end in dirty:
                above.add(start // 2, (end + 1) // 2)
            for runs in _near(above):
                self._combine(level, runs)
            dirty = above

    def _combine(self, level: int, runs: Sequence[tuple[int, int]]) -> None:
        """Hash some nodes of `level`, near each other, from the level below: one read of that, and one write."""
        first, end = runs[0][0], runs[-1][1]
        raw = self._raw(level - 1, 2 * first, min(2 * end, self._sizes[level - 1]) - 2 * first)
        made = bytearray(self._nodes[level][first * SIZE : end * SIZE] if len(runs) > 1 else (end - first) * SIZE)
        for low, high in runs:
            below = raw[2 * (low - first) * SIZE : 2 * (high - first) * SIZE]
            kept = below if level > 1 else self._leaves(2 * low, below)
            made[(low - first) * SIZE : (high - first) * SIZE] = b"".join(_parents(kept, self._zeros[level - 1]))
        target = slice(first * SIZE, end * SIZE)
        if made.count(0) < len(made) or self._nodes[level][target] != made:  # zeros over zeros take no memory
            self._nodes[level][target] = made

    def _raw(self, level: int, first: int, count: int) -> bytes:
        if level == 0:
            return self._read(first, count)
        return bytes(self._nodes[level][first * SIZE : (first + count) * SIZE])

    def _leaves(self, first: int, raw: bytes) -> bytes:
        """The leaves over joined digests.  The last of all is given as it is: it may be short, and no plain subtree."""
        last = self.volume.blocks - 1
        found = b"".join(_each_leaf(raw, sha256(_leaf_head(self.volume.block_size))))
        if first + len(raw) // SIZE <= last:
            return found
        length, value = self.volume.length(last), raw[-SIZE:]
        return found[:-SIZE] + leaf(length, digest.zeros(length) if value == ZERO else value)


def _near(ranges: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The ranges, those together that lie within a page of each other, and no more than a chunk at once."""
    group: list[tuple[int, int]] = []
    for start, end in ranges:
        for low in range(start, end, _CHUNK):
            high = min(low + _CHUNK, end)
            if group and (low - group[-1][1] > _PAGE or high - group[0][0] > _CHUNK):
                yield group
                group = []
            group.append((low, high))
    if group:
        yield group


def _runs(joined: bytes) -> Iterator[bytes]:
    """What is joined, in pieces of an even number of nodes, of which most are all data or nothing but zeros."""
    if len(joined) > _FEW * SIZE and ZERO in joined and joined != _NOTHING[: len(joined)]:
        half = len(joined) // SIZE // 4 * 2 * SIZE
        yield from _runs(joined[:half])
        yield from _runs(joined[half:])
    else:
        yield joined


def _each_leaf(digests: bytes, begun: Any) -> Iterator[bytes]:
    for run in _runs(digests):
        if ZERO not in run:
            yield from [_hash(begun, value) for value in _values(run)]
        elif run == _NOTHING[: len(run)]:
            yield run
        else:
            yield from [ZERO if value == ZERO else _hash(begun, value) for value in _values(run)]


def _parents(kept: bytes, plain: bytes) -> Iterator[bytes]:
    """The nodes over each two of the joined nodes below, in which zeros stand for `plain`; the last, if odd, itself."""
    for run in _runs(kept):
        even = len(run) // (2 * SIZE) * 2 * SIZE
        if ZERO not in run:
            yield from [_hash(_NODE, run[at : at + 2 * SIZE]) for at in range(0, even, 2 * SIZE)]
        elif run == _NOTHING[: len(run)]:
            yield run[: even // 2]
        else:
            yield from [_parent(run[at : at + 2 * SIZE], plain) for at in range(0, even, 2 * SIZE)]
        yield run[even:]


def _parent(pair: bytes, plain: bytes) -> bytes:
    left, right = pair[:SIZE], pair[SIZE:]
    if left == right == ZERO:
        return ZERO
    return node(plain if left == ZERO else left, plain if right == ZERO else right)


def _hash(begun: Any, data: bytes) -> bytes:
    """The hash that was begun, over `data`: a copy costs less than a new one and a longer string."""
    hashed = begun.copy()
    hashed.update(data)
    found: bytes = hashed.digest()
    return found


def _values(joined: bytes) -> list[bytes]:
    return [joined[at : at + SIZE] for at in range(0, len(joined), SIZE)]
