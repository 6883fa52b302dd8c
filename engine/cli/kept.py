"""What the commands of engine/cli/keeping.py say: as an object, and in sentences."""

from __future__ import annotations

import os
from typing import Any

from engine import errors, places, units
from engine.cli.summary import when
from engine.registry import Replica, Stream
from engine.store import peek
from schemas.receipts import Position

_SHOWN = 8
"""Runs of differing bytes that a sentence names; --json has all of them."""


def size(where: places.Places, replica: Replica) -> int:
    """Bytes of a replica's volumes, as far as that can be said before it is opened."""
    try:
        state, _, _ = peek.replica(where.replica(replica.stream, replica.replica) / "state.sqlite")
    except errors.FerryError:
        return sum(os.path.getsize(disk.path) for disk in replica.disks if os.path.isfile(disk.path))
    return sum(volume.size for volume in state.position.volumes)


def disks(replica: Replica, at: Position | None) -> list[dict[str, Any]]:
    """Every disk of a replica by its number; its size is None before the replica holds it."""
    sizes = [volume.size for volume in at.volumes] if at is not None else []
    return [
        {"name": disk.name, "path": disk.path, "size": sizes[number] if number < len(sizes) else None}
        for number, disk in enumerate(replica.disks)
    ]


def _places(replica: Replica) -> list[dict[str, Any]]:
    return [{"name": disk.name, "path": disk.path} for disk in replica.disks]


def further(said: dict[str, Any]) -> list[str]:
    """A line for each disk of what is said, the first one included, where there are several."""
    several = said.get("disks", ())
    return [f"{one['name']:<10} {_disk(one)}" for one in several] if len(several) > 1 else []


def _disk(one: dict[str, Any]) -> str:
    where = one["path"] or one.get("gone", "")
    if "size" not in one:
        return str(where)
    return f"{where}: not held yet" if one["size"] is None else f"{where}, {units.shown(one['size'])}"


def position(at: Position) -> dict[str, Any]:
    """Where a replica is."""
    return {
        "epoch": at.epoch, "cut": at.cut.value, "instant": when(at.instant) if at.instant else None,
        "missing": at.missing, "complete": at.complete, "usable": at.usable,
        "roots": [root.hex() for root in at.roots], "chain": at.chain.hex(),
    }  # fmt: skip


def at_epoch(said: dict[str, Any]) -> str:
    """The same in words."""
    if not said["epoch"]:
        return "no epoch: its digests are known, and the next `vmferry replicate` compares them"
    if said["usable"]:
        return f"epoch {said['epoch']}, {said['cut']}-consistent of {said['instant']}"
    missing = f"{said['missing']:,} blocks are missing" if said["missing"] else "its cut is of no consistent instant"
    return f"epoch {said['epoch']}, NOT USABLE ({missing})"


def held(replica: Replica, done: Any) -> dict[str, Any]:
    """What release, rewind and resume came to."""
    return {
        "event": "end", "ok": True, "stream": replica.stream, "target": replica.disks[0].path,
        "disks": disks(replica, done.state.position), "held": done.state.held, "recovered": done.recovered,
        "note": done.note, **position(done.state.position),
    }  # fmt: skip


def moved(stream: Stream, done: Any) -> dict[str, Any]:
    """What move came to."""
    return {
        "stream": stream.stream, "label": stream.label, "target": done.new, "old": done.old, "disk": done.disk,
        "disks": _places(done.record), "copied": done.copied,
    }  # fmt: skip


def forgotten(stream: Stream, stays: list[Any], note: str, purged: bool) -> dict[str, Any]:
    """What forget came to."""
    found = [
        {"what": each.what, "path": each.path, "bytes": each.size, "removed": purged and each.ours} for each in stays
    ]
    return {"stream": stream.stream, "label": stream.label, "purged": purged, "stays": found, "note": note}


def recovered(replica: Replica, done: Any) -> dict[str, Any]:
    """What recover came to."""
    said = held(replica, done)
    del said["event"], said["ok"]
    return said


def recovered_lines(said: dict[str, Any]) -> list[str]:
    """The same in sentences."""
    if said["held"] == "released":
        return [f"{said['target']}: {said['note']}"]
    lines = [f"replica    {said['target']}", f"now at     {at_epoch(said)}"]
    lines[1:1] = further(said)
    if said["note"]:
        lines.insert(1, f"found      {said['note']}")
    lines.insert(
        -1, f"put back   {counted(said['recovered'], 'pre-image')}" if said["recovered"] else "put back   nothing"
    )
    lines += [f"root       {root}" for root in said["roots"]]
    return lines + ([f"held       {said['held']}"] if said["held"] else [])


def released_lines(said: dict[str, Any], name: str) -> list[str]:
    """A released replica."""
    lines = [f"released   {said['target']}", *further(said), f"epoch      {at_epoch(said)}"]
    lines += [f"root       {root}" for root in said["roots"]]
    if said["recovered"]:
        lines.append(f"put back   {counted(said['recovered'], 'pre-image')} of an epoch that was never settled")
    lines.append(
        "the replica is now safe to use" if said["usable"] else
        f"the replica is released, and NOT safe to use: it equals its source at no instant; `vmferry epochs {name}`"
        " tells which epochs can be rewound to"
    )  # fmt: skip
    return [*lines, f"nothing is applied to it before `vmferry target acquire {name}`"]


def rewound_lines(said: dict[str, Any], name: str) -> list[str]:
    """A rewound replica."""
    lines = [f"rewound    {said['target']}", *further(said), f"epoch      {at_epoch(said)}"]
    lines += [f"root       {root}" for root in said["roots"]]
    lines += [f"note       {said['note']}"] if said["note"] else []
    return [
        *lines,
        f"it is held there: `vmferry target resume {name}` lets `replicate` go on, `vmferry target release {name}`"
        " hands it to you to use",
    ]


def resumed_lines(said: dict[str, Any]) -> list[str]:
    """A replica that goes on."""
    return [
        f"resumed    {said['target']}",
        *further(said),
        f"epoch      {at_epoch(said)}",
        "the next `vmferry replicate` brings it to the state of its source",
    ]


def acquired(replica: Replica, done: Any) -> dict[str, Any]:
    """What acquire came to."""
    return {
        "event": "end", "ok": True, "stream": replica.stream, "target": replica.disks[0].path, "held": "",
        "disks": _places(replica), "read": done.read, "dropped_epochs": done.dropped, "lost": done.lost,
    }  # fmt: skip


def acquired_lines(said: dict[str, Any]) -> list[str]:
    """The same in sentences."""
    lines = [f"acquired   {said['target']}", *further(said)]
    lines.append(f"read       {units.shown(said['read'])} for its digests")
    if said["lost"]:
        lines.append(f"lost       {said['lost']}: its state is begun anew")
    lines.append(f"dropped    {_dropped(said['dropped_epochs'])}")
    return [*lines, "the next `vmferry replicate` compares digests, and only what differs travels"]


def _dropped(count: int) -> str:
    return f"the pre-images of {counted(count, 'epoch')}, which can no longer be rewound to"


def verified(stream: Stream, replica: Replica, done: Any) -> dict[str, Any]:
    """What verify found."""
    return {
        "ok": done.equal, "stream": stream.stream, "label": stream.label, "target": replica.disks[0].path,
        "disks": disks(replica, done.state.position),
        "held": done.state.held, **position(done.state.position), "bad_blocks": done.bad_blocks,
        "repaired": done.repaired, "dropped_epochs": done.dropped,
        "volumes": [
            {
                "name": one.volume, "path": replica.paths.get(one.volume, ""), "size": one.size, "blocks": one.blocks,
                "block_size": one.block_size, "read": one.read, "unproved_blocks": one.unclaimed,
                "bad_blocks": one.bad_blocks, "bad_bytes": one.bad_bytes(), "root": one.root.hex(),
                "sha256": one.sha256,
            }
            for one in done.findings
        ],
    }  # fmt: skip


def verified_lines(said: dict[str, Any]) -> list[str]:
    """The same in sentences."""
    lines = [f"replica    {said['target']} at {at_epoch(said)}"]
    for one in said["volumes"]:
        equal = one["blocks"] - one["bad_blocks"] - one["unproved_blocks"]
        lines.append(
            f"{one['name']:<10} {_where(said, one)}{units.shown(one['size'])}: read {units.shown(one['read'])} of data,"
            f" the rest is holes; {equal:,} of {one['blocks']:,} blocks are equal"
        )
        if one["unproved_blocks"]:
            lines.append(f"unproved   {counted(one['unproved_blocks'], 'block')} of {one['name']}: not compared")
        lines += [f"SHA-256    {one['sha256']}  {one['name']}"] if one["sha256"] else []
    if not said["ok"]:
        return lines
    lines += [f"root       {root}" for root in said["roots"]]
    if any(one["unproved_blocks"] for one in said["volumes"]):
        return [*lines, "verified: every block that was proved is so on the medium; the others are for `replicate`"]
    proved = "the Merkle root that its source named" if said["roots"] else "its digests; its source named no root"
    return [*lines, f"verified: the replica, read from the medium, equals {proved}"]


def _where(said: dict[str, Any], one: dict[str, Any]) -> str:
    return f"{one['path']}, " if len(said["volumes"]) > 1 else ""


def counted(number: int, what: str) -> str:
    """ "1 block", "3 blocks"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def differs(said: dict[str, Any], name: str) -> str:
    """What verify ends with when something differs."""
    runs = [f"{one['name']} bytes {low:,} to {high:,}" for one in said["volumes"] for low, high in one["bad_bytes"]]
    more = f", and {len(runs) - _SHOWN} runs more" if len(runs) > _SHOWN else ""
    what = (
        f"{counted(said['bad_blocks'], 'block')} not as applied: {', '.join(runs[:_SHOWN])}{more}" if runs
        else "its digests do not make the Merkle root of its epoch"
    )  # fmt: skip
    head = f"the replica {said['target']}: {what}.  "
    if said["repaired"]:
        dropped = f"; gone are {_dropped(said['dropped_epochs'])}" if said["dropped_epochs"] else ""
        return f"{head}Nothing is claimed of them any more: the next `vmferry replicate` brings them{dropped}"
    if said["held"] == "released":
        return f"{head}It is released, so its user may have changed it: `vmferry target acquire {name}`"
    return f"{head}`vmferry verify --repair {name}` lets the next `vmferry replicate` bring them, and only them"
