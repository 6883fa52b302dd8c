"""Linux calls that Python's `os` lacks, and what an errno of a file means to its user.

Everything here blocks: callers offload it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from engine import errors

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02 | KEEP_SIZE
ZERO_RANGE = 0x10 | KEEP_SIZE
"""Modes of fallocate(2)."""

UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.ENOTTY, errno.EBUSY})
"""What a file system or a device says that has no such mode of fallocate(2), for this range or at all."""

PAGE = os.sysconf("SC_PAGE_SIZE")

_ZEROS = memoryview(bytes(1 << 20))
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fallocate.restype = ctypes.c_int

_KEPT = 32 << 20
"""The most that glibc takes as threshold (half of HEAP_MAX_SIZE)."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> None:
    """Have malloc take buffers up to 32 MiB from one heap, and keep so much of it when they are freed.

    Where the C library is not glibc, nothing changes.
    """
    if hasattr(_libc, "mallopt"):
        for parameter, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, 2 * _KEPT)):
            _libc.mallopt(parameter, value)


def give_back_memory() -> None:
    """Have malloc give free pages back to the system, also those between pages that are in use.

    Where the C library is not glibc, nothing happens.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def fallocate(fd: int, mode: int, start: int, length: int) -> None:
    """fallocate(2) with `mode`, which `os.posix_fallocate` does not take.  Raises OSError; again after EINTR."""
    while _libc.fallocate(fd, mode, start, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def try_fallocate(fd: int, mode: int, start: int, length: int) -> bool:
    """Whether the medium could do it; False changes nothing that is read.  Raises OSError when it tried and failed."""
    try:
        fallocate(fd, mode, start, length)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def pwrite_all(fd: int, start: int, data: bytes | memoryview) -> None:
    """Write all of `data` at `start`, however many calls the kernel makes of it.  Raises OSError."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, start)
        if done == 0:
            raise OSError(errno.EIO, "a write took no bytes and gave no reason")
        start, view = start + done, view[done:]


def write_zeros(fd: int, start: int, length: int) -> None:
    """Zeros by writing them, for media that can do no better.  Raises OSError."""
    while length > 0:
        step = min(length, len(_ZEROS))
        pwrite_all(fd, start, _ZEROS[:step])
        start, length = start + step, length - step


def sync_directory(path: str) -> None:
    """Make the entry of `path` in its directory durable.  Raises OSError."""
    fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_text(path: Path, text: str) -> None:
    """Have `path` hold `text`, as `replace_bytes` does."""
    replace_bytes(path, text.encode("utf-8", "surrogateescape"))


def replace_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Have `path` hold `data`, durably when it returns, with `mode` less the umask.  Raises Full, Usage, DeviceFailed.

    A fresh file is written and synced, takes the name, and the directory is synced.  A crash before it has the name
    leaves what was there, one behind that either of both, and never a part.
    """
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)  # a crash left it, perhaps with another mode
        with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, path)
        sync_directory(str(path))
    except OSError as why:
        raise failure(why, str(path), "write it", opening=True) from why


def remove_tree(path: Path) -> None:
    """Remove it with all that is in it.  Repeatable; not durable.  Raises Usage, DeviceFailed."""
    try:
        if path.exists():
            shutil.rmtree(path)
    except OSError as why:
        raise failure(why, str(path), "remove it", opening=True) from why


def free_bytes(path: str) -> int | None:
    """Bytes that an unprivileged writer may still take on the file system of `path`; None when it does not say."""
    try:
        room = os.statvfs(path if os.path.exists(path) else os.path.dirname(os.path.abspath(path)))
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def _full(error: OSError, path: str, doing: str) -> errors.FerryError:
    if error.errno == errno.EDQUOT:
        why, way = "the quota is used up", "raise the quota"
    else:
        free = free_bytes(path)
        why = "no space left" if free is None else f"no space left ({free:,} bytes free)"
        way = "free some space or grow the file system"
    return errors.Full(f"{path}: cannot {doing}: {why}; {way}, then start again")


def _refused(error: OSError, path: str, doing: str) -> errors.FerryError:
    ways = {
        errno.EROFS: "its file system is mounted read-only; `mount -o remount,rw` it, or take another target",
        errno.EACCES: "permission denied; `chmod`/`chown` it (and its directory), or run as its owner",
        errno.EPERM: "not permitted; it may be immutable (`chattr -i`), or a device that is set read-only",
        errno.EISDIR: "it is a directory; name a file or a block device",
        errno.EFBIG: "larger than its file system allows a file to be; take another file system",
        errno.ENAMETOOLONG: "the name is too long",
        errno.EEXIST: "it exists already; take it as it is, or remove it first",
        errno.ELOOP: "too many symbolic links",
    }
    return errors.Usage(f"{path}: cannot {doing}: {ways[error.errno or 0]}")


def _missing(error: OSError, path: str, doing: str) -> errors.FerryError:
    return errors.NotFound(f"{path}: cannot {doing}: {error.strerror}")


def _busy(error: OSError, path: str, doing: str) -> errors.FerryError:
    return errors.InUse(f"{path}: cannot {doing}: {error.strerror}; it is mounted, or another program holds it")


_FATES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _full),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV), _missing),
    **dict.fromkeys((errno.EBUSY, errno.ETXTBSY), _busy),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EFBIG, errno.ENAMETOOLONG, errno.EEXIST,
         errno.ELOOP),
        _refused,
    ),
}  # fmt: skip


def failed(error: OSError, path: str, doing: str) -> errors.DeviceFailed:
    """DeviceFailed for `path`, with the errno in words and by name."""
    name = errno.errorcode.get(error.errno or 0, f"errno {error.errno}")
    return errors.DeviceFailed(f"{path}: cannot {doing}: {error.strerror} ({name})")


def failure(error: OSError, path: str, doing: str, opening: bool = False) -> errors.FerryError:
    """What `error` means: Full; and while `opening` NotFound, InUse or Usage too; else DeviceFailed.

    `doing` follows "cannot": "write 4,096 bytes at 8,192".  Raise the answer `from error`.
    """
    fate = _FATES.get(error.errno or 0)
    if fate is not None and (opening or fate is _full):
        return fate(error, path, doing)
    return failed(error, path, doing)
