"""How this process uses memory and threads while it moves bulk data.  Set once, before threads start."""

from __future__ import annotations

import gc
import sys

from engine import linux

_SWITCH_SECONDS = 0.0005
_OBJECTS = 20_000


def bulk() -> None:
    """For a process that replicates.  Repeatable.

    Measured on a baseline of 1 GiB: buffers of megabytes that malloc gives back and asks for again cost 0.7 million
    page faults, 1.4 s of system time; a thread that comes back from a read waits 5 ms for another that computes.
    """
    linux.keep_freed_memory()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(_OBJECTS, 20, 50)
