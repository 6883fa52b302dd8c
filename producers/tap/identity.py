"""Which process a tap is: its id and when it began, so that another one with its id is never taken for it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import errors, linux

FILE = "tap.json"
"""In the spool's directory: which process has it, and where it is asked.  It stays when that has ended."""
VERSION = 1

_PIDFD_GETFD = 438
"""The same number on every architecture (Linux 5.6)."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Process:
    """`started`: clock ticks after the boot that `boot` names."""

    pid: int
    started: int
    boot: str

    def alive(self) -> bool:
        """Whether it runs; one that has ended and was not waited for does not."""
        return self.started == _started(self.pid) != -1 and boot() == self.boot

    @contextlib.contextmanager
    def held(self) -> Iterator[int | None]:
        """A descriptor of this very process, or None when it has ended.  Its number is nobody else's meanwhile."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # Looked at behind the open: so what is held is the process whose start time was read.
            yield fd if self.alive() else None
        finally:
            os.close(fd)


def me() -> Process:
    """This process."""
    return of(os.getpid())


def of(pid: int) -> Process:
    """The one that has this id now, which a child of ours keeps until it is waited for."""
    return Process(pid, _started(pid), boot())


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int:
    """Field 22 of /proc/PID/stat (proc(5)); -1 when there is no such process, or only what is left of one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def save(spool: Path, process: Process, nonce: bytes) -> None:
    """Write it down, durably.  Raises Full, Usage, DeviceFailed."""
    write(spool / FILE, process, incarnation=nonce.hex())


def write(path: Path, process: Process, **more: str) -> None:
    """Have `path` say which process; durably.  Raises Full, Usage, DeviceFailed."""
    linux.replace_text(path, json.dumps({"version": VERSION, **asdict(process), **more}) + "\n")


def load(spool: Path) -> Process | None:
    """The tap that had this spool last, alive or not; None when there was none.  Raises Newer, Damaged."""
    return read(spool / FILE)


def read(path: Path) -> Process | None:
    """What `write` wrote; None when there is no such file.  Raises Newer, Damaged."""
    try:
        found = json.loads(path.read_text())
        if found["version"] > VERSION:
            raise errors.Newer(path, found["version"], VERSION)
        return Process(int(found["pid"]), int(found["started"]), str(found["boot"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as why:
        raise errors.Damaged(f"{path} does not read: {why!r}; delete it once no tap runs there") from why


def kill(held: int, patience: float) -> bool:
    """SIGKILL; whether the process ended within so many seconds.  One that hangs in the kernel does not."""
    signal.pidfd_send_signal(held, signal.SIGKILL)
    return held in readable(patience, held)


def readable(patience: float, *fds: int) -> list[int]:
    """Those that can be read, waiting so many seconds for one; a process that has ended can be.  (select(2) would
    refuse descriptors from 1,024 on, which a daemon may have.)"""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(patience, 0.0) * 1000)]


def sever(held: int, pid: int, path: Path) -> int:
    """Shut every connection down that the process has taken on the UNIX socket `path`; gives how many.

    For one that SIGKILL would not end, as a thread of it hangs in the kernel: who waits for its replies hears at once
    that there will be none.  Raises OSError where we may not (another user's process, ptrace forbidden), and where its
    first thread has ended.
    """
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        fd = _libc.syscall(_PIDFD_GETFD, held, int(name), 0)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        count += _shut(fd, path)
    return count


def _shut(fd: int, path: Path) -> bool:
    """Shut down what `fd` is, if it is a connection of that socket.  Closes `fd`."""
    try:
        with socket.socket(fileno=fd) as found:
            if found.family != socket.AF_UNIX or found.getsockname() != str(path):
                return False
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return False
            found.shutdown(socket.SHUT_RDWR)
            return True
    except OSError:
        os.close(fd)  # not a socket: Python took no hold of it
        return False
