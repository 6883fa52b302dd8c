"""What a source said between epochs: records let go of unapplied, and steps of capture.  The newest on the bus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine import envelope, ports, registry, units
from engine.cli import waiting
from engine.cli.summary import when
from schemas import errors as schema_errors
from schemas import events

_BYTES = 64 << 20
_FIRST = 64
"""Records that are looked at first, the newest; then twice as many before them, and so on, within _BYTES."""
_BATCH = 8 << 20
_SHOWN = 8
"""Steps that are told in sentences."""
_RUNGS = {
    events.Rung.TAP: "from here on every write is captured as it is made (tap)",
    events.Rung.CHECKPOINT: "from here on what QEMU's bitmaps name is captured (checkpoint)",
    events.Rung.SCAN: "from here on what comparing the disks finds is captured (scan)",
    events.Rung.NONE: "from here on nothing is captured",
}
_WHY = {
    events.Why.CAP: "the log held {held} of its cap of {cap}",
    events.Why.SILENCE: "they did not answer, and no history is kept for them",
}


@dataclass(slots=True)
class Lapses:
    """`words` as (where on the bus, what), oldest first.  `away` says why the bus cannot be read; `more`: of what is
    on it, the oldest was not looked at."""

    away: str = ""
    more: bool = False
    words: list[tuple[int, events.Word]] = field(default_factory=list)


async def of(record: registry.Replica, stream: bytes) -> Lapses:
    """What the bus of a replica holds of such words.  Raises nothing that ends a look: it is told in `away`."""
    found = Lapses()

    async def at(log: ports.Log, begin: int, end: int) -> None:
        count, size = _FIRST, 0
        found.more = True
        while begin < end and size < _BYTES:
            low = max(begin, end - count)
            words, read = await _window(log, stream, low, end)
            found.words[:0] = words
            end, count, size = low, 2 * count, size + read
        found.more = begin < end

    found.away, late = await waiting.look(record, stream, at)
    found.more |= late
    return found


async def _window(log: ports.Log, stream: bytes, at: int, end: int) -> tuple[list[tuple[int, events.Word]], int]:
    """The words from `at` up to `end`, and how many bytes were read for them."""
    words, size = list[tuple[int, events.Word]](), 0
    while at < end:
        entries = await log.read(at, _BATCH, 0)
        if not entries:
            break
        for entry in entries:
            word = _word(entry.data, stream) if entry.offset < end else None
            words += [(entry.offset, word)] if word is not None else []
        at, size = entries[-1].offset + 1, size + sum(len(entry.data) for entry in entries)
    return words, size


def _word(record: bytes, stream: bytes) -> events.Word | None:
    try:
        frame, event = envelope.event(record)
    except schema_errors.SchemaError:
        return None  # whoever applies it refuses it aloud; here only words are looked for
    return event if frame.stream == stream and isinstance(event, events.Word) else None


def said(found: Lapses) -> dict[str, Any]:
    """The part of an object of --json."""
    return {
        "lapsed": [
            {
                "at_offset": at, "instant": when(word.instant), "why": word.why.value, "below_offset": word.offset,
                "held_bytes": word.held, "cap_bytes": word.cap or None,
                "replicas": [
                    {"replica": one.replica.hex(), "epoch": one.epoch, "offset": one.offset} for one in word.replicas
                ],
            }
            for at, word in found.words
            if isinstance(word, events.Lapsed)
        ],
        "stepped": [
            {"at_offset": at, "instant": when(word.instant), "rung": word.rung.value, "reason": word.reason}
            for at, word in found.words
            if isinstance(word, events.Stepped)
        ],
        "lapsed_more": found.more, "bus_away": found.away,
    }  # fmt: skip


def lines(said: dict[str, Any], replica: str) -> list[str]:
    """The same in sentences; `replica` is the one that is looked at."""
    found = [_line(one, replica) for one in said["lapsed"]]
    steps = said["stepped"]
    if len(steps) > _SHOWN:
        found.append(f"stepped {len(steps)} times; these are the last {_SHOWN}, and --json has all of them")
    found += [f"stepped {one['instant']}: {_RUNGS[one['rung']]}: {one['reason']}" for one in steps[-_SHOWN:]]
    if said["lapsed_more"] and not said["bus_away"]:
        found.append("the log is long: whether older words of this kind are on it was not looked at")
    if said["bus_away"]:
        found.append(f"whether its source let go of records, or stepped, was not looked at: {said['bus_away']}")
    return found


def _line(one: dict[str, Any], replica: str) -> str:
    named = ", ".join(
        f"{'this replica' if each['replica'] == replica else 'replica ' + each['replica'][:8]} at {_where(each)}"
        for each in one["replicas"]
    )
    held, cap = units.shown(one["held_bytes"]), units.shown(one["cap_bytes"] or 0)
    why = _WHY[events.Why(one["why"])].format(held=held, cap=cap)
    return f"lapsed {one['instant']}: its source let go of records that were not applied by {named}; {why}"


def _where(each: dict[str, Any]) -> str:
    return f"epoch {each['epoch']}" if each["epoch"] else "an epoch not known to it"
