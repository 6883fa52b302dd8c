"""What is done to the daemons, the brokers and the links of a soak, when its plan says so."""

from __future__ import annotations

import heapq
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine import errors
from tests.support.daemons import Daemon
from tests.support.ferry import until
from tests.support.kafka import Broker
from tests.support.link import Link
from tests.support.soak import plan
from tests.support.soak.plan import Fault

_AGAIN = 1.0
"""Seconds after which one is tried again that had to wait."""


class Faults:
    """`step` it often.  A fault waits while its time is not: brokers that come back, a daemon that is just starting.

    `spoiled` is the stream whose entry in the source's config is bad now and then.  `born(side)` is told of every start
    of a daemon.  What was done is written to the file `diary`, with its times.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        brokers: Sequence[Broker],
        links: Mapping[str, Link],
        daemons: Mapping[str, Daemon],
        spoiled: str,
        born: Callable[[str], None],
        diary: Path,
    ) -> None:
        self._brokers, self._links, self._daemons = brokers, links, daemons
        self._spoiled, self._born, self._diary = spoiled, born, diary
        self._numbers = itertools.count()
        self._killed: set[str] = set()
        self._steps: list[tuple[float, int, Callable[[float], bool]]] = []
        self.done: Counter[str] = Counter()
        self.told = 0
        "Bad entries of the config of which the daemon's status told."
        for fault in faults:
            self._at(fault.at, lambda now, fault=fault: self._begin(fault, now))  # type: ignore[misc]

    def _at(self, when: float, step: Callable[[float], bool]) -> None:
        heapq.heappush(self._steps, (when, next(self._numbers), step))

    def step(self, now: float) -> None:
        """Do what is due.  `now` in seconds since the begin."""
        while self._steps and self._steps[0][0] <= now:
            _, _, what = heapq.heappop(self._steps)
            if not what(now):
                self._at(now + _AGAIN, what)

    def close(self, now: float) -> bool:
        """End what is under way, and begin nothing more.  Whether all of it has ended; else come again."""
        self._steps = [one for one in self._steps if not _begins(one[2])]
        heapq.heapify(self._steps)
        self.step(now)
        return not self._steps

    def down(self, side: str) -> bool:
        """Whether a daemon was killed here and not started again yet.  One that ended by itself is not meant."""
        return side in self._killed

    def _begin(self, fault: Fault, now: float) -> bool:
        begin, end = self._of(fault)
        if not begin():
            return False
        self.done[fault.kind] += 1
        self._note(now, "begins", fault)
        self._at(now + fault.lasts, lambda now: end() and self._note(now, "ends", fault))
        return True

    def _note(self, now: float, what: str, fault: Fault) -> bool:
        broker = f" {fault.node + 1}" if fault.kind in (plan.BROKER, plan.HANGS) else ""
        with open(self._diary, "a") as diary:
            diary.write(f"{time.strftime('%H:%M:%S')} {now:8.1f} {fault.kind}{broker} {what}\n")
        return True

    def _of(self, fault: Fault) -> tuple[Callable[[], bool], Callable[[], bool]]:
        if fault.kind in (plan.SOURCE, plan.TARGET):
            side = fault.kind.split()[0]
            return lambda: self._kill(side), lambda: self._start(side)
        if fault.kind == plan.CONFIG:
            return lambda: self._reload("often"), self._mend
        if fault.kind in plan.CUTS:
            side, how = plan.CUTS[fault.kind]
            link = self._links[side]
            return lambda: _done(link.cut if how == "link cut" else link.hush), lambda: _done(link.heal)
        broker = self._brokers[fault.node]
        if fault.kind == plan.BROKER:
            return lambda: self._well() and _done(broker.kill), lambda: _done(broker.start)
        return lambda: self._well() and _done(broker.pause), lambda: _done(broker.resume)

    def _well(self) -> bool:
        return all(broker.answers() for broker in self._brokers)

    def _kill(self, side: str) -> bool:
        if not self._answers(side):
            return False
        self._daemons[side].kill()
        self._killed.add(side)
        return True

    def _start(self, side: str) -> bool:
        self._daemons[side].begin()
        self._killed.discard(side)
        self._born(side)
        return True

    def _answers(self, side: str) -> bool:
        if self.down(side):
            return False
        try:
            self._daemons[side].ask("status")
        except errors.Transient:
            return False
        return True

    def _reload(self, every: str) -> bool:
        """Another `every` into the config, and SIGHUP; "" for what holds for all.  Not while it does not listen yet: a
        signal would end it."""
        if not self._answers("source"):
            return False
        source = self._daemons["source"]
        entry = source.config["streams"][self._spoiled]
        entry.pop("every", None)
        entry |= {"every": every} if every else {}
        source.write()
        source.send(signal.SIGHUP)
        return True

    def _mend(self) -> bool:
        """See that the bad entry was told by its name, and take it out."""
        if not self._answers("source"):
            return False
        until(lambda: any(self._spoiled in one for one in self._daemons["source"].ask("status")["problems"]))
        self.told += 1
        return self._reload("")


def _begins(step: Callable[[float], bool]) -> bool:
    return bool(step.__defaults__)


def _done(what: Callable[[], object]) -> bool:
    what()
    return True
