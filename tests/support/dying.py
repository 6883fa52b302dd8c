"""A `vmferry` that is killed by SIGKILL as it enters a function of ours for the N-th time.

python -m tests.support.dying MODULE [CLASS.]FUNCTION N [PYTHON -m engine.cli] COMMAND...
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.ferry import ROOT, Ended, Ferry, ended


def die(ferry: Ferry, point: str, nth: int, *words: str | Path) -> Ended:
    """Run a command that dies at the `nth` call of `point`, "module:Class.function".  It must have died there."""
    environment = {**os.environ, "VMFERRY_STATE": str(ferry.state), "PYTHONPATH": str(ROOT)}
    found = ended(
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.dying", *point.split(":"), str(nth), *map(str, words)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
    )  # fmt: skip
    assert found.code == -signal.SIGKILL, f"it ended with {found.code}: {found.out} {found.err}"
    return found


def arm(module: str, path: str, nth: int) -> None:
    """Let the `nth` call be the last thing that this process does."""
    owner_name, _, name = path.rpartition(".")
    found = importlib.import_module(module)
    owner = getattr(found, owner_name) if owner_name else found
    original, calls = getattr(owner, name), 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(owner, name, dying)


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    del sys.argv[1:4]
    if sys.argv[1] == sys.executable:  # as the daemons of tests/support/daemons.py are begun
        del sys.argv[1:4]
    from engine.cli import main

    main()
