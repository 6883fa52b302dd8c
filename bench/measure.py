"""Commands timed side by side: contenders take turns in every round, and medians are what counts."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
MIB = 1 << 20
GIB = 1 << 30
BUSY = 2.0
"""Load average from which on a run is said to have been disturbed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One command that ended well.  Seconds of the wall and of the CPU; most bytes that were resident."""

    seconds: float
    user: float
    system: float
    peak: int


def surroundings() -> dict[str, str]:
    """The environment of a command.  Python keeps what it has compiled, as it does where a package is installed: to
    compile all of vmferry anew is a tenth of a second that no user waits for."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**known, "PATH": PATH, "PYTHONPATH": str(ROOT)}


def run(command: Sequence[str]) -> Run:
    """Run it to its end.  Raises RuntimeError with the end of what it said when it fails."""
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=ROOT, env=surroundings())
        # wait4 and not wait: the kernel's own account of this one child.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            end = said.read()[-2000:].decode(errors="replace")
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {end}")
    return Run(seconds, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)


def said(command: Sequence[str]) -> str:
    """What a command prints; empty when it is not there or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PATH": PATH}
        )
    except FileNotFoundError:
        return ""
    return (done.stdout or done.stderr).strip() if done.returncode == 0 else ""


def python(*arguments: str) -> list[str]:
    """A command of this interpreter."""
    return [sys.executable, *arguments]


def replicate(source: Path, target: Path, state: Path, *more: str) -> list[str]:
    """`vmferry replicate`: the whole command, its interpreter's start included."""
    return python("-m", "engine.cli", "replicate", str(source), str(target), "--state", str(state), *more)


@dataclass(frozen=True, slots=True)
class Contender:
    """Steps that are timed one by one, and what is done before them, untimed."""

    name: str
    steps: Mapping[str, Sequence[str]]
    prepare: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Timed:
    """What the rounds of one contender came to, for each step."""

    runs: dict[str, list[Run]] = field(default_factory=dict)

    def seconds(self, *steps: str) -> float:
        """The median over the rounds of these steps together; of all steps when none is named."""
        return statistics.median(self.each(*steps))

    def each(self, *steps: str) -> list[float]:
        return [sum(run.seconds for run in turn) for turn in zip(*self._of(steps), strict=True)]

    def cpu(self, *steps: str) -> float:
        """Median CPU seconds, user and system."""
        each: list[float] = [sum(run.user + run.system for run in turn) for turn in zip(*self._of(steps), strict=True)]
        return statistics.median(each)

    def peak(self) -> int:
        """Most bytes resident in any round."""
        return max(run.peak for runs in self.runs.values() for run in runs)

    def _of(self, steps: Sequence[str]) -> list[list[Run]]:
        return [runs for step, runs in self.runs.items() if step in steps or not steps]


def rounds(contenders: Sequence[Contender], count: int, before: Callable[[], None] = lambda: None) -> dict[str, Timed]:
    """`count` rounds in which each contender has a turn, another one first each time.  `before` opens a round."""
    found = {one.name: Timed({step: [] for step in one.steps}) for one in contenders}
    for turn in range(count):
        before()
        first = turn % len(contenders)
        for one in [*contenders[first:], *contenders[:first]]:
            one.prepare()
            os.sync()  # nobody pays for what another one left in memory
            for step, command in one.steps.items():
                found[one.name].runs[step].append(run(command))
            tell(f"  round {turn + 1}/{count} {one.name}: {found[one.name].each()[-1]:.2f} s")
    return found


def spread(values: Sequence[float]) -> str:
    """Least and most, for a table."""
    return f"{min(values):.2f} - {max(values):.2f}"


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def drop_caches() -> bool:
    """Forget every clean page of this machine; False when we may not."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def tell(line: str) -> None:
    """Progress, for whoever waits."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
