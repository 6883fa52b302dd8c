"""How much a log directory may hold: the spool of a tap must not fill the disk of its host."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from engine import errors

WARN_AT = 0.8
MEASURE_SECONDS = 1.0
"""How old a measurement may be: other processes write there too, and whoever trims gives space back."""
_log = logging.getLogger("vmferry.bus")


class Room:
    """Counts the bytes of all segments of a bus against `quota` (None: no bound but the disk).

    Before it refuses it measures again.
    """

    def __init__(self, path: Path, quota: int | None) -> None:
        self._path, self._quota = path, quota
        self._used = self._waiting = 0
        self._measured = -MEASURE_SECONDS
        self._warned = False

    @property
    def used(self) -> int:
        """Bytes, as of the last `take`; 0 without a quota."""
        return self._used

    def take(self, amount: int) -> None:
        """`amount` bytes are to be written.  Raises Full, having counted nothing, when they would pass the quota."""
        if self._quota is None:
            return
        now = time.monotonic()
        if now - self._measured >= MEASURE_SECONDS or self._used + amount > self._quota:
            self._used, self._measured = _measure(self._path) + self._waiting, now
        if self._used + amount > self._quota:
            raise errors.Full(
                f"{self._path} holds {self._used} bytes, and {amount} more would pass its quota of {self._quota}: "
                "let the target catch up so that the log can be trimmed, or raise the quota"
            )
        self._used += amount
        self._waiting += amount
        self._warn(self._quota)

    def landed(self, amount: int) -> None:
        """`amount` bytes of what was taken are in files now, or will never be."""
        self._waiting = max(0, self._waiting - amount)

    def _warn(self, quota: int) -> None:
        tight = self._used > quota * WARN_AT
        if tight and not self._warned:
            _log.warning("%s holds %d of the %d bytes of its quota (80 %% passed)", self._path, self._used, quota)
        self._warned = tight


def _measure(path: Path) -> int:
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            if name.endswith(".seg"):
                total += _size(Path(directory, name))
    return total


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # trimmed between the listing and here
        return 0
