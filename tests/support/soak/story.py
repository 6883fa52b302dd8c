"""The story of a soak: begin, be well, have faults while guests write, come to rest, and be looked at."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import kafka
from tests.support.daemons import Count, Daemon, Sites
from tests.support.kafka import Cluster
from tests.support.link import Link, Listeners
from tests.support.soak import plan
from tests.support.soak.faults import Faults
from tests.support.soak.meter import Ages, Life, Stall, flat
from tests.support.soak.plan import Plan
from tests.support.soak.report import Report, receipts_of
from tests.support.soak.writer import Writer

_LOOK, _LOOKS = 0.1, 300
NO_DISK, NO_PLACE = "bad-disk", "bad-place"
"""Streams that are bad all along: of the one there is no disk, of the other the replica has no place."""
_OURS = ("a bug of ours", "Traceback", "unexpected ")
"""What no log of a daemon may have in it."""
_VERIFIED = 5


@dataclass
class Soak:
    """One run below `home`, over `cluster` by `links`."""

    home: Path
    plan: Plan
    cluster: Cluster
    links: dict[str, Link]
    lives: list[Life] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        good = self.plan.good()
        self.names = [one.name for one in good]
        self.restful = [one.name for one in good if one.manner != plan.RESTLESS]
        self.sites = Sites(self.home / "sites", self.cluster.url, self.plan.every)
        self.daemons = {"source": self.sites.source, "target": self.sites.target}
        self.writer = Writer(good, self.sites.disk, self.plan.seed)
        self.sent = {name: Count("sent_bytes") for name in self.names}
        self.restarts = {side: {name: Count("restarts") for name in self.names} for side in self.daemons}
        self.ages, self.stall = Ages(), Stall()
        spoiled = next(one.name for one in good if one.manner == plan.BUSY)
        self.faults = Faults(
            self.plan.faults(), self.cluster.brokers, self.links, self.daemons, spoiled, self._born,
            self.home / "faults.log",
        )  # fmt: skip
        self._began = time.monotonic()
        self._patience = 120.0 + 3 * self.plan.streams
        self._next = 0.0

    # -- the story ------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """All of it.  `wrong` of the report has what was not as promised."""
        try:
            self._set_up()
            warm = self._wait("the first replicas", self._well)
            self._suffer()
            came = self._wait("replicas after the last fault", lambda: self._well() and self._same())
            self._judge()
            said = receipts_of(self.cluster.url)
        finally:
            self._end()
        return Report(
            plan=self.plan, faults=dict(self.faults.done), told=self.faults.told, warm=warm, came=came,
            seconds=self._now, writes=self.writer.writes, written=self.writer.bytes,
            sent=sum(one.total for one in self.sent.values()),
            passed={side: link.passed for side, link in self.links.items()},
            restarts={side: sum(count.total for count in counts.values()) for side, counts in self.restarts.items()},
            receipts=said, age=self.ages.median, worst=self.ages.worst, stall=self.stall,
            lives=self.lives, wrong=self.wrong,
        )  # fmt: skip

    def _set_up(self) -> None:
        for side, daemon in self.daemons.items():
            daemon.config["bus"] = f"kafka://{self.links[side].addresses}"
        nowhere = self.home / "a file, no directory"
        nowhere.touch()
        rule = {"streams": f"site-a/{NO_PLACE}", "path": f"{nowhere}/{{name}}.img"}
        self.sites.target.config["accept"].insert(0, rule)
        self.sites.target.write()
        self.writer.make()
        self.sites.disk(NO_PLACE).write_bytes(bytes(1 << 20))
        for name in (*self.names, NO_DISK, NO_PLACE):
            self.sites.serve(name)
        self.sites.start()
        for side in self.daemons:
            self._born(side)

    def _suffer(self) -> None:
        self._began, self._next = time.monotonic(), 0.0
        self.stall = Stall()
        for life in self.lives:  # what filling the first replicas took is not judged
            life.samples.clear()
        self.writer.start()
        try:
            while self._now < self.plan.seconds:
                self.faults.step(self._now)
                self._look()
                time.sleep(_LOOK)
        finally:
            self.writer.stop()
        self._wait("the end of the last faults", lambda: self.faults.close(self._now))

    def _end(self) -> None:
        for side, daemon in self.daemons.items():
            if not daemon.ended() and (code := daemon.stop()):
                self.wrong.append(f"the {side} ended with {code}")

    # -- looking --------------------------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    def _born(self, side: str) -> None:
        self.lives.append(Life(side, self.daemons[side].pid))

    def _look(self) -> None:
        if self._now < self._next:
            return
        self._next = self._now + max(1.0, self.plan.seconds / _LOOKS)
        for side, daemon in self.daemons.items():
            if self.faults.down(side):
                continue
            next(life for life in reversed(self.lives) if life.side == side).look(self._now)
            self._heed(side, daemon.streams())

    def _heed(self, side: str, said: dict[str, dict[str, Any]]) -> None:
        for name in self.names:
            self.restarts[side][name].look(said.get(name, {}))
            if side == "source":
                self.sent[name].look(said.get(name, {}))
        if side == "target":
            self.ages.look(said, self.restful, self._now)
            self.stall.look(said, self._now)

    def _wait(self, what: str, there: Callable[[], object]) -> float:
        """Seconds that it took.  Fails when it takes too long."""
        began = time.monotonic()
        while not there():
            if time.monotonic() > began + self._patience:
                raise AssertionError(f"{what}: not there after {self._patience:.0f} s: {self._late()}")
            self._look()
            time.sleep(5 * _LOOK)
        return time.monotonic() - began

    def _late(self) -> str:
        both = [daemon.streams() for daemon in self.daemons.values()]
        late = [name for name in self.names if name in self._unwell(*both) or not self.sites.same(name)]
        return "; ".join(f"{name}: {[said.get(name) for said in both]}" for name in late)

    def _well(self) -> bool:
        return not self._unwell(*(daemon.streams() for daemon in self.daemons.values()))

    def _same(self) -> bool:
        """Whether the replicas are what was written last: what is proved may be the state before that."""
        return all(self.sites.same(name) for name in self.names)

    def _unwell(self, own: dict[str, dict[str, Any]], said: dict[str, dict[str, Any]]) -> list[str]:
        """Streams whose replica has not proved what the source is now, or with which something else is wrong."""

        def well(name: str) -> bool:
            here, there = own.get(name, {}), said.get(name, {})
            states = [(one.get("state"), one.get("why")) for one in (here, there)]
            proved = here.get("epoch") and there.get("proved_epoch") == here["epoch"] == here["current_epoch"]
            return bool(proved) and states == [("running", "")] * 2

        return [name for name in self.names if not well(name)]

    # -- judging --------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """All that must hold when it has come to rest."""
        self.wrong += [f"{name}: its replica is not its source" for name in self.names if not self.sites.same(name)]
        for name in self.names[:: max(1, len(self.names) // _VERIFIED)][:_VERIFIED]:
            done = self.sites.target.ferry.run("verify", name)
            self.wrong += [f"verify {name}: {done.out} {done.err}"] if done.code else []
        self._judge_bad(self.sites.source, NO_DISK, str(self.sites.disk(NO_DISK)))
        self._judge_bad(self.sites.target, NO_PLACE, "a file, no directory")
        if self.faults.told != self.faults.done[plan.CONFIG]:
            self.wrong.append("a bad entry of the config was not told")
        for side, daemon in self.daemons.items():
            text = daemon.log.read_text(errors="replace")
            self.wrong += [f"the log of the {side} has {words!r}" for words in _OURS if words in text]
            early, late, well = flat(self.longest(side).samples)
            if not well:
                self.wrong.append(f"memory of the {side} rose from {early >> 20} to {late >> 20} MiB")

    def _judge_bad(self, daemon: Daemon, name: str, why: str) -> None:
        """A bad stream is said, by status as people see it, with its name and what is wrong."""
        said = daemon.stream(name)
        if said.get("state") not in ("trouble", "unclaimed") or why not in said.get("why", ""):
            self.wrong.append(f"status of the {daemon.side} does not tell what is wrong with {name}: {said}")
        shown = daemon.ferry.run("status").out
        if name not in shown:
            self.wrong.append(f"status of the {daemon.side} does not name {name}: {shown}")

    def longest(self, side: str) -> Life:
        return max((life for life in self.lives if life.side == side), key=lambda life: life.length)


@contextlib.contextmanager
def soak(home: Path, planned: Plan) -> Iterator[Soak]:
    """A soak that is ready to `run`: its cluster runs, and is killed at the end."""
    listeners = Listeners("source", "target")
    with kafka.running(home / "kafka", planned.brokers, listeners.settings) as cluster, listeners.links() as links:
        yield Soak(home, planned, cluster, links)
