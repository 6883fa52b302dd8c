"""What a raw device asks of the kernel: functions on a descriptor that block, and how they are run from a loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine import errors, linux
from engine.ports import Offload
from schemas.extent import Extent

ALIGNED = 4096
"""Bytes at whose multiples every block device can be zeroed in place; the edges are written."""


class Short(Exception):
    """The medium ended at `at`, before the range did."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class Descriptor:
    """A descriptor that threads share: closed when the last of them has left it, so that its number, given to
    another file meanwhile, is never written to."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path, self._users, self._closing = fd, path, 0, False
        self._left = threading.Condition()

    @contextlib.contextmanager
    def use(self) -> Iterator[int]:
        """Raises DeviceFailed when it is closed."""
        with self._left:
            if self._closing:
                raise errors.DeviceFailed(f"{self._path}: it is closed")
            self._users += 1
        try:
            yield self._fd
        finally:
            with self._left:
                self._users -= 1
                self._left.notify_all()

    def close(self) -> None:
        """Repeatable; returns once nobody uses it."""
        with self._left:
            first, self._closing = not self._closing, True
            self._left.wait_for(lambda: self._users == 0)
        if first:
            os.close(self._fd)


async def to_the_end(offload: Offload, function: Callable[..., Any], *arguments: Any) -> Any:
    """Await the offloaded call; a cancellation waits for it: the thread cannot be stopped and must not outlive us."""
    call = asyncio.ensure_future(offload(function, *arguments))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        while not call.done():
            # A second cancellation changes nothing: the first is on its way already.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((call,))
        if not call.cancelled():
            call.exception()
        raise


def open_existing(path: str, writable: bool) -> tuple[int, bool]:
    """(descriptor, whether it is a block device).  A device that is mounted is refused as a target (O_EXCL).

    Raises NotFound, Usage, InUse, DeviceFailed.
    """
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise errors.Usage(f"{path}: neither a file nor a block device")
        flags = os.O_RDWR if writable else os.O_RDONLY
        if writable and stat.S_ISBLK(mode):
            flags |= os.O_EXCL
        return os.open(path, flags), stat.S_ISBLK(mode)
    except OSError as error:
        raise linux.failure(error, path, "open it to write" if writable else "open it", opening=True) from error


def create(path: str, size: int) -> int:
    """A new sparse file of `size` bytes.  Raises Usage when something is there, NotFound, Full; then leaves nothing."""
    doing = f"make it with {size:,} bytes"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise linux.failure(error, path, doing, opening=True) from error
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        os.close(fd)
        os.unlink(path)
        raise linux.failure(error, path, doing, opening=True) from error
    return fd


def measure(fd: int) -> int:
    """Bytes of a file or of a block device."""
    return os.lseek(fd, 0, os.SEEK_END)


def pread(fd: int, start: int, length: int) -> bytes:
    """Exactly `length` bytes.  Raises Short, OSError."""
    data = os.pread(fd, length, start)
    if len(data) == length:
        return data
    parts, got = [data], len(data)
    while got < length:
        parts.append(os.pread(fd, length - got, start + got))
        if not parts[-1]:
            raise Short(start + got)
        got += len(parts[-1])
    return b"".join(parts)


def pread_into(fd: int, start: int, view: memoryview) -> None:
    """Fill `view`.  Raises Short, OSError."""
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], start + done)
        if not got:
            raise Short(start + done)
        done += got


def zero_file(fd: int, start: int, length: int, keep: bool) -> None:
    """Punch a hole, or with `keep` zero in place; write zeros where the file system has neither.  Raises OSError."""
    mode = linux.ZERO_RANGE if keep else linux.PUNCH_HOLE
    if length and not linux.try_fallocate(fd, mode, start, length):
        linux.write_zeros(fd, start, length)


def zero_device(fd: int, start: int, length: int, keep: bool) -> None:
    """Zero in place: by the kernel's zero-out with unmap (not with `keep`), without it, or by writing.  Raises OSError.

    Both modes promise zeros afterwards (block/fops.c, blkdev_fallocate); BLKDISCARD does not, and is not used.
    """
    end = start + length
    first, past = -(-start // ALIGNED) * ALIGNED, end // ALIGNED * ALIGNED
    if first >= past:
        linux.write_zeros(fd, start, length)
        return
    linux.write_zeros(fd, start, first - start)
    linux.write_zeros(fd, past, end - past)
    modes = (linux.ZERO_RANGE,) if keep else (linux.PUNCH_HOLE, linux.ZERO_RANGE)
    if not any(linux.try_fallocate(fd, mode, first, past - first) for mode in modes):
        linux.write_zeros(fd, first, past - first)


def file_extents(fd: int, start: int, length: int) -> Sequence[Extent]:
    """Holes are zeros, all else is data, by SEEK_DATA and SEEK_HOLE.  Raises Short, OSError."""
    found, end = [], start + length
    if end > (size := measure(fd)):
        raise Short(size)
    while start < end:
        data = min(_seek_data(fd, start), end)
        if data > start:
            found.append(Extent(start, data - start, zero=True))
        start = data
        if start < end:
            hole = min(os.lseek(fd, start, os.SEEK_HOLE), end)
            found.append(Extent(start, hole - start))
            start = hole
    return found


def _seek_data(fd: int, start: int) -> int:
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from here to the end
            return measure(fd)
        raise


def device_extents(fd: int, start: int, length: int) -> Sequence[Extent]:
    """A block device does not say where it holds nothing: all is data.  Raises Short."""
    if start + length > (size := measure(fd)):
        raise Short(size)
    return [Extent(start, length)] if length else []


def evict(fd: int, ranges: Sequence[tuple[int, int]]) -> None:
    """Drop clean pages of each range, widened to whole pages, from the page cache.  Raises OSError."""
    for start, length in ranges:
        first = start // linux.PAGE * linux.PAGE
        past = -(-(start + length) // linux.PAGE) * linux.PAGE
        if past > first:  # a length of 0 would mean: to the end of the file
            os.posix_fadvise(fd, first, past - first, os.POSIX_FADV_DONTNEED)
