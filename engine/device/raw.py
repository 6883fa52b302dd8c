"""BlockDevice on a regular file or a block device of this host."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from engine import errors, linux
from engine.device import blocking
from engine.device.direct import PIECE, SHARED, Direct
from engine.device.locks import ImageLock
from engine.ports import Offload
from schemas.extent import Extent

T = TypeVar("T")


class RawDevice:
    """The bytes of a file or of a block device: a source through the page cache, a target past it.  Made by `open`.

    A call that is cancelled ends before the cancellation goes on, so nothing is written behind the back of whoever
    comes next.  Where O_DIRECT is not to be had, `evict` makes reads come from the medium as far as it can.
    """

    def __init__(
        self, path: str, fd: int, fixed: bool, created: bool, lock: ImageLock | None, offload: Offload,
        direct: Direct | None,
    ) -> None:  # fmt: skip
        self.path, self._fixed, self._lock, self._offload, self._direct = path, fixed, lock, offload, direct
        self._descriptor, self._buffers = blocking.Descriptor(fd, path), SHARED
        self._size = blocking.measure(fd)
        self._lost = ""
        self._resized = self._created = created
        self._entry_synced = fixed

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        writable: bool,
        create_size: int | None = None,
        offload: Offload = asyncio.to_thread,
        lock: bool = True,
    ) -> RawDevice:
        """Open `path`; with `create_size` make it, sparse and of that many bytes, where nothing may be yet.

        With `lock` a target is ours alone, and a source is guarded against writers until `unguard`
        (engine/device/locks.py).  A block device that is mounted is refused as a target.
        Raises NotFound, Usage (not writable, neither file nor device, exists already), InUse, Full, Unsafe,
        DeviceFailed.
        """
        opening = asyncio.ensure_future(offload(cls._open, os.fspath(path), writable, create_size, offload, lock))
        try:
            made: RawDevice = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unclaimed)
            raise
        return made

    @classmethod
    def _open(cls, path: str, writable: bool, create_size: int | None, offload: Offload, lock: bool) -> RawDevice:
        if create_size is None:
            fd, fixed = blocking.open_existing(path, writable)
        else:
            fd, fixed = blocking.create(path, create_size), False
        writable = writable or create_size is not None
        try:
            held = _locked(fd, path, writable) if lock else None
        except errors.FerryError:
            os.close(fd)
            if create_size is not None:
                os.unlink(path)
            raise
        return cls(path, fd, fixed, create_size is not None, held, offload, Direct(fd) if writable else None)

    @property
    def size(self) -> int:
        """Bytes that can be read now; as last seen, once closed."""
        with contextlib.suppress(errors.DeviceFailed), self._descriptor.use() as fd:
            self._size = blocking.measure(fd)
        return self._size

    @property
    def fixed(self) -> bool:
        return self._fixed

    async def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes.  Raises DeviceFailed, also when the file was cut short under us."""
        return await self._run(f"read {length:,} bytes at {start:,}", self._read, start, length)

    async def look(self, ranges: Sequence[tuple[int, int]], at: Callable[[int, memoryview], T]) -> list[T]:
        """As BlockDevice.look: one hop, and no memory that was never used before."""
        return await self._run(_doing("read", ranges), self._look_each, ranges, at)

    async def write(self, start: int, data: bytes) -> None:
        """Not durable before `flush`.  Raises Full, DeviceFailed; then any mixture of old and new may be there."""
        doing = f"write {len(data):,} bytes at {start:,}"
        self._refuse(doing, start, len(data))
        await self._run(doing, self._write, start, data)

    async def scatter(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """As BlockDevice.scatter: one hop."""
        ranges = [(start, len(data)) for start, data in pieces]
        doing = _doing("write", ranges)
        first = min((start for start, _ in ranges), default=0)
        self._refuse(doing, first, max((start + length for start, length in ranges), default=first) - first)
        await self._run(doing, self._write_each, pieces)

    async def zero(self, start: int, length: int, keep: bool = False) -> None:
        """Punch a hole, unless to `keep`; else zero the range in place; where not even that, write zeros."""
        doing = f"zero {length:,} bytes at {start:,}"
        self._refuse(doing, start, length)
        await self._run(doing, blocking.zero_device if self._fixed else blocking.zero_file, start, length, keep)

    async def flush(self) -> None:
        """Data, size and (first time) the directory entry are on the medium.

        Raises DeviceFailed, or NotFound when the file was deleted under us; either is final: what the kernel could
        not write it may call clean, so every later write and flush is refused.
        """
        self._refuse("flush it")
        await self._run("flush it", self._flush)

    async def extents(self, start: int, length: int) -> Sequence[Extent]:
        """Holes are zeros, all else is data; a block device is all data."""
        how = blocking.device_extents if self._fixed else blocking.file_extents
        return await self._run(f"map {length:,} bytes at {start:,}", how, start, length)

    async def evict(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Drop each (start, length), widened to whole pages, from the page cache.  Flush first: dirty pages stay.

        Also what was written past the cache: some file systems take O_DIRECT and use their cache all the same (ext4
        with data=journal does).

        What this cannot do: pages that another program has mapped or locked stay; tmpfs has no medium; the cache of a
        drive, of a RAID controller or of a file server is not ours to drop.
        """
        await self._run(_doing("evict", ranges), blocking.evict, ranges)

    async def resize(self, size: int) -> None:
        """Grow (new bytes read as zeros) or shrink a file.  Raises Usage for a block device of another size."""
        if self._fixed:
            if size != self.size:
                raise errors.Usage(f"{self.path}: a block device of {self.size:,} bytes cannot be made {size:,}")
            return
        doing = f"resize it to {size:,} bytes"
        self._refuse(doing)
        self._resized = True
        await self._run(doing, os.ftruncate, size)

    async def guard(self) -> None:
        """Let nobody write to the source while a pass reads it.  Raises InUse.  Repeatable."""
        if self._lock is not None:
            await self._run("lock it", lambda _fd, lock: lock.guard(), self._lock)

    async def unguard(self) -> None:
        """Let writers in again: a VM may start between two passes.  Repeatable."""
        if self._lock is not None:
            await self._run("unlock it", lambda _fd, lock: lock.unguard(), self._lock)

    async def close(self) -> None:
        """Let go without flushing, once every call has left; the locks go with it.  Repeatable."""
        await blocking.to_the_end(self._offload, self._close)

    def _close(self) -> None:
        self._descriptor.close()
        if self._direct is not None:
            self._direct.close()

    def _read(self, fd: int, start: int, length: int) -> bytes:
        if not (self._direct and self._direct.whole(start, length)):
            return blocking.pread(fd, start, length)
        return self._look(fd, start, length, bytes)

    def _look_each(self, fd: int, ranges: Sequence[tuple[int, int]], at: Callable[[int, memoryview], T]) -> list[T]:
        return [self._look(fd, *one, functools.partial(at, number)) for number, one in enumerate(ranges)]

    def _look(self, fd: int, start: int, length: int, at: Callable[[memoryview], T]) -> T:
        with self._buffers.lend(length) as view:
            whole = self._direct.whole(start, length) if self._direct else 0
            if not (self._direct and whole and self._direct.read(start, view[:whole])):
                whole = 0
            blocking.pread_into(fd, start + whole, view[whole:])
            return at(view)

    def _write(self, fd: int, start: int, data: bytes) -> None:
        view = memoryview(data)
        while self._direct and (whole := min(self._direct.whole(start, len(view)), PIECE)):
            with self._buffers.lend(whole) as lent:
                lent[:] = view[:whole]
                if not self._direct.write(start, lent):
                    break
            start, view = start + whole, view[whole:]
        linux.pwrite_all(fd, start, view)

    def _write_each(self, fd: int, pieces: Sequence[tuple[int, bytes]]) -> None:
        for start, data in pieces:
            self._write(fd, start, data)

    async def _run(self, doing: str, function: Callable[..., T], *arguments: Any) -> T:
        """`function(fd, *arguments)` where it may block, with its OSError named."""
        result: T = await blocking.to_the_end(self._offload, self._call, doing, function, *arguments)
        return result

    def _call(self, doing: str, function: Callable[..., T], *arguments: Any) -> T:
        with self._descriptor.use() as fd:
            try:
                return function(fd, *arguments)
            except blocking.Short as short:
                size = blocking.measure(fd)
                raise errors.DeviceFailed(
                    f"{self.path}: cannot {doing}: it ends at {short.at:,}, its size is {size:,} now"
                ) from short
            except OSError as error:
                raise linux.failure(error, self.path, doing) from error

    def _flush(self, fd: int) -> None:
        """Runs in the thread to its end, so that a loss is remembered even when nobody waits for it any more."""
        try:
            if not self._fixed and os.fstat(fd).st_nlink == 0:
                raise errors.NotFound(f"{self.path}: it was deleted under us; what was written to it is lost")
            self._sync_entry()
            if self._resized:
                os.fsync(fd)
            else:
                os.fdatasync(fd)
            self._resized = False
        except errors.NotFound as error:
            self._lost = str(error)
            raise
        except OSError as error:
            self._lost = f"an earlier flush failed ({error.strerror}); restart, and let recovery run"
            raise linux.failed(error, self.path, "flush it") from error

    def _sync_entry(self) -> None:
        """Also for a file that was there: the run that made it may have died before its first flush."""
        if self._entry_synced:
            return
        try:
            linux.sync_directory(self.path)
        except PermissionError:
            if self._created:
                raise
        self._entry_synced = True

    def _refuse(self, doing: str, start: int = 0, length: int = 0) -> None:
        if self._lost:
            raise errors.DeviceFailed(f"{self.path}: cannot {doing}: {self._lost}")
        if start < 0 or start + length > (size := self.size):
            raise errors.DeviceFailed(f"{self.path}: cannot {doing}: its size is {size:,}")


def _doing(what: str, ranges: Sequence[tuple[int, int]]) -> str:
    total, start = sum(length for _, length in ranges), min((start for start, _ in ranges), default=0)
    return f"{what} {total:,} bytes at {start:,}" + (" and behind" if len(ranges) > 1 else "")


def _close_unclaimed(opening: asyncio.Future[RawDevice]) -> None:
    """The opening was cancelled: nobody waits for the device, and its lock must not stay."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result()._close()


def _locked(fd: int, path: str, write: bool) -> ImageLock:
    lock = ImageLock(fd, path)
    lock.acquire(write)
    if not write:
        lock.guard()
    return lock
