"""Digests: xxh3 says whether a block changed, BLAKE3 what it is; SHA-256 is for nodes and for outsiders to check."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import blake3 as _blake3
import xxhash

from schemas import extent

SIZE = 32
PRINT_SIZE = 16


def block(data: bytes | memoryview) -> bytes:
    """BLAKE3 of one block: 32 bytes."""
    return _blake3.blake3(data).digest()


@lru_cache(maxsize=64)
def zeros(length: int) -> bytes:
    """BLAKE3 of `length` zero bytes."""
    return block(bytes(length))


def fingerprint(data: bytes | memoryview, seed: int) -> bytes:
    """xxh3-128 of one block under the stream's secret `seed`: who does not know it cannot forge 'unchanged'."""
    return xxhash.xxh3_128_digest(data, seed=seed)


def of_pieces(start: int, data: bytes | memoryview, block_size: int) -> bytes:
    """The BLAKE3 digests of `data` at `start`, one for each block that it touches, joined."""
    view = memoryview(data)
    return b"".join(block(view[at : at + length]) for at, length in _offsets(start, len(view), block_size))


def _offsets(start: int, length: int, block_size: int) -> Iterator[tuple[int, int]]:
    for at, size in extent.pieces(start, length, block_size):
        yield at - start, size
