"""What streams cost on which nothing happens, and whether they slow down one on which much does."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import images
from bench.measure import MIB, load, spread, tell
from bench.report import Section, Verdict

if TYPE_CHECKING:
    from tests.support.daemons import Daemon, Sites
    from tests.support.kafka import Cluster

_COUNTS = (1, 10, 50)
_DAY = 86_400.0
_REST = 40.0
"""Seconds after the last proof; by then each daemon has said everything at least once more."""
_LOOK = 0.1
"""Seconds between two looks: to tell how everything is costs a daemon, too."""


@dataclass(frozen=True, slots=True)
class _Spent:
    """By now: CPU seconds of both daemons, bytes of records in the topics."""

    at: float
    source: float
    target: float
    topics: int


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of so many idle streams: shares of a core, resident bytes, bytes per second."""

    streams: int
    source: float
    target: float
    resident: tuple[int, int]
    topics: float


def section(directory: Path, quick: bool, count: int) -> Section:
    """Idle streams in numbers, then one busy stream alone and among 49."""
    from tests.support import kafka

    home, busy = directory / "idle", load()
    seconds, size = (10.0, 64 * MIB) if quick else (120.0, 512 * MIB)
    with kafka.running(home / "broker") as cluster:
        costs = [_idle(home / f"idle-{streams}", cluster, streams, seconds) for streams in _COUNTS]
        alone, among = _busy(home, cluster, size, count)
    return _shown(costs, seconds, size, alone, among, busy)


def _sites(home: Path, cluster: Cluster, streams: int) -> Sites:
    """Two daemons with so many streams of 1 MiB; not started."""
    from tests.support.daemons import Sites
    from tests.support.ferry import image

    made = Sites(home, cluster.url, "30s", prefix=home.name)
    for number in range(streams):
        image(made.disk(f"idle-{number}"), MIB, {0: images.BLOCK}, number)
        made.serve(f"idle-{number}")
    return made


def _settled(sites: Sites) -> None:
    """Wait until all are proved and nothing goes on any more."""
    from tests.support.ferry import until

    def calm() -> bool:
        streams = [*sites.source.streams().values(), *(found := sites.target.streams().values())]
        proved = sum(bool(one.get("proved_epoch")) for one in found)
        return proved == len(sites.source.config["streams"]) and all(
            one["state"] == "running" and not one["why"] for one in streams
        )

    until(calm, 300)
    time.sleep(_REST)


def _idle(home: Path, cluster: Cluster, streams: int, seconds: float) -> _Cost:
    sites = _sites(home, cluster, streams)
    try:
        sites.start()
        _settled(sites)
        first = _spent(sites, cluster)
        time.sleep(seconds)
        last = _spent(sites, cluster)
        resident = _resident(sites.source), _resident(sites.target)
    finally:
        sites.stop()
    took = last.at - first.at
    cost = _Cost(
        streams, (last.source - first.source) / took, (last.target - first.target) / took, resident,
        (last.topics - first.topics) / took,
    )  # fmt: skip
    tell(f"  {streams} idle: source {cost.source:.2%}, target {cost.target:.2%} of a core")
    return cost


def _spent(sites: Sites, cluster: Cluster) -> _Spent:
    topics = sum(path.stat().st_size for path in cluster.home.rglob(f"{sites.source.config['prefix']}*/*.log"))
    return _Spent(time.monotonic(), _cpu(sites.source), _cpu(sites.target), topics)


def _cpu(daemon: Daemon) -> float:
    """CPU seconds, user and system."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def _resident(daemon: Daemon) -> int:
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def _busy(home: Path, cluster: Cluster, size: int, count: int) -> tuple[list[float], list[float]]:
    """Seconds of each round from the cut to the proof of `size` changed bytes: alone, and among 49 idle streams."""
    pairs = [_sites(home / name, cluster, streams) for name, streams in (("alone", 0), ("among", 49))]
    found: tuple[list[float], list[float]] = [], []
    for sites in pairs:
        images.make(sites.disk("busy"), size, size)
        sites.serve("busy", every="1h")  # its cuts are made when we ask for them
    for turn in range(count + 1):
        for sites, took in zip(pairs, found, strict=True):
            # Only one pair runs at a time.
            try:
                sites.start()
                _settled(sites)
                seconds = _round(sites, turn)
            finally:
                sites.stop()
            if turn:  # the first one also makes the replica's pages known to the machine
                took.append(seconds)
        if turn:
            tell(f"  round {turn}/{count}: {found[0][-1]:.2f} s alone, {found[1][-1]:.2f} s among 49 idle")
    return found


def _round(sites: Sites, turn: int) -> float:
    size, before = sites.disk("busy").stat().st_size, sites.target.stream("busy")["proved_epoch"]
    images.make(sites.disk("busy"), size, size, 1000 + turn)
    began = time.perf_counter()
    sites.source.ask("cut", stream="busy")
    while sites.target.stream("busy")["proved_epoch"] == before:
        if time.perf_counter() - began > 300:
            raise RuntimeError(f"an epoch was not proved: {sites.target.stream('busy')}")
        time.sleep(_LOOK)
    return time.perf_counter() - began


def _shown(
    costs: list[_Cost], seconds: float, size: int, alone: list[float], among: list[float], busy: float
) -> Section:
    one, many = statistics.median(alone), statistics.median(among)
    share, most = one / many, costs[-1]
    per_day = most.topics * _DAY / most.streams / MIB
    made = Section(
        "7. Streams on which nothing happens, in one pair of daemons over one Kafka broker",
        f"`source run` and `target run`, a cut every 30 s, images of 1 MiB that do not change, over {seconds:.0f} s.  "
        "On the bus: records in the topics, which grow by what is said of each stream every 30 s.",
        ("streams", "source, of a core", "target, of a core", "resident", "on the bus, an hour"),
        load=busy,
    )
    for cost in costs:
        resident = " + ".join(f"{size / MIB:.0f} MiB" for size in cost.resident)
        hour = f"{cost.topics * 3600 / MIB:.2f} MiB"
        made.rows.append((f"{cost.streams}", f"{cost.source:.2%}", f"{cost.target:.2%}", resident, hour))
    made.notes.append(
        f"A busy stream: {size / MIB:.0f} MiB, all of it changed, from the cut to the proof at the target.  Alone: "
        f"{one:.2f} s ({spread(alone)}), {size / MIB / one:.0f} MiB/s.  Among 49 idle ones: {many:.2f} s "
        f"({spread(among)}), {size / MIB / many:.0f} MiB/s."
    )
    worst = max(most.source, most.target)
    made.verdicts = [
        Verdict(
            "50 idle streams, the busier of both daemons",
            f"{worst:.1%} of a core",
            "< 2 %",
            worst < 0.02,
            "every stream of a target has a consumer of its own, and each asks its broker every 5 s",
        ),
        Verdict(
            "an idle stream on the bus, a day",
            f"{per_day:.2f} MiB",
            "< 1 MiB",
            per_day < 1,
            "what a site says of a stream every 30 s on the control topic",
        ),
        Verdict(
            "a busy stream among 49 idle ones against alone",
            f"{share:.0%}",
            ">= 90 %",
            share >= 0.9,
            "the loop of each daemon is shared by its streams",
        ),
    ]
    return made
