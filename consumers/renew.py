"""A replica whose past no longer counts: a new nonce, and a chain that nobody has.

So no epoch fits it by the producer's own chain, and no older answer is taken for one of this state: it comes in by an
asker's entry only, after its digests were compared, and what differs has travelled.  Its kept epochs go with its past.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from consumers import held, offline, state
from consumers.check import Finding
from consumers.offline import Offline
from consumers.state import Told
from engine import errors, places, ports, registry
from engine.pool import Pool
from engine.replica import EMPTY
from engine.store import peek
from engine.store.file import OsFile
from engine.store.replicas import State, Update
from engine.store.sqlite import SqliteReplicaStore
from engine.store.undo import UndoLog
from schemas.identity import Chain, Volume


def renewed(now: State, volumes: tuple[Volume, ...], still_held: str) -> State:
    """The state without a past.  Fence, generation, where pre-images end, and where the log goes on, stay."""
    fresh = replace(
        EMPTY, chain=Chain(secrets.token_bytes(32)), volumes=volumes, offset=now.position.offset
    )  # epoch 0: no seal in the log made this
    return replace(now, nonce=secrets.token_bytes(8), position=fresh, next_receipt=1, held=still_held, intent=None)


def drop_past(store: SqliteReplicaStore, log: UndoLog, volumes: tuple[Volume, ...], still_held: str) -> int:
    """Make the state one without a past, durably.  Gives how many epochs could be rewound to and no longer can."""
    now = store.load()
    usable = sum(one.position.usable for one in store.kept())
    # What can no longer be rewound to goes first: a crash after any of these steps leaves pre-images that nobody
    # promises, or words that nobody says, and never a promise without its pre-images.
    store.forget_before(1 << 62)
    store.published(now.next_receipt)
    store.commit(Update(renewed(now, volumes, still_held)))
    log.trim(now.undo_end)
    return usable


def repair(opened: Offline, findings: Sequence[Finding]) -> int:
    """Claim the blocks that differ no more.  Gives how many epochs can no longer be rewound to.

    Nothing is written to the image: the next run of `replicate` brings these blocks, and no others.
    """
    for leaves, finding in zip(opened.target.leaves, findings, strict=True):
        for first, end in finding.bad:
            leaves.unclaim(first, end - first)
        # Durable before the new state says that it may be asked: a claim on a damaged block would keep it for ever.
        leaves.sync()
    now = opened.store.load()
    return drop_past(opened.store, opened.target.undo, now.position.volumes, now.held)


@dataclass(frozen=True, slots=True)
class Acquired:
    """`read`: bytes of data; `dropped`: epochs that can no longer be rewound to; `lost`: why the state began anew."""

    read: int
    dropped: int
    lost: str


async def acquire(
    where: places.Places, stream: registry.Stream, record: registry.Replica, told: Told, secret_file: str = ""
) -> Acquired:
    """Take a released replica back: read it for its digests, since its user may have changed it.

    It stays held until the last step, and may be stopped anywhere and begun again.  Raises Usage when it is not held,
    Damaged where nothing tells whether it is, InUse, NotFound, DeviceFailed, Full.
    """
    async with contextlib.AsyncExitStack() as stack:
        directory = await stack.enter_async_context(offline.hold(where, record))
        _check_held(directory, record)
        record = replace(record, disks=state.there(record))
        found = state.find(directory, replace(record, left=()))
        stack.callback(found.store.close)
        keeper = offline.Keeper(where, record)
        stack.callback(keeper.leave)
        pool = Pool("replica")
        stack.callback(pool.close)
        devices = await offline.open_devices(stack, record, pool, True, secret_file)
        # Should the state be lost on the way, the next run reads the image, and nobody applies to it unasked.
        keeper.save(held=record.held or held.RELEASED, unread=True)
        if found.lost:
            state.begin(directory, found.store, record, stream, 0)
        files = state.Files(directory)
        stack.callback(files.close)
        stack.push_async_callback(pool.idle)
        keeper.claim()
        volumes = _volumes(record, found.store.load().position.volumes, devices)
        read = await _reread(files, volumes, devices, pool, told)
        dropped = _begin_anew(directory, found.store, volumes)
        keeper.save(held="", unread=False)
        return Acquired(read, dropped, found.lost)


def _check_held(directory: Path, record: registry.Replica) -> None:
    """Before anything is touched.  Raises Usage; NotFound and Damaged where only the state could tell."""
    if not (record.held or peek.replica(directory / state.STATE)[0].held):
        raise errors.Usage(f"the replica {record.disks[0].path} is not released: `vmferry replicate` goes on with it")


def _begin_anew(directory: Path, store: SqliteReplicaStore, volumes: tuple[Volume, ...]) -> int:
    log = UndoLog(OsFile(directory / state.UNDO))
    try:
        return drop_past(store, log, volumes, "")
    finally:
        log.close()


def _volumes(
    record: registry.Replica, before: Sequence[Volume], devices: Sequence[ports.BlockDevice]
) -> tuple[Volume, ...]:
    """The volumes as large as the images are now; of a device that is larger than its volume was, as that was."""
    found = []
    for index, (disk, device) in enumerate(zip(record.disks, devices, strict=True)):
        was = before[index].size if index < len(before) else device.size
        found.append(Volume(disk.name, min(was, device.size) if device.fixed else device.size, disk.block_size))
    return tuple(found)


async def _reread(
    files: state.Files, volumes: Sequence[Volume], devices: Sequence[ports.BlockDevice], pool: Pool, told: Told
) -> int:
    """The digests of the images, from nothing.  Gives how many bytes of data were read."""
    for index, volume in enumerate(volumes):
        leaves = files.leaves(index, volume)
        leaves.unclaim(0, volume.blocks)
        leaves.sync()
    return await state.read_digests(files, volumes, devices, pool, told)
