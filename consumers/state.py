"""The files of a replica: its position and digests.  What is lost is read anew from the image, aloud."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from consumers import retention
from engine import digest, errors, ports, registry
from engine.device import images
from engine.replica import EMPTY
from engine.store import database, scratch, undo
from engine.store.file import OsFile
from engine.store.leaves import Leaves
from engine.store.replicas import State
from engine.store.sqlite import SqliteReplicaStore
from schemas.extent import Extent
from schemas.identity import Volume

STATE = "state.sqlite"
UNDO = "undo"
PARTS = ("digests", "claims")
_READ = 4 << 20
_SPAN = 1 << 30
Told = Callable[[int], None]
"""Hears how many more bytes were looked at."""


class Files:
    """The digests of a replica's volumes, in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, OsFile] = {}
        self._scratch = scratch.in_directory(directory)

    def leaves(self, index: int, volume: Volume) -> Leaves:
        """A block.MakeLeaves."""
        digests, claims = (self._file(f"{index}.{part}") for part in PARTS)
        return Leaves(volume, digests, claims, self._scratch)

    def _file(self, name: str) -> OsFile:
        if name not in self._files:
            self._files[name] = OsFile(self._directory / name)
        return self._files[name]

    def close(self) -> None:
        """Repeatable."""
        for file in self._files.values():
            file.close()
        self._files.clear()


@dataclass(frozen=True, slots=True)
class Found:
    """The store of a replica, and why its digests cannot be relied on (empty: they can)."""

    store: SqliteReplicaStore
    lost: str


Made = frozenset[int]
"""Numbers of the disks whose images were not there, and were made just now."""


def find(directory: Path, record: registry.Replica, made: Made = frozenset()) -> Found:
    """Open the store, and compare what is there with what the record says there should be.

    Raises Newer, Full, DeviceFailed; a damaged store is set aside and a new one takes its place.
    """
    lost = ""
    path = directory / STATE
    _refuse_newer(directory / UNDO)
    try:
        store = _loadable(path)
    except errors.Newer:
        raise
    except errors.Damaged as why:
        lost = f"{why}; it is now {database.set_aside(path).name}"
        store = _loadable(path)
    try:
        return Found(store, lost or why_lost(store, directory, record, made))
    except BaseException:
        store.close()
        raise


def _refuse_newer(path: Path) -> None:
    """Also where the state is lost: an undo log that we cannot read is not for us to begin anew.  Raises Newer."""
    if path.exists():
        file = OsFile(path)
        try:
            undo.refuse_newer(file)
        finally:
            file.close()


def _loadable(path: Path) -> SqliteReplicaStore:
    store = SqliteReplicaStore(path)
    try:
        if not store.empty:
            store.load()
    except BaseException:
        store.close()
        raise
    return store


def why_lost(store: SqliteReplicaStore, directory: Path, record: registry.Replica, made: Made = frozenset()) -> str:
    """Why the digests of the replica cannot be relied on; nothing when they can.

    A disk that came lately, and never had an image of ours, holds nothing that could be lost.
    """
    if not record.begun:
        return ""
    if store.empty:
        return f"{directory / STATE} is missing"
    if gone := [record.disks[at].path for at in sorted(made) if record.disks[at].inode]:
        return f"{', '.join(gone)} was deleted, and is made anew"
    if why := broken(store, directory):
        return why
    ours = [disk for disk in record.disks if disk.inode]
    if other := [disk.path for disk in ours if registry.identified(disk) != disk]:
        return f"{', '.join(other)} is another file than the one that was written to"
    if record.left and record.left != left(ours):
        return f"{_written(record.left, ours)} was written to by somebody else since"
    return ""


def _written(before: Sequence[tuple[int, int]], disks: Sequence[registry.Disk]) -> str:
    """Which of the images look otherwise than before."""
    files = [disk.path for disk in disks if os.path.isfile(disk.path)]
    now = left(disks)
    differ = [path for path, was, one in zip(files, before, now, strict=False) if was != one]
    return ", ".join(differ if len(before) == len(now) else files)


def there(record: registry.Replica) -> tuple[registry.Disk, ...]:
    """Its disks, less the last ones of which no image was made yet."""
    disks = list(record.disks)
    while len(disks) > 1 and not disks[-1].inode and _unmade(disks[-1].path):
        disks.pop()
    return tuple(disks)


def _unmade(path: str) -> bool:
    return isinstance(images.parse(path), str) and not os.path.lexists(path)


def broken(store: SqliteReplicaStore, directory: Path) -> str:
    """Which of the files beside a readable store are not there as they were left; nothing when all are."""
    now = store.load()
    volumes = now.position.volumes
    names = [UNDO] + [f"{index}.{part}" for index in range(len(volumes)) for part in PARTS]
    missing = [name for name in names if volumes and not (directory / name).exists()]
    if missing:
        return f"{', '.join(missing)} of its digests is missing"
    return _undo_trouble(directory / UNDO, now) if volumes else ""


def _undo_trouble(path: Path, now: State) -> str:
    """What is wrong with the undo log: as a whole, and on the way of a rewind that is not finished.  Raises Newer."""
    file = OsFile(path)
    try:
        log = undo.UndoLog(file)
        at = retention.broken(log, now.intent, now.undo_end) if now.intent else None
    except errors.Newer:
        raise  # what it holds is not lost, and must not be begun anew
    except errors.Damaged as why:
        return f"{path}: {why}"
    finally:
        file.close()
    if log.end < now.undo_end:
        return f"{path} has {log.end:,} of the {now.undo_end:,} bytes that were settled"
    return "" if at is None else f"{path} is damaged at byte {at:,}, and a rewind is on its way over it"


def left(disks: Sequence[registry.Disk]) -> tuple[tuple[int, int], ...]:
    """(size, mtime) of each image that is a regular file: what changes when somebody writes to it."""
    found = [os.stat(disk.path) for disk in disks if os.path.isfile(disk.path)]
    return tuple((one.st_size, one.st_mtime_ns) for one in found)


def begin(
    directory: Path, store: SqliteReplicaStore, record: registry.Replica, stream: registry.Stream, offset: int
) -> None:
    """A first state, or one anew: nothing is held, under a new nonce, so that no older answer fits it.

    The log counts from `offset` on: what stands before it is of a past that this store does not share.
    """
    for name in [UNDO, *(f"{index}.{part}" for index in range(len(record.disks)) for part in PARTS)]:
        (directory / name).unlink(missing_ok=True)
    state = State(record.identity, secrets.token_bytes(8), stream.identity, stream.label, replace(EMPTY, offset=offset))
    if not store.empty:
        # What the outbox still holds speaks of a store that is no more.
        store.published(store.load().next_receipt)
        store.forget_before(1 << 62)
    store.create(state)


async def read_digests(
    files: Files, volumes: Sequence[Volume], devices: Sequence[ports.BlockDevice], offload: ports.Offload,
    told: Told = lambda _: None,
) -> int:  # fmt: skip
    """Read the images for their digests, and claim them.  Gives how many bytes of data were read.

    `told` hears how many more bytes were looked at.
    """
    total = 0
    for index, (volume, device) in enumerate(zip(volumes, devices, strict=True)):
        leaves = files.leaves(index, volume)
        for start in range(0, volume.size, _SPAN):
            for part in await device.extents(start, min(_SPAN, volume.size - start)):
                if part.zero:
                    told(part.length)
                else:
                    total += await _read_part(leaves, device, part, told)
        await offload(_claim_rest, leaves)
    return total


async def _read_part(leaves: Leaves, device: ports.BlockDevice, part: Extent, told: Told) -> int:
    """The blocks that a part touches, whole."""
    size, whole = leaves.volume.block_size, leaves.volume.size
    low, high = part.start // size * size, min(-(-part.end // size) * size, whole)
    step = max(_READ // size, 1) * size
    for at in range(low, high, step):
        length = min(step, high - at)
        await device.look([(at, length)], functools.partial(_digest, leaves, at))
        told(length)
    return high - low


def _digest(leaves: Leaves, start: int, _: int, data: memoryview) -> None:
    size = leaves.volume.block_size
    leaves.write(start // size, digest.of_pieces(start, data, size))


def _claim_rest(leaves: Leaves) -> None:
    """What was not read is holes: zeros, of which we are as sure."""
    runs = [run for run in leaves.claims.runs(0, leaves.volume.blocks) if not run[2]]
    for start, end, _ in runs:
        leaves.zero(start, end - start)
    leaves.sync()


def adopted(store: SqliteReplicaStore, volumes: tuple[Volume, ...]) -> None:
    """The digests are durable: from now on they are answered with."""
    state = store.load()
    store.create(replace(state, position=replace(state.position, volumes=volumes)))
