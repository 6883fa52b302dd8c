"""Whole blocks of a target past the page cache (O_DIRECT).

What is read was on the medium, what is written is not held twice, and no page is allocated for it: a baseline then
takes half of the processor's time.  What begins or ends inside a block goes through the cache; the kernel keeps both
ways coherent within one host.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Callable

from engine.device.blocking import ALIGNED, Short

PIECE = 1 << 20
"""Bytes that go through one of our buffers: O_DIRECT wants memory at a page's begin."""


class Direct:
    """Another descriptor on the open file `fd`.  Threads may share it; its owner closes it when none of them does."""

    def __init__(self, fd: int) -> None:
        self._buffers: deque[mmap.mmap] = deque()
        self._fd, self._refused = -1, False
        try:
            self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as why:
            # A file system without it, or one that lets nobody open the file a second time.
            if why.errno not in (errno.EINVAL, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY):
                raise

    def whole(self, start: int, length: int) -> int:
        """How many bytes from `start` on can go this way."""
        return length // ALIGNED * ALIGNED if self._fd >= 0 and not self._refused and start % ALIGNED == 0 else 0

    def read(self, start: int, length: int) -> bytes | None:
        """Exactly `length` bytes, as `whole` gave them; None when this medium wants larger blocks, from now on.

        Raises Short, OSError.
        """
        parts: list[bytes] = []

        def one(buffer: mmap.mmap, at: int, size: int) -> int:
            with memoryview(buffer)[:size] as view:
                got = os.preadv(self._fd, [view], at)
                if not got:
                    raise Short(at)
                parts.append(bytes(view[:got]))
            return got

        return b"".join(parts) if self._each(one, start, length) else None

    def write(self, start: int, data: memoryview) -> bool:
        """Write all of `data`, of a length that `whole` gave; False when this medium wants larger blocks: then any
        part of it may have been written.  Raises OSError."""

        def one(buffer: mmap.mmap, at: int, size: int) -> int:
            buffer[:size] = data[at - start : at - start + size]
            with memoryview(buffer)[:size] as view:
                done = os.pwrite(self._fd, view, at)
            if not done:
                raise OSError(errno.EIO, "a write took no bytes and gave no reason")
            return done

        return self._each(one, start, len(data))

    def _each(self, one: Callable[[mmap.mmap, int, int], int], start: int, length: int) -> bool:
        """`one(buffer, at, size)` piece by piece, each from where the last one ended."""
        at, end = start, start + length
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = mmap.mmap(-1, PIECE)
        try:
            while at < end:
                at += one(buffer, at, min(PIECE, end - at))
        except OSError as why:
            if why.errno != errno.EINVAL:
                raise
            self._refused = True
            return False
        finally:
            self._buffers.append(buffer)
        return True

    def close(self) -> None:
        """Repeatable."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._buffers.clear()
