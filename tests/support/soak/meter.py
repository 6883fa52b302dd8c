"""What a soak measures while it goes on: memory and processor of each daemon, and how old the replicas are."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FLAT, SLACK = 1.15, 8 << 20
"""Memory is flat when its last floor is at most FLAT times an earlier one, and SLACK bytes: an allocator's steps."""
_FLOOR = 10
"""The floor is what is resident at most for one in so many samples.  What all streams read at once after a fault stays
for up to half a minute: a median tells how many faults there were, and what leaks is there between them, too."""
YOUNG, YOUNG_SLACK = 300.0, 48 << 20
"""A process that lived for fewer seconds still fills its caches: there only a leak that is a flood is seen."""
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """`at` in seconds since the faults began, `resident` in bytes, `used` in seconds of a processor since its start."""

    at: float
    resident: int
    used: float


@dataclass(slots=True)
class Life:
    """One process of one side."""

    side: str
    pid: int
    samples: list[Sample] = field(default_factory=list)

    @property
    def length(self) -> float:
        return self.samples[-1].at - self.samples[0].at if self.samples else 0.0

    def look(self, at: float) -> None:
        """Take a sample; nothing when it is just ending."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            ticks = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        except (FileNotFoundError, ProcessLookupError):
            return
        if "VmRSS:" in status:  # a process that has ended and was not waited for has none
            resident = int(status.partition("VmRSS:")[2].split()[0]) << 10
            self.samples.append(Sample(round(at, 1), resident, sum(map(int, ticks)) / _TICK))

    @property
    def share(self) -> float:
        """Of one processor, since its start as far as samples go."""
        return (self.samples[-1].used - self.samples[0].used) / self.length if self.length else 0.0


def flat(samples: Sequence[Sample]) -> tuple[int, int, bool]:
    """(floor of the second fifth, floor of the last fifth, whether that is flat), of what is resident, in bytes."""
    fifth = len(samples) // 5
    if not fifth:
        raise ValueError(f"{len(samples)} samples of memory are too few to judge")
    early, late = (
        sorted(one.resident for one in part)[fifth // _FLOOR] for part in (samples[fifth : 2 * fifth], samples[-fifth:])
    )
    slack = SLACK if samples[-1].at - samples[0].at >= YOUNG else YOUNG_SLACK
    return early, late, late <= early * FLAT + slack


class Ages:
    """RPO of replicas, by `look`; seconds."""

    def __init__(self) -> None:
        self._found: list[float] = []
        self.worst = 0.0, "", 0.0
        "(seconds, of which stream, when)"

    def look(self, streams: dict[str, dict[str, Any]], names: Sequence[str], at: float) -> None:
        for name in names:
            if (age := streams.get(name, {}).get("rpo_seconds")) is not None:
                self._found.append(age)
                self.worst = max(self.worst, (age, name, at))

    @property
    def median(self) -> float:
        return statistics.median(self._found) if self._found else 0.0


@dataclass(slots=True)
class Stall:
    """The longest time in which no replica proved anything new, and when it ended."""

    longest: float = 0.0
    ended: float = 0.0
    _proved: int = 0
    _since: float = 0.0

    def look(self, streams: dict[str, dict[str, Any]], at: float) -> None:
        proved = sum(one.get("proved_epoch") or 0 for one in streams.values())
        if proved > self._proved:
            self._proved, self._since = proved, at
        if at - self._since > self.longest:
            self.longest, self.ended = at - self._since, at


def plain(lives: Sequence[Life]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(life) for life in lives]
