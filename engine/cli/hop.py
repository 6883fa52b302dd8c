"""Which hop of a stream waits for which: source, bus or target.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from engine import units


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one replica and the way to it."""

    held: str = ""
    damaged: str = ""
    away: str = ""
    "Why the bus cannot be read."
    source_here: bool = False
    source_epoch: int = 0
    "The last that it sealed, durably on the bus."
    source_runs: bool = False
    source_written: bool | None = None
    "Whether the source was written to since the last cut; None where that cannot be seen."
    epoch: int = 0
    "Of the replica."
    target_runs: bool = False
    missing: int = 0
    waiting: int = 0
    "Sealed epochs on the bus that are not applied."
    size: int = 0
    more: bool = False


def slow(facts: Facts) -> tuple[str, str]:
    """(source, bus, target or none; what waits for what)."""
    for look in (_stopped, _bus, _target, _source):
        found = look(facts)
        if found is not None:
            return found
    return "none", "nothing waits: every cut is applied"


_RUN = "no process is at it: run `vmferry replicate`"


def _stopped(facts: Facts) -> tuple[str, str] | None:
    if facts.damaged:
        return "target", f"its state cannot be read; {_RUN}, which compares digests"
    if facts.held:
        return "target", f"it is held ({facts.held}), and nothing is applied"
    return None


def _bus(facts: Facts) -> tuple[str, str] | None:
    if facts.away:
        return "bus", f"it is not reachable from here: {facts.away}"
    if facts.source_here and facts.source_epoch > facts.epoch and facts.epoch and not facts.waiting:
        return (
            "bus",
            f"epoch {facts.source_epoch}, which the source sealed, is not on it any more: a new start sends it",
        )
    return None


def _target(facts: Facts) -> tuple[str, str] | None:
    if not facts.waiting:
        return None
    least = "at least " if facts.more else ""
    what = f"{least}{facts.waiting} sealed epochs ({units.shown(facts.size)}) on the bus wait to be applied"
    return "target", f"{what}{'' if facts.target_runs else f'; {_RUN}'}"


def _source(facts: Facts) -> tuple[str, str] | None:
    run = "" if facts.source_runs or not facts.source_here else f"; {_RUN}"
    if not facts.epoch:
        return "source", f"what the replica holds is still to be compared with its source{run}"
    if facts.missing:
        return "source", f"{facts.missing:,} blocks have still to be read and sent{run}"
    if facts.source_written:
        way = "the next cut brings it" if facts.source_runs else _RUN
        return "source", f"it was written to since the last cut; {way}"
    return None
