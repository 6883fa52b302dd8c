"""Room for the nodes of a Merkle tree that is larger than memory should be: an unnamed file, gone with its process."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

from engine import linux


class Buffer:
    """`size` zero bytes in `directory`, read and written by slices.  Raises Full, DeviceFailed.

    By pread and pwrite rather than by a mapping: pages of a mapping count as resident memory of ours, a tree over
    1 TiB has half a GiB of them, and the page cache serves as well.
    """

    def __init__(self, fd: int, size: int, directory: Path) -> None:
        self._fd, self._size, self._directory = fd, size, str(directory)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(self._size)
        try:
            return os.pread(self._fd, max(0, stop - start), start)
        except OSError as why:
            raise linux.failure(why, self._directory, "read a tree of digests") from why

    def __setitem__(self, where: slice, data: bytes) -> None:
        start, _, _ = where.indices(self._size)
        try:
            linux.pwrite_all(self._fd, start, data)
        except OSError as why:
            raise linux.failure(why, self._directory, "keep a tree of digests") from why


_SMALL = 128 << 10
"""Bytes of a level that memory has room for; all that are smaller take as much again."""


def in_directory(directory: Path) -> Callable[[int], Buffer | bytearray]:
    """A merkle.Scratch whose files lie in `directory`, without names; what is small is in memory."""

    def scratch(size: int) -> Buffer | bytearray:
        if size <= _SMALL:
            return bytearray(size)
        name = ""
        try:
            fd, name = tempfile.mkstemp(prefix="tree-", dir=directory)
            os.unlink(name)
            os.ftruncate(fd, size)
        except OSError as why:
            raise linux.failure(why, name or str(directory), f"make {size:,} bytes of scratch", opening=True) from why
        buffer = Buffer(fd, size, directory)
        weakref.finalize(buffer, os.close, fd)
        return buffer

    return scratch
