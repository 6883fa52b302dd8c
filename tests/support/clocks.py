"""A clock of one process that jumps while it runs, by libfaketime: the one that people set, never the monotonic.

As a script it runs the Python command line that follows it (`PYTHON -m MODULE WORDS`), as `Clock.before` has it.
"""

from __future__ import annotations

import os
import runpy
import select
import sys
import time
from pathlib import Path
from typing import SupportsIndex

from tests.support import tools

_LIBRARY = "faketime/libfaketimeMT.so.1"


class Clock:
    """Right until `jump`.  `before` comes before the command of the process that lives by it."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True)
        self._file = home / "clock"
        self.jump(0)

    @property
    def before(self) -> list[str]:
        return [
            "env", f"LD_PRELOAD={_library()}", f"FAKETIME_TIMESTAMP_FILE={self._file}", "FAKETIME_CACHE_DURATION=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1", sys.executable, "-m", "tests.support.clocks",
        ]  # fmt: skip

    def jump(self, seconds: int) -> None:
        """From within a second on it is so far ahead of the right time; behind it below zero."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}s\n")
        os.rename(fresh, self._file)


def _library() -> Path:
    """Debian's places: for its architecture, and before it had those."""
    tools.need("faketime")
    found = sorted([*Path("/usr/lib").glob(f"*/{_LIBRARY}"), *Path("/usr/lib").glob(_LIBRARY)])
    return found[0] if found else tools.lack(f"no {_LIBRARY}; sudo apt-get install --reinstall libfaketime")


def _sleep(seconds: float | SupportsIndex) -> None:
    """libfaketime 0.9.10 answers EINVAL to the sleep until a monotonic instant that is Python's own (measured)."""
    select.select([], [], [], float(seconds))


def main() -> None:
    _python, _m, module, *words = sys.argv[1:]
    time.sleep = _sleep
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
