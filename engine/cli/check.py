"""`vmferry status --check`: one line and an exit code for any monitoring, in the manner of Nagios plugins.

`judge` is pure: it is told what is known of each replica, by whoever knows it.
"""

from __future__ import annotations

import asyncio
import enum
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from engine import errors, places, registry, units
from engine.cli import choose, daemons, ending, figures, served
from engine.cli.figures import ReplicaSide, Store, StreamSide
from engine.cli.judged import Judged

DEFAULT = "5m"
_WARN_AT = 0.8
"""Share of --max-rpo from which on it is a warning."""
_AT_ONCE = 4
"""Streams whose bus is asked at a time: each may take its whole time limit when brokers are away."""


class Level(enum.IntEnum):
    """The exit code.  There is no 3, unknown: what cannot be told wakes somebody, too."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


CODES = {
    Level.OK: "Every replica is within --max-rpo.",
    Level.WARNING: "An RPO is above --warn-rpo, a store above its warning mark, or a bus cannot be reached.",
    Level.CRITICAL: "An RPO is above --max-rpo, a replica has no usable epoch, is held or damaged, there is no stream, "
    "or that cannot be told.",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, beyond which it is critical, and a warning."""

    critical: float
    warning: float


@dataclass(frozen=True, slots=True)
class One:
    """What came of one: `words` say why it is no better."""

    name: str
    level: Level
    words: tuple[str, ...]
    rpo: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of all: the worst first."""

    level: Level
    line: str
    found: tuple[One, ...]


def limits(most: str, warn: str) -> Limits:
    """Of --max-rpo and --warn-rpo as they were given.  Raises Usage."""
    critical = units.seconds(most or DEFAULT)
    warning = units.seconds(warn) if warn else critical * _WARN_AT
    if warning > critical:
        raise errors.Usage(f"--warn-rpo {warn} is above --max-rpo {most or DEFAULT}: it would never warn")
    return Limits(critical, warning)


def judge(replicas: list[Judged], within: Limits) -> Verdict:
    """The verdict, its line with a number for each replica behind the bar."""
    if not replicas:
        return alarm("no stream is known here")
    several = {label for label, count in Counter(one.label for one in replicas).items() if count > 1}
    found = [_one(one, f"{one.label} {one.name}" if one.label in several else one.label, within) for one in replicas]
    found.sort(key=lambda one: (-one.level, one.rpo is not None, -(one.rpo or 0.0)))
    worst = found[0].level
    told = [f"{one.name}: {', '.join(one.words)}" for one in found if one.level is not Level.OK]
    well = len(replicas) - len(told)
    if not told:
        told = [f"{_many(well)} within {units.duration(within.critical)}, worst is {found[0].name}: {_rpo(found[0])}"]
    elif well:
        told.append(f"{well} more OK")
    numbers = " ".join(_number(one, within) for one in found)
    return Verdict(worst, f"{_begin(worst)} - {_clean('; '.join(told))} | {numbers}", tuple(found))


def alarm(why: str) -> Verdict:
    """What is critical before anything is known of a replica."""
    return Verdict(Level.CRITICAL, f"{_begin(Level.CRITICAL)} - {_clean(why)}", ())


def _one(one: Judged, name: str, within: Limits) -> One:
    critical, warning = _critical(one, within), _warning(one, within)
    level = Level.CRITICAL if critical else Level.WARNING if warning else Level.OK
    return One(name, level, (*critical, *warning), one.rpo)


def _critical(one: Judged, within: Limits) -> list[str]:
    found = []
    if one.damaged:
        found.append(f"damaged ({one.damaged})")
    if one.held:
        found.append(f"held ({one.held})")
    if one.rpo is None and one.taken and not one.damaged:
        found.append("no usable epoch")
    if one.rpo is not None and one.rpo > within.critical:
        found.append(f"RPO {units.duration(one.rpo)} is above {units.duration(within.critical)}")
    return found


def _warning(one: Judged, within: Limits) -> list[str]:
    found = []
    if one.rpo is not None and within.warning < one.rpo <= within.critical:
        found.append(f"RPO {units.duration(one.rpo)} is above {units.duration(within.warning)}")
    if one.bus_away:
        found.append(f"bus away ({one.bus_away})")
    return [*found, *one.warnings]


def _begin(level: Level) -> str:
    return f"VMFERRY {level.name}"


def _many(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"


def _rpo(one: One) -> str:
    return f"RPO {units.duration(one.rpo or 0.0)}"


def _clean(words: str) -> str:
    """On one line, as text that any terminal takes, and without the bar, behind which numbers are expected."""
    return " ".join(words.replace("|", "/").split()).encode("utf-8", "backslashreplace").decode()


def _number(one: One, within: Limits) -> str:
    """Nagios' 'label'=value;warn;crit, U where there is no value."""
    name = _clean(one.name).replace("'", "''").replace("=", "-")
    value = "U" if one.rpo is None else f"{one.rpo:.3f}s"
    return f"'{name}'={value};{within.warning:g};{within.critical:g}"


def of(side: StreamSide) -> list[Judged]:
    """What the files of this machine say of a stream."""
    ours = Judged(
        side.record.label, None, damaged=side.source.damaged, warnings=_warned(*side.stores), name=side.record.stream
    )
    return [_replica(ours, one) for one in side.replicas] or [ours]


def _replica(stream: Judged, one: ReplicaSide) -> Judged:
    return replace(
        stream, rpo=one.rpo, held=one.held, damaged=stream.damaged or one.damaged, bus_away=one.waiting.away,
        warnings=(*stream.warnings, *_warned(one.undo)), name=one.path,
    )  # fmt: skip


def _warned(*stores: Store) -> tuple[str, ...]:
    return tuple(f"the {store.name} {store.path}: {store.warning}" for store in stores if store.warning)


def command(where: places.Places, stream: str, most: str, warn: str, as_json: bool, debug: bool = False) -> None:
    """Look, say it, and end with the code.  Nothing else comes out: also what goes wrong is a line and a code."""
    try:
        verdict = judge(asyncio.run(_looked(where, stream)), limits(most, warn))
    except Exception as why:  # whatever it is, monitoring hears of it as of any other trouble
        if debug:
            traceback.print_exc()
        kind = "" if isinstance(why, errors.FerryError) else f"unexpected {type(why).__name__}: "
        verdict = alarm(f"{kind}{why}")
    if as_json:
        ending.emit(said(verdict))
    else:
        typer.echo(verdict.line)
    raise typer.Exit(int(verdict.level))


def said(verdict: Verdict) -> dict[str, Any]:
    """The object of --json."""
    return {
        "event": "end", "ok": verdict.level is Level.OK, "check": verdict.level.name.lower(),
        "exit_code": int(verdict.level), "line": verdict.line,
        "replicas": [
            {"name": one.name, "check": one.level.name.lower(), "rpo_seconds": one.rpo, "words": list(one.words)}
            for one in verdict.found
        ],
    }  # fmt: skip


async def _looked(where: places.Places, stream: str) -> list[Judged]:
    answers = [served.only(one, stream) for one in await asyncio.to_thread(daemons.answers, where)]
    running = [judged for answer in answers for judged in served.judged(answer)]
    known = registry.Registry(where, still=True, newer=lambda _stream, _why: None)  # `_unread` says of them
    chosen = choose.unserved(known, stream, answers)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(record: registry.Stream, replicas: list[registry.Replica]) -> StreamSide:
        async with gate:
            return await figures.stream(where, record, replicas)

    sides = await asyncio.gather(*(one(record, replicas) for record, replicas in chosen))
    lost = _unread(where, known) if known.readable and not stream else []
    return [*running, *lost, *(judged for side in sides for judged in of(side))]


def _unread(where: places.Places, known: registry.Registry) -> list[Judged]:
    """What is kept here of streams and replicas whose record cannot be read: `known` passes over them."""
    read = {where.stream(one.stream) for one in known.streams()}
    read |= {where.replica(one.stream, one.replica) for one in known.replicas()}
    records = [*where.streams.glob("*/stream.json*"), *where.streams.glob("*/replica-*/replica.json*")]
    kept: set[Path] = {path.parent for path in records if path.suffix != ".forgotten"}
    return [Judged(path.name, None, damaged=f"its record in {path} cannot be read") for path in sorted(kept - read)]
