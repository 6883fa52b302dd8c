"""What monitoring has to know of a replica, whoever knows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Judged:
    """One replica of a stream, or a stream that has none.  `rpo` in seconds; None: no usable epoch.

    `held`, `damaged` and `bus_away` say why, in words.  `name` tells several replicas of one label apart.
    `taken`: False where there is no replica, and none is wanted yet, so that only warnings count.
    """

    label: str
    rpo: float | None
    held: str = ""
    damaged: str = ""
    warnings: tuple[str, ...] = ()
    bus_away: str = ""
    name: str = ""
    taken: bool = True
