"""What `vmferry doctor` looks at.  Each look leaves the machine as it was."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine import errors, linux, places, quotas, units
from engine.bus import connect
from engine.bus.reach import reach_config
from engine.device import locks
from engine.nbd import qemu
from engine.registry import Registry
from schemas import topics

_SYNCS = 20
_SLOW_SYNC = 0.05
"""Seconds for one fdatasync; an epoch has about three (DESIGN.md 5 has 0.8 ms for a whole settle)."""
_FILES = 256
_LITTLE = 1 << 30
_SQLITE = (3, 37)
_UNSYNCHRONIZED = 5
"""TIME_ERROR of adjtimex(2)."""


@dataclass(frozen=True, slots=True)
class Found:
    """One look: `ok` or what it lacks.  `required`: without it nothing works; `mend` is the command that mends it."""

    name: str
    ok: bool
    words: str
    mend: str = ""
    required: bool = False


def machine() -> Iterator[Found]:
    """Programs and limits."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Found("Python", sys.version_info >= (3, 11), version, "apt-get install python3.11", required=True)
    yield Found(
        "SQLite", sqlite3.sqlite_version_info >= _SQLITE, sqlite3.sqlite_version,
        "install a Python that is built with SQLite 3.37 or later", required=True,
    )  # fmt: skip
    for name in ("qemu-img", "qemu-nbd"):
        yield _program(name)
    yield _files()
    yield _clock()
    kvm = "is here" if os.path.exists("/dev/kvm") else "is not here"
    yield Found("/dev/kvm", True, f"{kvm}; replication does not need it")
    java = shutil.which("java")
    yield Found("Java", True, f"{java or 'is not here'}; only a Kafka broker on this machine needs it")
    yield Found("kernel", True, f"{platform.system()} {platform.release()} on {platform.machine()}")


def _program(name: str) -> Found:
    path = shutil.which(name)
    if path is None:
        words = "is not here: only raw images, block devices and NBD servers can be replicated"
        return Found(name, False, words, "apt-get install qemu-utils")
    ended = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=30)
    first = (ended.stdout or ended.stderr).strip().splitlines()[:1]
    return Found(name, ended.returncode == 0, " ".join(first) or "says no version", "apt-get install qemu-utils")


def _files() -> Found:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Found("open files", soft >= _FILES, f"at most {soft:,}", f"ulimit -n {4 * _FILES}")


def _clock() -> Found:
    # adjtimex(2) with modes 0 only reads; struct timex is below 256 bytes on every Linux.
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(256))
    wrong = state == _UNSYNCHRONIZED or time.time() < 1_700_000_000
    words = "is not synchronized: instants and RPO are only as good as it is" if wrong else "is synchronized"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Found("clock", not wrong, f"{now}, {words}", "timedatectl set-ntp true")


def state(where: places.Places) -> Iterator[Found]:
    """The directory of the state, and what its file system can do."""
    there = next(path for path in (where.root, *where.root.parents) if path.exists())
    words = str(where.root) + ("" if there == where.root else f" (made at the first run, in {there})")
    able = os.access(there, os.W_OK | os.X_OK)
    mend = f"chown {os.geteuid()} {there}, or give --state DIR"
    yield Found("state", able, words if able else f"{words}: may not be written to", mend, required=True)
    if not able:
        return
    yield _room(there)
    with tempfile.TemporaryDirectory(prefix="vmferry-doctor-", dir=there) as scratch:
        path = Path(scratch) / "file"
        path.write_bytes(bytes(1 << 20))
        for look in (_system, _holes, _direct, _locks, _syncs):
            yield look(path)


def _room(there: Path) -> Found:
    room = os.statvfs(there)
    free, whole = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    tight = free < _LITTLE or whole - free > whole * quotas.WARN_AT
    return Found("room", not tight, f"{units.shown(free)} of {units.shown(whole)} free", "give --state a larger disk")


def _system(path: Path) -> Found:
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words, _, rest = line.partition(" - ")
        point = words.split()[4].encode().decode("unicode_escape")
        if os.path.commonpath((point, path)) == point and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    volatile = kind in ("tmpfs", "ramfs")
    words = f"{kind} at {best}{': gone with the next boot' if volatile else ''}"
    return Found("file system", not volatile, words, "give --state a directory on a disk")


def _try(name: str, call: Callable[[], bool | None], yes: str, no: str, mend: str, required: bool = False) -> Found:
    try:
        able = call() is not False
    except (OSError, errors.FerryError) as why:
        return Found(name, False, f"{no} ({why})", mend, required)
    return Found(name, able, yes if able else no, mend, required)


def _holes(path: Path) -> Found:
    def punch() -> bool:
        fd = os.open(path, os.O_RDWR)
        try:
            return linux.try_fallocate(fd, linux.PUNCH_HOLE, 0, 1 << 19)
        finally:
            os.close(fd)

    no = "cannot be punched: what the undo log lets go of keeps its space"
    return _try("holes", punch, "can be punched", no, "give --state a directory on ext4, xfs or btrfs")


def _direct(path: Path) -> Found:
    no = "is not there: reads of a replica in a format of QEMU's may come from a cache"
    mend = "keep replicas on ext4, xfs or a block device"
    return _try("O_DIRECT", lambda: qemu.takes_direct(str(path)), "is there", no, mend)


def _locks(path: Path) -> Found:
    def lock() -> None:
        fd = os.open(path, os.O_RDWR)
        try:
            locks.ImageLock(fd, str(path)).acquire(True)
        finally:
            os.close(fd)

    no = "cannot be taken: a running VM would not be noticed"
    return _try("OFD locks", lock, "keep other programs out of images", no, "mount the file system with locks", True)


def _syncs(path: Path) -> Found:
    took = []
    fd = os.open(path, os.O_RDWR)
    try:
        for at in range(_SYNCS):
            linux.pwrite_all(fd, at * 4096, os.urandom(4096))
            began = time.perf_counter()
            os.fdatasync(fd)
            took.append(time.perf_counter() - began)
    finally:
        os.close(fd)
    took.sort()
    words = f"{took[_SYNCS // 2] * 1000:.2f} ms p50, {took[-1] * 1000:.2f} ms p99, of {_SYNCS} of 4 KiB"
    slow = took[_SYNCS // 2] > _SLOW_SYNC
    return Found("fdatasync", not slow, words, "give --state a directory on a faster disk")


async def bus(url: str, config: str, where: places.Places) -> list[Found]:
    """Whether the bus answers, and whether the settings of our topics on it are safe.  Makes no topic."""
    found = [Found("bus", True, f"{url} answers", required=True)]
    try:
        async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
            opened = await reach_config(url, Path(config) if config else None)
            stack.push_async_callback(opened.close)
            ours = [topics.receipts()]
            ours += [topics.stream(one.identity, one.prefix) for one in Registry(where).streams() if one.bus == url]
            for topic in ours:
                if await opened.exists(topic):
                    log = await opened.open(topic)
                    begin, end = await log.ends()
                    found.append(Found("topic", True, f"{topic}: settings are safe, holds {begin:,} to {end:,}"))
                else:
                    found.append(Found("topic", True, f"{topic}: made at the first run"))
    except (errors.FerryError, TimeoutError) as why:
        mend = f"start the brokers, or name the bus as {connect.FORMS}"
        if isinstance(why, (errors.Unsafe, errors.Usage)):
            mend = "set what it says"
        found.append(Found("bus", False, str(why) or f"{url} does not answer", mend, required=True))
        return found[1:]
    return found
