"""`vmferry status`: as objects, and in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine import leftover, places, units
from engine.cli import kept
from engine.cli.figures import ReplicaSide, Store, StreamSide
from engine.cli.summary import when
from schemas.receipts import Position

_OPEN = "not encrypted: whoever can read the bus can read the disk (this version has no keys yet)"


def said(where: places.Places, streams: list[StreamSide]) -> dict[str, Any]:
    """The object of --json."""
    return {
        "event": "end", "ok": True, "state": str(where.root), "streams": [_stream(one) for one in streams],
        "warnings": [warning for one in streams for warning in warnings(one)],
    }  # fmt: skip


def _stream(one: StreamSide) -> dict[str, Any]:
    source, state = one.source, one.source.state
    return {
        "stream": one.record.stream, "label": one.record.label, "bus": one.record.bus, "encrypted": False,
        "source": {
            "paths": list(source.paths), "disks": _source_disks(one), "epoch": state.epoch if state else None,
            "damaged": source.damaged, "process": source.process,
        },
        "replicas": [_replica(side) for side in one.replicas],
        "stores": [_store(store) for store in one.stores],
    }  # fmt: skip


def _source_disks(one: StreamSide) -> list[dict[str, Any]]:
    sizes = [volume.size for volume in one.source.state.volumes] if one.source.state else []
    return [
        {"name": disk.name, "path": disk.path, "size": sizes[number] if number < len(sizes) else None}
        for number, disk in enumerate(one.record.disks)
    ]


def _replica(side: ReplicaSide) -> dict[str, Any]:
    waiting = side.waiting
    return {
        "path": side.path, "disks": side.disks, "replica": side.replica, "directory": side.directory,
        "process": side.process, "held": side.held, "damaged": side.damaged, **kept.position(side.position),
        "usable_epoch": side.usable.epoch if side.usable else None,
        "proved_epoch": side.proved.epoch if side.proved else None,
        "proved_instant": when(side.proved.instant) if side.proved else None,
        "rpo_seconds": None if side.rpo is None else round(side.rpo, 3), "source_written": side.written,
        "lag_seconds": None if side.lag is None else round(side.lag, 3),
        "lag_bytes": None if waiting.away else waiting.size, "lag_epochs": None if waiting.away else waiting.epochs,
        "lag_at_least": waiting.more, "bus_reachable": not waiting.away, "bus_end": waiting.end,
        "slow": side.slow[0], "waits": side.slow[1], "undo": _store(side.undo),
    }  # fmt: skip


def _store(store: Store) -> dict[str, Any]:
    return {
        "name": store.name, "path": store.path, "used": store.used, "quota": store.quota or None,
        "free": store.free, "warning": store.warning,
    }  # fmt: skip


def warnings(one: StreamSide) -> list[str]:
    """What its user must hear."""
    stores = [*one.stores, *(side.undo for side in one.replicas)]
    found = [f"{one.record.label}: the {store.name} {store.path}: {store.warning}" for store in stores if store.warning]
    if one.source.damaged:
        found.append(
            f"{one.record.label}: the state of its source cannot be read ({one.source.damaged}): the next `vmferry"
            " replicate` reads the source to compare digests, and only what differs travels"
        )
    moves = [leftover.words(Path(side.directory), side.paths, one.record.label) for side in one.replicas]
    found += [f"{one.record.label}: {words}" for words in moves if words]
    found += [
        f"{one.record.label}: the state of {side.path} cannot be read ({side.damaged}): the next `vmferry replicate`"
        " reads the replica for its digests, and only what differs travels"
        for side in one.replicas
        if side.damaged
    ]
    return found


def lines(where: places.Places, streams: list[StreamSide]) -> list[str]:
    """The same in sentences."""
    found = [f"state      {where.root}"]
    if not streams:
        return [*found, "no stream is known here: `vmferry replicate SRC DST` begins one"]
    for one in streams:
        found += ["", *_stream_lines(one)]
    heard = [f"warning: {warning}" for one in streams for warning in warnings(one)]
    return found + (["", *heard] if heard else [])


def _stream_lines(one: StreamSide) -> list[str]:
    state = one.source.state
    sealed = f"epoch {state.epoch} sealed" if state and state.epoch else "nothing sealed yet"
    found = [
        f"stream     {one.record.label} ({one.record.stream})",
        f"source     {', '.join(one.source.paths)}: {sealed}, {_process(one.source.process, 'reads it')}",
        f"bus        {one.record.bus}; {_OPEN}",
    ]
    found += [f"{store.name:<10} {_used(store)} in {store.path}" for store in one.stores]
    for side in one.replicas:
        found += _replica_lines(side)
    return found or ["replica    none"]


def _process(pid: int | None, doing: str) -> str:
    return f"process {pid} {doing}" if pid is not None else "no process is at it"


def _used(store: Store) -> str:
    if store.quota:
        return f"{units.shown(store.used)} of {units.shown(store.quota)} ({100 * store.used // store.quota} %)"
    return f"{units.shown(store.used)}, {units.shown(store.free)} free"


def _replica_lines(side: ReplicaSide) -> list[str]:
    hop, words = side.slow
    found = [
        f"replica    {side.path}: {_process(side.process, 'applies')}{f', held: {side.held}' if side.held else ''}",
        *(f"  {line}" for line in kept.further({"disks": side.disks})),
        f"  at       {_at(side)}",
        f"  proved   {_proved(side.proved)}",
        f"  RPO      {_rpo(side)}",
        f"  lag      {_lag(side)}",
        f"  slow     {f'{hop}: {words}' if hop != 'none' else words}",
        f"  undo     {_used(side.undo)}",
    ]
    return [*found, f"  state    {side.directory}"]


def _at(side: ReplicaSide) -> str:
    return "unknown: its state cannot be read" if side.damaged else kept.at_epoch(kept.position(side.position))


def _proved(proved: Position | None) -> str:
    if proved is None:
        return "no epoch that is kept"
    return f"epoch {proved.epoch} of {when(proved.instant)}: both sides' Merkle roots are equal"


def _rpo(side: ReplicaSide) -> str:
    if side.rpo is None or side.usable is None:
        return "no usable epoch yet: nothing to go back to"
    if side.written is False and side.rpo == 0:
        return f"0 s: the source was not written to since epoch {side.usable.epoch}"
    rewind = "" if side.usable == side.position else f", by rewinding to epoch {side.usable.epoch}"
    return f"{units.duration(side.rpo)}{rewind}"


def _lag(side: ReplicaSide) -> str:
    waiting = side.waiting
    if waiting.away:
        return f"unknown: the bus is not reachable ({waiting.away})"
    least = "at least " if waiting.more else ""
    seconds = "unknown time" if side.lag is None else units.duration(side.lag)
    return f"{least}{seconds}, {units.shown(waiting.size)} in {kept.counted(waiting.epochs, 'epoch')} on the bus"
