"""The File port on a file of the operating system."""

from __future__ import annotations

import errno
import mmap
import os

from engine import errors, linux

TOUCHED = 64 << 20
"""Bytes of a mapping that may stay resident before all of it is given back.  Needs testing on small hosts."""

FAULT_AROUND = 64 << 10
"""What one page fault of a mapped file brings in (Linux's default `fault_around_bytes`)."""

REMAP = 8
"""A tail is read by pread until it is an eighth of the mapping: an append does not cost a new mapping each time."""


class _Mapping:
    """A shared read-only map of the first bytes of a file, whose resident pages are bounded.

    A file that another process cuts short, or a bad sector, ends us by SIGBUS: for a store of ours the fate of any
    medium that fails, die and recover.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        self.size = size
        self._touched = 0

    def read(self, start: int, end: int) -> bytes:
        data = self._map[start:end]
        self._touched += (end // FAULT_AROUND - start // FAULT_AROUND + 1) * FAULT_AROUND
        if self._touched > TOUCHED:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
        return data


class OsFile:
    """`path`, made when it is not there.  With `mapped`, reads go through memory: for many small ones.

    Raises NotFound (its directory), Usage (permissions), Full and DeviceFailed, all of which name the path.  After a
    failed `sync` the kernel may call lost pages clean: every later write and sync is refused (DESIGN.md 2.5).
    """

    def __init__(self, path: str | os.PathLike[str], mapped: bool = False) -> None:
        self.path: str = os.fspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise linux.failure(error, self.path, "open it", opening=True) from error
        self._mapped = mapped
        self._mapping: _Mapping | None = None
        self._entry_synced = False
        self._resized = False
        self._lost = ""

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, start: int, length: int) -> bytes:
        """Up to `length` bytes; short at the end of the file; holes read as zeros."""
        if not self._mapped:
            return self._pread(start, length)
        size = self.size()
        end = min(start + length, size)
        if start >= end:
            return b""
        mapping = self._remap(end, size)
        if start >= mapping.size:
            return self._pread(start, end - start)
        head = mapping.read(start, min(end, mapping.size))
        return head if end <= mapping.size else head + self._pread(mapping.size, end - mapping.size)

    def write(self, start: int, data: bytes) -> None:
        """Raises Full or DeviceFailed.  Not durable before `sync`."""
        self._refuse_after_loss()
        try:
            linux.pwrite_all(self._fd, start, data)
        except OSError as error:
            raise linux.failure(error, self.path, f"write {len(data):,} bytes at {start:,}") from error

    def discard(self, start: int, length: int) -> None:
        """Let the range read as zeros, up to the end of the file, and give its space back where that can be."""
        self._refuse_after_loss()
        length = min(length, self.size() - start)
        if length <= 0:
            return
        try:
            if not linux.try_fallocate(self._fd, linux.PUNCH_HOLE, start, length):
                linux.write_zeros(self._fd, start, length)
        except OSError as error:
            raise linux.failure(error, self.path, f"discard {length:,} bytes at {start:,}") from error

    def truncate(self, size: int) -> None:
        """Cut at, or grow to, `size` bytes; new bytes read as zeros."""
        self._refuse_after_loss()
        self._unmap()
        self._resized = True
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise linux.failure(error, self.path, f"truncate it to {size:,} bytes", opening=True) from error

    def sync(self) -> None:
        """Data, size and (first time) the directory entry are durable.  A failure is final: never call it again."""
        self._refuse_after_loss()
        try:
            self._sync()
        except OSError as error:
            self._lost = f"{self.path}: an earlier sync failed ({error.strerror}); restart, and let recovery run"
            raise linux.failed(error, self.path, "make its data durable") from error

    def close(self) -> None:
        """Let go.  Repeatable."""
        self._unmap()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _sync(self) -> None:
        # Also for a file that was there: the run that made it may have died before its own first sync.
        if not self._entry_synced:
            linux.sync_directory(self.path)
            self._entry_synced = True
        if self._resized:
            os.fsync(self._fd)
            self._resized = False
        else:
            os.fdatasync(self._fd)

    def _pread(self, start: int, length: int) -> bytes:
        try:
            parts = [os.pread(self._fd, length, start)]
            got = len(parts[0])
            while got < length and parts[-1]:
                parts.append(os.pread(self._fd, length - got, start + got))
                got += len(parts[-1])
        except OSError as error:
            raise linux.failure(error, self.path, f"read {length:,} bytes at {start:,}") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _remap(self, end: int, size: int) -> _Mapping:
        mapping = self._mapping
        if mapping is None or mapping.size > size or end - mapping.size > mapping.size // REMAP:
            try:
                mapping = self._mapping = _Mapping(self._fd, size)
            except OSError as error:
                raise linux.failure(error, self.path, f"map {size:,} bytes of it") from error
        return mapping

    def _unmap(self) -> None:
        # Not closed here: another thread may be about to read from it.  It goes with the last of them.
        self._mapping = None

    def _refuse_after_loss(self) -> None:
        if self._lost:
            raise errors.DeviceFailed(self._lost)
        if self._fd < 0:
            raise errors.DeviceFailed(f"{self.path}: it is closed ({errno.errorcode[errno.EBADF]})")
