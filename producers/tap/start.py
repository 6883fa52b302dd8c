"""How the source daemon begins a tap, or its watchdog: as a process that outlives it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from engine import errors
from producers.tap.control import Line
from producers.tap.order import Order

HOME = Path(__file__).parents[2]
_begun: list[subprocess.Popen[bytes]] = []
"""By this process, and not yet waited for."""


def start(what: str, order: Path, log: Path) -> subprocess.Popen[bytes]:
    """`run` or `watch` by the file `order`, in a session of its own, with nothing to read; what it says goes behind
    what is in `log`.  It has no descriptor of ours, and so no lock.  Once it ended, wait for it, or have `reap` do
    so, else it stays as a zombie, which identity.Process takes for dead."""
    path = os.pathsep.join((str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])))
    with open(log, "ab") as said:
        process = subprocess.Popen(
            (sys.executable, "-m", "producers.tap", what, str(order)),
            cwd="/", env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    _begun.append(process)
    return process


def reap() -> None:
    """Wait for those that this process began and that have ended; returns at once."""
    _begun[:] = [process for process in _begun if process.poll() is None]


def ready(order: Order, process: subprocess.Popen[bytes], patience: float) -> None:
    """Return once it answers.  Raises Transient when it has ended, or does not within so many seconds; blocks."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if process.poll() is not None:
            raise errors.Transient(f"the tap on {order.spool} ended with {process.returncode}; its log says why")
        with contextlib.suppress(errors.Transient):  # it does not listen yet
            line = Line(order.control, patience)
            try:
                line.ask("ping")
                return
            finally:
                line.close()
        time.sleep(0.02)
    raise errors.Transient(f"the tap on {order.spool} does not answer after {patience:g} s")
