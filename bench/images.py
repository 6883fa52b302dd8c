"""Disk images to copy: sparse, with incompressible data in scattered extents, and changes to them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

EXTENT = 4 << 20
BLOCK = 64 << 10


def make(path: Path, size: int, data: int, seed: int = 1) -> None:
    """A sparse image of `size` bytes, `data` of them random in extents of 4 MiB at random places."""
    source = random.Random(seed)
    places = sorted(source.sample(range(size // EXTENT), data // EXTENT))
    _fill(path, size, places, source)


def make_ends(path: Path, size: int, data: int) -> None:
    """A sparse image whose data lies half at its beginning and half at its end."""
    half, last = data // EXTENT // 2, size // EXTENT
    places = [*range(0, 2 * half, 2), *range(last - 2 * half, last, 2)]
    _fill(path, size, places, random.Random(2))


def _fill(path: Path, size: int, places: list[int], source: random.Random) -> None:
    with _opened(path) as fd:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size)
        for place in places:
            for at in range(place * EXTENT, (place + 1) * EXTENT, 1 << 20):
                os.pwrite(fd, source.randbytes(1 << 20), at)
        os.fsync(fd)


def change(path: Path, count: int, seed: int) -> int:
    """Write other bytes over `count` random blocks of 64 KiB that hold data.  Gives how many bytes."""
    source = random.Random(seed)
    with _opened(path) as fd:
        blocks = list(_data_blocks(fd))
        for block in sorted(source.sample(blocks, min(count, len(blocks)))):
            os.pwrite(fd, source.randbytes(BLOCK), block * BLOCK)
        os.fsync(fd)
    return min(count, len(blocks)) * BLOCK


def _data_blocks(fd: int) -> Iterator[int]:
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # nothing but a hole from here on
            return
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield from range(start // BLOCK, at // BLOCK)


def pieces(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """(start, bytes) of all data of a file, in pieces of at most `size`."""
    with _opened(path) as fd:
        at, end = 0, os.fstat(fd).st_size
        while at < end:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # nothing but a hole from here on
                return
            at = os.lseek(fd, start, os.SEEK_HOLE)
            for place in range(start, at, size):
                yield place, os.pread(fd, min(size, at - place), place)


def warm(*paths: Path) -> None:
    """Bring all data of files into the page cache."""
    for path in paths:
        for _ in pieces(path, 1 << 20):
            pass


class _opened:
    """A descriptor to read and write a file that is made when it is not there."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
