"""One replica without bus and source: for commands that look after it while nothing is applied.

What is opened here is trusted as it is, or not at all: nothing is set aside, and nothing begun anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from consumers import held, state
from consumers.block import Target
from consumers.reader import Reader
from consumers.replay import Replay
from engine import errors, places, ports, registry
from engine.device import images
from engine.pool import Pool
from engine.store import undo
from engine.store.file import OsFile
from engine.store.sqlite import SqliteReplicaStore


def _way(record: registry.Replica) -> str:
    """What mends a state that cannot be relied on."""
    first = held.way(held.RELEASED, record.disks[0].path) if record.held else "`vmferry replicate`"
    return f"{first} reads the replica for its digests, and only what differs from the source travels"


class Unsaid(errors.Transient):
    """There is no bus here: what is to be said waits in the outbox."""


class NoBus:
    """A Log that is never there: what is to be said stays in the outbox for the next run."""

    async def append(self, records: Sequence[bytes]) -> None:
        raise Unsaid(f"{len(records)} receipts wait for the next run: no bus is asked here")

    async def sync(self) -> int:
        raise Unsaid("no bus is asked here")

    async def read(self, offset: int, limit: int, wait: float) -> Sequence[ports.Entry]:
        raise Unsaid(f"no bus is asked here (for {limit} bytes from {offset} on, within {wait} s)")

    async def ends(self) -> tuple[int, int]:
        raise Unsaid("no bus is asked here")

    async def trim(self, offset: int) -> None:
        raise Unsaid(f"no bus is asked here (to trim to {offset})")

    async def close(self) -> None:
        """Nothing is held."""


class Keeper:
    """Keeps the replica's record true.  `left` is forgotten before its images change, and known again once closed."""

    def __init__(self, where: places.Places, record: registry.Replica) -> None:
        self._records, self.record = registry.Registry(where), record
        self._claimed = False

    def save(self, **changes: Any) -> None:
        """Change the record, durably."""
        self.record = replace(self.record, **changes)
        self._records.save(self.record)

    def claim(self) -> None:
        """The images will be written to by us."""
        self._claimed = True
        self.save(left=(), disks=tuple(map(registry.identified, self.record.disks)))

    def leave(self) -> None:
        """Remember what they look like, to notice who writes to them next.  After they are closed."""
        if self._claimed:
            self.save(left=state.left(self.record.disks))


@dataclass(frozen=True, slots=True)
class Offline:
    """An opened replica.  `replay` is only there to recover and to rewind."""

    keeper: Keeper
    directory: Path
    store: SqliteReplicaStore
    target: Target
    replay: Replay
    pool: Pool

    @property
    def path(self) -> str:
        return self.keeper.record.disks[0].path

    def unfinished(self) -> str:
        """Why the image is not what its position says before recovery; nothing when it is."""
        now = self.store.load()
        if now.intent is not None:
            return f"its rewind to epoch {now.intent.position.epoch} is not finished"
        beyond = self.target.undo.end - max(now.undo_end, undo.START)
        return f"its undo log has {beyond:,} bytes of an epoch that was never settled" if beyond > 0 else ""


@contextlib.asynccontextmanager
async def hold(where: places.Places, record: registry.Replica) -> AsyncIterator[Path]:
    """The directory of the replica, ours alone.  Raises InUse while something applies, NotFound where nothing is."""
    directory = where.replica(record.stream, record.replica)
    if not record.begun:
        raise errors.NotFound(
            f"the replica {record.disks[0].path} was never begun: `vmferry replicate` brings it its first epoch"
        )
    lock = places.Hold(directory, f"the replica {record.disks[0].path}")
    try:
        yield directory
    finally:
        lock.close()


@contextlib.asynccontextmanager
async def open_replica(
    where: places.Places, record: registry.Replica, *, write: bool, secret_file: str = ""
) -> AsyncIterator[Offline]:
    """Open `record` to look after it; with `write` its images may be changed, and are nobody else's meanwhile.

    Raises InUse, NotFound, Usage, Damaged (its state does not read as written, or is not that of the images),
    DeviceFailed, Full.
    """
    async with contextlib.AsyncExitStack() as stack:
        directory = await stack.enter_async_context(hold(where, record))
        store = _open_store(directory, record)
        stack.callback(store.close)
        if write:
            _refuse_strangers(store, directory, record)
        pool = Pool("replica")
        stack.callback(pool.close)
        keeper = Keeper(where, record)
        stack.callback(keeper.leave)
        devices = await open_devices(stack, record, pool, write, secret_file)
        target = _target(stack, directory, record, devices, pool)
        now = store.load()
        target.load(now.position.volumes)
        replay = Replay(now.stream, Reader(now.stream, NoBus()), NoBus(), target, store, offload=pool)
        if write:
            keeper.claim()
        stack.push_async_callback(pool.idle)
        yield Offline(keeper, directory, store, target, replay, pool)


def _target(
    stack: contextlib.AsyncExitStack, directory: Path, record: registry.Replica, devices: list[ports.BlockDevice],
    pool: Pool,
) -> Target:  # fmt: skip
    files = state.Files(directory)
    stack.callback(files.close)
    with _advised(record):
        log = undo.UndoLog(OsFile(directory / state.UNDO))
    stack.callback(log.close)
    return Target(devices, log, files.leaves, pool)


def _open_store(directory: Path, record: registry.Replica) -> SqliteReplicaStore:
    """The store, which must be there and whole, with all the files that belong to it.  Raises Damaged."""
    path = directory / state.STATE
    if not path.exists():
        raise errors.Damaged(f"{path} is missing; {_way(record)}")
    with _advised(record):
        store = SqliteReplicaStore(path)
    try:
        with _advised(record):
            lost = state.broken(store, directory)
        if lost:
            raise errors.Damaged(f"{record.disks[0].path}: {lost}; {_way(record)}")
    except BaseException:
        store.close()
        raise
    return store


@contextlib.contextmanager
def _advised(record: registry.Replica) -> Iterator[None]:
    """What is damaged is said with what mends it."""
    try:
        yield
    except errors.Newer:
        raise
    except errors.Damaged as why:
        raise errors.Damaged(f"{why}; {_way(record)}") from why


def _refuse_strangers(store: SqliteReplicaStore, directory: Path, record: registry.Replica) -> None:
    """Raises Damaged when somebody else wrote to the images since we closed them."""
    lost = "" if store.load().held else state.why_lost(store, directory, record)
    if lost:
        raise errors.Damaged(f"{lost}: its digests and pre-images are not those of its bytes any more; {_way(record)}")


async def open_devices(
    stack: contextlib.AsyncExitStack, record: registry.Replica, pool: Pool, write: bool, secret_file: str
) -> list[ports.BlockDevice]:
    """The images of the replica, closed with `stack`.  Raises NotFound, InUse, Usage."""
    devices: list[ports.BlockDevice] = []
    for disk in state.there(record):
        device = await images.open_image(
            disk.path, write, format=disk.format or None, secret_file=secret_file, offload=pool
        )
        stack.push_async_callback(device.close)
        devices.append(device)
    return devices
