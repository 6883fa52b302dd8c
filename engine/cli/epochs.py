"""`vmferry epochs`: the epochs that a replica can be rewound to, what its source let go of, and how it captured."""

from __future__ import annotations

import asyncio
from typing import Any

from engine import errors, places, units
from engine.cli import kept, lapses
from engine.registry import Replica, Stream
from engine.store import peek


def said(where: places.Places, stream: Stream, replica: Replica, limit: int) -> dict[str, Any]:
    """The object of --json, newest epoch last.  Raises NotFound, Newer, Damaged."""
    directory = where.replica(stream.stream, replica.replica)
    if not replica.begun:
        raise errors.NotFound(f"the replica {replica.disks[0].path} holds no epoch yet")
    try:
        state, found, _ = peek.replica(directory / "state.sqlite")
    except errors.Newer:
        raise
    except (errors.Damaged, errors.NotFound) as why:
        raise errors.Damaged(
            f"{why}; the next `vmferry replicate` reads {replica.disks[0].path} for its digests, and what was kept is"
            " gone"
        ) from why
    epochs = [{**kept.position(one.position), "undo_bytes": state.undo_end - one.end} for one in found]
    return {
        "event": "end", "ok": True, "stream": stream.stream, "label": stream.label, "target": replica.disks[0].path,
        "disks": kept.disks(replica, state.position), "held": replica.held or state.held,
        "position": kept.position(state.position), "kept": len(epochs),
        "epochs": epochs[-limit:] if limit else epochs, "replica": replica.replica,
        **lapses.said(asyncio.run(lapses.of(replica, stream.identity))),
    }  # fmt: skip


def lines(said: dict[str, Any]) -> list[str]:
    """The same as a table."""
    head = f"{'epoch':>7}  {'cut':<11}  {'instant':<29}  {'missing':>8}  {'to undo':>8}  root"
    found = [f"{said['label']}: {said['target']} keeps {kept.counted(said['kept'], 'epoch')}"]
    found += [*kept.further(said), head]
    found += [_line(one) for one in said["epochs"]]
    if said["epochs"]:
        found.append(f"go back with `vmferry target rewind {said['label']} --to EPOCH`")
    else:
        found.append("no state of the source has been reached yet that it could be rewound to")
    if not said["position"]["usable"]:
        found.append(f"now at {kept.at_epoch(said['position'])}")
    found += [f"held: {said['held']}"] if said["held"] else []
    return found + lapses.lines(said, said["replica"])


def _line(one: dict[str, Any]) -> str:
    root = " ".join(root[:12] for root in one["roots"]) or "-"
    return (
        f"{one['epoch']:>7}  {one['cut']:<11}  {one['instant']:<29}  {one['missing']:>8,}"
        f"  {units.shown(one['undo_bytes']):>8}  {root}"
    )
