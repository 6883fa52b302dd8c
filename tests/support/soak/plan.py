"""What a soak does, told by a seed before it begins: streams and their manners, and which fault comes when."""

from __future__ import annotations

import random
from dataclasses import dataclass

IDLE, CALM, BUSY, RESTLESS = "idle", "calm", "busy", "restless"
RHYTHM = {IDLE: (40.0, 90.0), CALM: (3.0, 9.0), BUSY: (0.5, 2.5), RESTLESS: (0.01, 0.04)}
"""Seconds between two bursts of writes.  A restless stream is never at rest while it is read: no cut of it is whole
before the writer stops."""

SOURCE, TARGET = "source killed", "target killed"
BROKER, HANGS = "broker killed", "broker hangs"
CONFIG = "one bad entry in the config"
CUTS = {f"{how} of the {side}": (side, how) for side in ("source", "target") for how in ("link cut", "link silent")}
KINDS = (SOURCE, TARGET, BROKER, HANGS, *CUTS, CONFIG)

LASTS = {SOURCE: (0.0, 8.0), TARGET: (0.0, 8.0), BROKER: (0.0, 8.0), HANGS: (2.0, 15.0), CONFIG: (2.0, 6.0)}
_CUT_LASTS, _LONG_CUT = (2.0, 12.0), (35.0, 50.0)
_GAP, _REST, _RESTS = (2.0, 9.0), (15.0, 40.0), 0.2
"""Seconds between two faults; in a long soak now and then a rest: what comes after it meets streams that are well."""
_LONG = 240.0
_RECOVERS = 6.0
"""Seconds at least, and as long as the fault lasted, for which what had it is left alone.  Brokers have one at a time:
two of three are always in sync, or soon so."""
_LOUD, _LAST = 1 / 3, 0.92
"""Daemons are killed within this first share of the time, and from this share on.  Between the two each lives one long
life, in which its memory must be flat."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A good one.  `size` in bytes, of which about half are data at first."""

    name: str
    manner: str
    size: int


@dataclass(frozen=True, slots=True)
class Fault:
    """From `at` on, `lasts`, both in seconds; `node`: which broker, counted from 0."""

    at: float
    kind: str
    lasts: float
    node: int = 0

    @property
    def end(self) -> float:
        return self.at + self.lasts


@dataclass(frozen=True, slots=True)
class Plan:
    """`seconds` of faults; `every`: how often cuts are made."""

    streams: int
    seconds: float
    brokers: int = 3
    seed: int = 1
    every: str = "1s"

    def good(self) -> tuple[Stream, ...]:
        """One restless, a fifth busy, two fifths calm, the rest idle."""
        chance = random.Random(self.seed)
        manners = [RESTLESS if not at else (IDLE, BUSY, CALM, IDLE, CALM)[at % 5] for at in range(self.streams)]
        sizes = [chance.randrange(3 << 20, 16 << 20, 512) for _ in manners]
        return tuple(Stream(f"vm-{at:02}", manner, sizes[at]) for at, manner in enumerate(manners))

    def faults(self) -> tuple[Fault, ...]:
        """In order of their begin, all over at the end.  Each has a kind of its own turn: none is left to chance."""
        chance, found, turns = random.Random(self.seed + 1), list[Fault](), _Turns(self.seed)
        free: dict[str, float] = {}
        at = chance.uniform(*_GAP)
        while at < self.seconds:
            kind = turns.next(loud=not _LOUD <= at / self.seconds < _LAST)
            lasts = min(chance.uniform(*self._lasts(kind, chance)), self.seconds / 5, self.seconds - at)
            begin = max(at, free.get(_where(kind), 0.0))
            if begin + lasts <= self.seconds and (kind not in (SOURCE, TARGET) or self._loud(begin)):
                found.append(Fault(begin, kind, lasts, chance.randrange(self.brokers)))
                free[_where(kind)] = begin + lasts + max(lasts, _RECOVERS)
            rests = self.seconds >= _LONG and chance.random() < _RESTS
            at += chance.uniform(*(_REST if rests else _GAP))
        return tuple(sorted(found, key=lambda one: one.at))

    def _loud(self, at: float) -> bool:
        return not _LOUD <= at / self.seconds < _LAST

    def _lasts(self, kind: str, chance: random.Random) -> tuple[float, float]:
        if kind not in CUTS:
            return LASTS[kind]
        return _LONG_CUT if chance.random() < 0.15 else _CUT_LASTS


class _Turns:
    """Kinds of faults in turn, each round in another order.  While daemons may be killed, every second one is that."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed + 2)
        self._bags: dict[tuple[str, ...], list[str]] = {}
        self._daemon = False

    def next(self, loud: bool) -> str:
        self._daemon = loud and not self._daemon
        return self._draw((SOURCE, TARGET) if self._daemon else tuple(one for one in KINDS[2:]))

    def _draw(self, kinds: tuple[str, ...]) -> str:
        bag = self._bags.setdefault(kinds, [])
        if not bag:
            bag += self._chance.sample(kinds, len(kinds))
        return bag.pop()


def _where(kind: str) -> str:
    """What a fault is at: only one fault at a time is."""
    if kind in CUTS:
        return f"link of the {CUTS[kind][0]}"
    return {SOURCE: "source", TARGET: "target", CONFIG: CONFIG}.get(kind, "broker")
