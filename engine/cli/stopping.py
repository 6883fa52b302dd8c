"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second takes it."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

from engine.cli.ending import INTERRUPTED

_ONE = 0.3
"""Seconds within which two signals are one: timeout(1) and process groups send it twice."""


class Stopping:
    """While inside, and on the way out, signals are counted instead of raised."""

    def __init__(self) -> None:
        self.wanted = False
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopping:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            return  # on the way out a second signal still ends at once, with the same code
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        if self.wanted and time.monotonic() - self._since < _ONE:
            return
        if self.wanted:
            # After a kill nothing would be put in order either: every start recovers.
            os._exit(INTERRUPTED)
        self.wanted, self._since = True, time.monotonic()
        sys.stderr.write("vmferry: ending; once more to end at once\n")
