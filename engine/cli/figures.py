"""Where every stream of this machine stands, looked at and not touched: no lock is taken, nothing is written."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import errors, places, quotas, registry
from engine.cli.hop import Facts, slow
from engine.cli.waiting import Waiting, behind
from engine.store import peek
from engine.store.replicas import KeptEpoch, State
from engine.store.sources import SourceState
from schemas.receipts import Position

_STATE = "state.sqlite"
_CLOCK = 20_000_000
"""Nanoseconds by which the time stamp of a file may be behind the clock (producers/image.py)."""


@dataclass(frozen=True, slots=True)
class Store:
    """What a store takes on its medium.  Bytes; `quota` 0: none.  `free`: what its file system has left."""

    name: str
    path: str
    used: int
    quota: int
    free: int
    size: int

    @property
    def warning(self) -> str:
        """What its user should know before it is full."""
        if self.quota and self.used > self.quota * quotas.WARN_AT:
            return f"{100 * self.used // self.quota} % of its quota"
        if self.size and self.size - self.free > self.size * quotas.WARN_AT:
            return f"its file system is {100 * (self.size - self.free) // self.size} % full"
        return ""


@dataclass(frozen=True, slots=True)
class SourceSide:
    """The source's side on this machine.  `process`: the one that is at it, or None."""

    paths: tuple[str, ...]
    state: SourceState | None
    damaged: str
    process: int | None


@dataclass(frozen=True, slots=True)
class ReplicaSide:
    """One replica.  `usable` and `proved` are the last such positions that are kept; `rpo` in seconds."""

    paths: dict[str, str]
    replica: str
    directory: str
    process: int | None
    damaged: str
    held: str
    position: Position
    usable: Position | None
    proved: Position | None
    waiting: Waiting
    rpo: float | None
    lag: float | None
    written: bool | None
    slow: tuple[str, str]
    undo: Store

    @property
    def path(self) -> str:
        """Its first image, which it is known by."""
        return next(iter(self.paths.values()))

    @property
    def disks(self) -> list[dict[str, Any]]:
        """Every disk, as a command tells of it."""
        sizes = [volume.size for volume in self.position.volumes]
        return [
            {"name": name, "path": path, "size": sizes[number] if number < len(sizes) else None}
            for number, (name, path) in enumerate(self.paths.items())
        ]


@dataclass(frozen=True, slots=True)
class StreamSide:
    """One stream."""

    record: registry.Stream
    source: SourceSide
    replicas: tuple[ReplicaSide, ...]
    stores: tuple[Store, ...]


async def stream(where: places.Places, record: registry.Stream, replicas: list[registry.Replica]) -> StreamSide:
    """Everything that is known of one stream."""
    source = _source(where, record)
    sides = [await _replica(where, record, one, source) for one in replicas]
    log = Path(record.bus[4:]) if record.bus.startswith("log:") else None
    directory = where.stream(record.stream)
    stores = [_store("state", directory, quotas.kept(directory, quotas.STATE), quotas.PRE_IMAGES)]
    if log is not None and log.exists():
        stores.append(_store("log", log, quotas.kept(where.source(record.stream), quotas.LOG)))
    return StreamSide(record, source, tuple(sides), tuple(stores))


def _source(where: places.Places, record: registry.Stream) -> SourceSide:
    directory = where.source(record.stream)
    paths = tuple(disk.path for disk in record.disks if disk.path)
    state, damaged = None, ""
    try:
        state = peek.source(directory / _STATE) if record.begun else None
    except errors.FerryError as why:
        damaged = str(why)
    return SourceSide(paths, state, damaged, places.holder(directory))


async def _replica(
    where: places.Places, stream: registry.Stream, record: registry.Replica, source: SourceSide
) -> ReplicaSide:
    directory = where.replica(record.stream, record.replica)
    state, kept, damaged = _looked(directory, record)
    at = state.position if state else Position()
    waiting = await behind(record, stream.identity, at.offset)
    here, written = source.state, _written(source, at)
    held, process = record.held or (state.held if state else ""), places.holder(directory)
    positions = [*(one.position for one in kept), at]
    usable = next((one for one in reversed(positions) if one.usable), None)
    facts = Facts(
        held, damaged, waiting.away, bool(here), here.epoch if here else 0, source.process is not None, written,
        at.epoch, process is not None, at.missing, waiting.epochs, waiting.size, waiting.more,
    )  # fmt: skip
    return ReplicaSide(
        record.paths, record.replica, str(directory), process, damaged, held, at, usable,
        next((one for one in reversed(positions) if one.roots and one.complete), None), waiting,
        _rpo(usable, at, written), _lag(waiting, at), written, slow(facts),
        _store("undo", directory / "undo", quotas.kept(directory, quotas.UNDO)),
    )  # fmt: skip


def _looked(directory: Path, record: registry.Replica) -> tuple[State | None, list[KeptEpoch], str]:
    if not record.begun:
        return None, [], ""
    try:
        state, kept, _ = peek.replica(directory / _STATE)
    except errors.FerryError as why:
        return None, [], str(why)
    return state, kept, ""


def _written(source: SourceSide, at: Position) -> bool | None:
    """Whether the source was written to since the cut `at`, by the time stamps of its files; None: cannot be seen."""
    state = source.state
    files = [path for path in source.paths if os.path.isfile(path)]
    if state is None or not at.usable or state.chain != at.chain or len(files) < len(source.paths):
        return None
    return any(os.stat(path).st_mtime_ns + _CLOCK > at.instant for path in files)


def _rpo(usable: Position | None, at: Position, written: bool | None) -> float | None:
    if usable is None:
        return None
    return 0.0 if written is False and usable is at else max(0.0, time.time() - usable.instant / 1e9)


def _lag(waiting: Waiting, at: Position) -> float | None:
    """Seconds of the source's history that are on the bus and not applied."""
    if waiting.away:
        return None
    if not waiting.epochs:
        return 0.0
    return max(0.0, (waiting.instant - at.instant) / 1e9) if at.instant else None


def _store(name: str, path: Path, quota: int, but: str = "") -> Store:
    room = os.statvfs(path if path.exists() else path.parent)
    used = quotas.used(path, but)
    return Store(name, str(path), used, quota, room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize)
