"""What came of a run: as an object, and in sentences."""

from __future__ import annotations

import datetime
from typing import Any

from engine import units
from engine.cli.replication import Numbers, Replication
from schemas.identity import Cut
from schemas.receipts import Position


def of(run: Replication, seconds: float) -> dict[str, Any]:
    """The last object of a run that came to its end."""
    outcome, numbers, pair = run.outcomes[-1], run.numbers, run.pair
    position: Position = outcome.position
    return {
        "event": "end", "ok": True, "stream": pair.stream.stream, "label": pair.stream.label,
        "source": pair.stream.disks[0].path, "target": pair.replica.disks[0].path, "replica": pair.replica.replica,
        "size": sum(volume.size for volume in position.volumes), "epochs": outcome.epochs, "epoch": position.epoch,
        "cut": position.cut.value, "instant": when(position.instant), "missing": position.missing,
        "proved": outcome.proved, "roots": [root.hex() for root in position.roots], "read": numbers.read_ever,
        "sent": numbers.sent, "seconds": round(seconds, 3), "rate": round(numbers.sent / seconds) if seconds else 0,
        "bus": pair.stream.bus, "state": str(run.where.root), "notes": run.notes,
    }  # fmt: skip


def when(instant: int) -> str:
    """Nanoseconds since 1970 as ISO 8601, UTC."""
    return datetime.datetime.fromtimestamp(instant / 1e9, datetime.UTC).isoformat(timespec="milliseconds")


def lines(said: dict[str, Any]) -> list[str]:
    """The same in sentences."""
    found = [
        f"stream  {said['label']} ({said['stream']})",
        f"source  {said['source']} ({units.shown(said['size'])})",
        f"target  {said['target']} at epoch {said['epoch']}, {_cut(said)}",
        f"epochs  {said['epochs']} sealed; read {units.shown(said['read'])}, sent {units.shown(said['sent'])} in"
        f" {units.duration(said['seconds'])} ({units.shown(said['rate'])}/s)",
        f"state   {said['state']}; log {said['bus']}",
    ]
    return found + [f"note    {note}" for note in said["notes"]] + [proof(said)]


def _cut(said: dict[str, Any]) -> str:
    if said["cut"] == Cut.NONE.value:
        return "which is of no consistent instant"
    return f"{said['cut']}-consistent of {said['instant']}"


def proof(said: dict[str, Any]) -> str:
    """Proved, or applied: never blurred."""
    if said["proved"]:
        return f"proved: source and replica have the Merkle root {' '.join(said['roots'])}"
    return "applied, not proved: every write was read back, and the source was no consistent whole to compare with"


def on_interrupt(numbers: Numbers, size: int) -> str:
    """How to go on after Ctrl-C."""
    if numbers.missing is None:
        return "interrupted before anything was sent: run the same command again"
    return (
        f"interrupted: run the same command again to go on; {units.shown(size - numbers.missing)} of"
        f" {units.shown(size)} are durable on the bus and do not travel again"
    )
