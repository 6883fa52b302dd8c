"""The locks by which QEMU's programs keep out of each other's images, spoken so that they and we keep out too.

QEMU (block/file-posix.c, `raw_apply_lock_bytes`) takes shared OFD locks on single bytes: 100 + p for a permission p
that it holds, 200 + p for one that it lets nobody else hold.  To hold p, nobody else may have 200 + p; to keep p to
oneself, nobody else may have 100 + p.  Locks are taken first and looked at after, so two who come at once may both be
refused, and never both let in.  The lock belongs to the open file: the kernel drops it with the last descriptor.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from engine import errors

HELD = 100
UNSHARED = 200
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of fcntl(2): type, whence, start, length, pid (0 for OFD locks)."""

_UNLOCKABLE = frozenset({errno.ENOLCK, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Permission(enum.IntEnum):
    """QEMU's BLK_PERM_* as bit numbers."""

    CONSISTENT_READ = 0
    WRITE = 1
    WRITE_UNCHANGED = 2
    RESIZE = 3


READER = (Permission.CONSISTENT_READ,)
WRITER = (Permission.CONSISTENT_READ, Permission.WRITE, Permission.RESIZE)
CHANGES = (Permission.WRITE, Permission.RESIZE)

_WAY_TO_READ = (
    "shut the VM down, or protect it live (a later release), or give --force-share, which makes every cut of"
    " consistency none"
)
_WAY_TO_WRITE = "stop what uses it, then start again"


def holders(fd: int, byte: int) -> Iterator[str]:
    """Who else has a lock on `byte` of this file, as "name (pid 1234)"; only processes that we may look into."""
    mine, ours = os.fstat(fd), Path(f"/proc/{os.getpid()}/fdinfo/{fd}")
    for place in Path("/proc").glob("[0-9]*/fdinfo/*"):
        # Processes end and descriptors close while we look, and other users' are shut to us.
        with contextlib.suppress(OSError, ValueError):
            process = place.parents[1]
            theirs = os.stat(process / "fd" / place.name)
            same = place != ours and (theirs.st_dev, theirs.st_ino) == (mine.st_dev, mine.st_ino)
            if same and _locks(place.read_text(), byte):
                yield f"{(process / 'comm').read_text().strip()} (pid {process.name})"


def _locks(fdinfo: str, byte: int) -> bool:
    """Whether proc(5)'s fdinfo has a line `lock: 1: OFDLCK ADVISORY READ -1 fe:00:7 100 101` that covers `byte`."""
    for line in fdinfo.splitlines():
        words = line.split()
        if words[:1] == ["lock:"] and "OFDLCK" in words:
            first, last = words[-2:]
            if int(first) <= byte and (last == "EOF" or byte <= int(last)):
                return True
    return False


class ImageLock:
    """The lock of one open image.  Blocks only as long as a network file system's lock call.

    `fd` stays its owner's, must be open for reading, and takes the lock with it when it is closed.
    """

    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path = fd, path
        self._way = _WAY_TO_READ

    def acquire(self, write: bool) -> None:
        """Read the image beside other readers, or have it alone to write: QEMU reading a replica that is being
        applied would see half an epoch, so nobody may.

        Raises InUse, which names the holder where it can be seen, and Unsafe where the file system keeps no locks;
        then nothing is locked.
        """
        if write:
            self._way = _WAY_TO_WRITE
            self._take(WRITER, WRITER)
        else:
            self._take(READER, ())

    def guard(self) -> None:
        """While a pass reads the source: let nobody have it open for writing.  Raises as `acquire`; repeatable."""
        self._take((), CHANGES)

    def unguard(self) -> None:
        """Let writers in again between two passes.  Repeatable."""
        self._drop(UNSHARED + right for right in CHANGES)

    def release(self) -> None:
        """Drop every lock.  Repeatable."""
        self._drop(base + right for base in (HELD, UNSHARED) for right in Permission)

    def _take(self, hold: Iterable[Permission], keep: Iterable[Permission]) -> None:
        ours = [HELD + right for right in hold] + [UNSHARED + right for right in keep]
        against = [UNSHARED + right for right in hold] + [HELD + right for right in keep]
        try:
            for byte in ours:
                self._call(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, byte)
            for byte in against:
                if self._call(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte) != fcntl.F_UNLCK:
                    raise self._in_use(byte)
        except errors.FerryError:
            self._drop(ours)
            raise

    def _drop(self, ours: Iterable[int]) -> None:
        for byte in ours:
            self._call(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, byte)

    def _call(self, command: int, kind: int, byte: int) -> int:
        """One fcntl on one byte; gives the type of lock that stands in the way (F_UNLCK: none)."""
        try:
            answer = fcntl.fcntl(self._fd, command, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise self._in_use(byte) from error
            if error.errno in _UNLOCKABLE:
                raise errors.Unsafe(
                    f"{self._path}: its file system keeps no locks ({error.strerror}), so a running VM would not be"
                    " noticed; mount it with locks, or give --force-share when nothing else has it open"
                ) from error
            raise errors.DeviceFailed(f"{self._path}: cannot lock it: {error.strerror}") from error
        return int(_FLOCK.unpack(answer)[0])

    def _in_use(self, byte: int) -> errors.InUse:
        who = ", ".join(dict.fromkeys(holders(self._fd, byte))) or "another process, perhaps QEMU,"
        base, right = (UNSHARED, byte - UNSHARED) if byte >= UNSHARED else (HELD, byte - HELD)
        name = Permission(right).name.lower().replace("_", " ") if right in list(Permission) else f"byte {byte}"
        what = f"has it open ({name})" if base == HELD else f"lets nobody else have it ({name})"
        return errors.InUse(f"{self._path}: {who} {what}; {self._way}")
