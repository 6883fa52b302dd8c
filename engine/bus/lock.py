"""Who may append to an embedded topic: a flock on its `lock` file, which goes with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from engine import errors
from engine.bus import trouble

NAME = "lock"
_POLL_SECONDS = 0.005


class Lock:
    """The lock file of one topic, open.  Two of them exclude each other also within one process."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        with trouble.named(str(self._path)):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def acquire(self, patience: float) -> None:
        """Take it, waiting up to `patience` seconds.  Raises InUse, naming the process that has it."""
        deadline = time.monotonic() + patience
        while not self._try():
            if time.monotonic() >= deadline:
                holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise errors.InUse(
                    f"the log {self._path.parent} is being written by process {holder} (lock {self._path}): "
                    "stop that one first"
                )
            time.sleep(_POLL_SECONDS)
        with trouble.named(str(self._path)):
            os.pwrite(self._fd, b"%-20d" % os.getpid(), 0)  # in place: a full disk must not stop a recovery

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release it too.  Repeatable."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
