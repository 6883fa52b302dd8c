"""Whole blocks of a target past the page cache (O_DIRECT), and the memory for it.

What is read was on the medium, what is written is not held twice, and no page is allocated for it: a baseline then
takes half of the processor's time.  What begins or ends inside a block goes through the cache; the kernel keeps both
ways coherent within one host.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator

from engine.device.blocking import ALIGNED, Short

PIECE = 4 << 20
"""Bytes that go through one buffer at once."""
KEPT = 4
"""Buffers that `tidy` leaves: as many as one stream has threads (engine/pool.py)."""


class Buffers:
    """Memory at a page's begin, as O_DIRECT wants it, for threads in turn: fresh pages would cost more than reading.

    4 MiB from the page cache take 0.3 ms into a buffer that was used before and 3 ms into a fresh one (measured), so as
    many stay as were lent at one time, until `tidy`.
    """

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque()

    def __len__(self) -> int:
        """How many are lent to nobody."""
        return len(self._free)

    @contextlib.contextmanager
    def lend(self, size: int) -> Iterator[memoryview]:
        """`size` bytes, of any content.  Nothing may hold on to them."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = mmap.mmap(-1, max(size, PIECE))
        if len(buffer) < size:
            buffer = mmap.mmap(-1, size)
        try:
            with memoryview(buffer)[:size] as view:
                yield view
        finally:
            self._free.append(buffer)

    def tidy(self) -> None:
        """Let go of all but a few.  To be called now and then, as what it takes comes back with fresh pages.

        When a broker comes back all streams of a daemon read at once: of that 12 buffers, 46 MiB, stayed for good with
        24 streams (measured; tests/support/soak).
        """
        with contextlib.suppress(IndexError):  # threads may lend the last ones meanwhile
            while len(self._free) > KEPT:
                self._free.popleft()


SHARED = Buffers()
"""Of all devices of the process: many streams that rest keep none, as few of them read at one time."""


class Direct:
    """Another descriptor on the open file `fd`.  Threads may share it; its owner closes it when none of them does."""

    def __init__(self, fd: int) -> None:
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

    def read(self, start: int, into: memoryview) -> bool:
        """Fill `into`, lent memory of a length that `whole` gave.  False when this medium wants larger blocks: from now
        on nothing goes this way.  Raises Short, OSError."""

        def one(done: int) -> int:
            got = os.preadv(self._fd, [into[done:]], start + done)
            if not got:
                raise Short(start + done)
            return got

        return self._each(one, len(into))

    def write(self, start: int, data: memoryview) -> bool:
        """Write all of `data`, lent memory of a length that `whole` gave.  False as in `read`: then any part of it may
        have been written.  Raises OSError."""

        def one(done: int) -> int:
            took = os.pwrite(self._fd, data[done:], start + done)
            if not took:
                raise OSError(errno.EIO, "a write took no bytes and gave no reason")
            return took

        return self._each(one, len(data))

    def _each(self, one: Callable[[int], int], length: int) -> bool:
        """`one(done)` from where the last one ended, until `length` bytes are done."""
        done = 0
        try:
            while done < length:
                done += one(done)
        except OSError as why:
            if why.errno != errno.EINVAL:
                raise
            self._refused = True
        return not self._refused

    def close(self) -> None:
        """Repeatable."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
