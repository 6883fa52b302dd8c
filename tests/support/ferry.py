"""The `vmferry` command as its user runs it: a process of its own, with its own state."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 60.0
MEBI = 1 << 20


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it said."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> dict[str, Any]:
        """The last object of --json."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


_MAIN = """
import sys
from engine import cli
sys.argv[0] = "vmferry"
cli.main()
"""


class Ferry:
    """Commands with one state directory.  `first` is Python that each runs before it begins."""

    def __init__(self, state: Path, first: str = "") -> None:
        self.state = state
        self._program = ["-c", first + _MAIN] if first else ["-m", "engine.cli"]

    def begin(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start it; the caller ends it."""
        environment = {
            **os.environ,
            "VMFERRY_STATE": str(self.state),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
        }
        return subprocess.Popen(
            [sys.executable, *self._program, *map(str, words)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str | Path) -> Ended:
        """Run it to its end."""
        return ended(self.begin(*words))

    def told(self, *words: str | Path) -> dict[str, Any]:
        """Run it with --json; it must end well.  Gives its last object."""
        found = self.run(*words, "--json")
        assert found.code == 0, found.err
        return found.last

    def replicate(self, *words: str | Path) -> dict[str, Any]:
        """`replicate --json`, which must end well and proved.  Gives its last object."""
        found = self.told("replicate", *words)
        assert found["proved"], found
        return found


def ended(process: subprocess.Popen[str], patience: float = PATIENCE) -> Ended:
    """Wait for it; one that does not end is killed, and fails the test."""
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(
            f"it did not end within {patience:.0f} s; it said {out[-2000:]!r} {err[-2000:]!r}"
        ) from None
    return Ended(process.returncode, out, err)


def interrupted(process: subprocess.Popen[str], how: signal.Signals = signal.SIGINT) -> Ended:
    """Send it a signal, and wait."""
    process.send_signal(how)
    return ended(process)


def until(what: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until `what()` is true."""
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def image(path: Path, size: int, data: dict[int, int] | None = None, seed: int = 1) -> Path:
    """A sparse image with `data`: start to length, of random bytes; without it, all is random."""
    with open(path, "wb") as file:
        file.truncate(size)
    for start, length in (data if data is not None else {0: size}).items():
        scribble(path, start, length, seed + start)
    return path


def scribble(path: Path, start: int, length: int, seed: int = 7) -> None:
    """Random bytes into a file."""
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(random.Random(seed).randbytes(length))


def copied(path: Path, name: str) -> Path:
    """A copy of a file beside it, with another extension."""
    return Path(shutil.copy(path, path.with_suffix(f".{name}")))


def same(one: Path, other: Path) -> bool:
    """Whether two files are equal, byte by byte."""
    with open(one, "rb") as left, open(other, "rb") as right:
        while True:
            a, b = left.read(MEBI), right.read(MEBI)
            if a != b:
                return False
            if not a:
                return True
