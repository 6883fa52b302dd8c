"""Everything of one replica, opened in order and let go in reverse: images, state, undo log, bus, Replay."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from consumers import held, state
from consumers.block import Target
from consumers.reader import Reader
from consumers.replay import Replay, Settings
from engine import errors, places, ports, quotas, registry
from engine.bus.reach import reach
from engine.device import images
from engine.pool import Pool
from engine.store.file import OsFile
from engine.store.undo import UndoLog
from schemas import errors as schema_errors
from schemas import topics
from schemas.identity import Volume

log = logging.getLogger("vmferry.target")
_WAIT = 0.25
"""Seconds that the loop waits for records before it looks whether it is to end."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may choose.  `sizes`: bytes of each disk of the source, for images that are made."""

    sizes: tuple[int, ...] = ()
    secret_file: str = ""
    undo_quota: int = 0
    settings: Settings = field(default_factory=Settings)
    reach: Callable[[registry.Replica, int | None], Awaitable[ports.Bus]] = reach
    "How to get to the bus: a daemon has one connection for all its replicas."


@dataclass(slots=True)
class Site:
    """An opened replica.  `notes` say what its user must hear."""

    record: registry.Replica
    replay: Replay
    topic: ports.Log
    notes: list[str]
    recovered: int = 0
    "Pre-images that recovery put back."
    _woken: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    async def recover(self) -> None:
        """Bring the image to its stored position, and find that in the log.  Raises Usage when it was rewound."""
        self.recovered = await self.replay.recover()
        held.refuse(self.replay.state.held, self.record.disks[0].path)
        position = self.replay.state.position
        if position.epoch:
            await self.replay.locate()
        else:
            # What the log held before this store began is not ours: a resync brings what is missing.
            begin, end = await self.topic.ends()
            self.replay.reader.seek(min(max(position.offset, begin), end))

    async def run(self, going: Callable[[], bool]) -> None:
        """Apply what comes for as long as `going()`.  Raises what `Replay.step` does; then open the site anew."""
        try:
            while going():
                if not await self.replay.step(0):
                    await self._rest()
        except schema_errors.SchemaError as why:
            raise errors.Damaged(f"the log of stream {self.record.stream} cannot be read: {why}") from why

    def wake(self) -> None:
        """Have `run` look at once whether it is to go on.  In its loop; repeatable."""
        self._woken.set()

    async def _rest(self) -> None:
        """Until there is more to read, `wake`, or a while is over."""
        waiting = [asyncio.ensure_future(one) for one in (self.replay.reader.wait(_WAIT), self._woken.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._woken.clear()
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


@contextlib.asynccontextmanager
async def open_replica(
    where: places.Places, stream: registry.Stream, record: registry.Replica, options: Options
) -> AsyncIterator[Site]:
    """Open the replica `record` of `stream`, making images that are not there.  `recover` it before anything else.

    Digests that are lost, damaged, or not those of the image any more, are read from it, and said in `notes`.
    Raises InUse, NotFound, Usage (also: it is held), Full, Transient, DeviceFailed, Damaged (newer version).
    """
    directory = where.replica(record.stream, record.replica)
    async with contextlib.AsyncExitStack() as stack:
        places.make(directory)
        stack.callback(places.Hold(directory, f"the replica {record.disks[0].path}").close)
        held.refuse(record.held, record.disks[0].path)
        pool = Pool("target")
        stack.callback(pool.close)
        bus = await options.reach(record, None)
        stack.push_async_callback(bus.close)
        topic = await bus.open(topics.stream(stream.identity, record.prefix))
        keeper = _Keeper(registry.Registry(where), record)
        stack.callback(keeper.leave)
        devices, made = await _open_images(stack, keeper, options, pool)
        found = state.find(directory, record, made)
        stack.callback(found.store.close)
        held.refuse("" if found.store.empty else found.store.load().held, record.disks[0].path)
        files = state.Files(directory)
        stack.callback(files.close)
        stack.push_async_callback(pool.idle)
        notes = await _fill(directory, stream, keeper, found, files, devices, topic, made, pool)
        target = Target(devices, _undo(stack, directory, options), files.leaves, pool)
        reader = Reader(stream.identity, topic, offload=pool)
        stack.push_async_callback(reader.close)
        answers = await bus.open(topics.receipts(record.prefix), write=True, shared=True)
        settings = replace(options.settings, undo_quota=options.undo_quota)
        replay = Replay(stream.identity, reader, answers, target, found.store, settings, pool)
        stack.push_async_callback(pool.idle)
        yield Site(keeper.record, replay, topic, notes)


def _undo(stack: contextlib.AsyncExitStack, directory: Path, options: Options) -> UndoLog:
    quotas.keep(directory, quotas.UNDO, options.undo_quota)
    log_of_undo = UndoLog(OsFile(directory / state.UNDO), options.undo_quota or None)
    stack.callback(log_of_undo.close)
    return log_of_undo


class _Keeper:
    """Keeps the replica's record true: what is written to it is durable before anything that relies on it."""

    def __init__(self, records: registry.Registry, record: registry.Replica) -> None:
        self._records, self.record = records, record
        self._mine = False

    def making(self, unread: bool) -> None:
        """An image is about to be made.  A crash behind this: what is there then is ours, and is read (`unread`)."""
        if not self.record.begun and self.record.unread != unread:
            self.record = replace(self.record, unread=unread)
            self._records.save(self.record)

    def claim(self, unread: bool) -> None:
        """The images are ours from now on; `unread`: their digests must first be read."""
        disks = tuple(map(registry.identified, self.record.disks))
        self.record = replace(self.record, disks=disks, begun=True, unread=unread, left=())
        self._records.save(self.record)
        self._mine = True

    def leave(self) -> None:
        """Remember what the images look like, to notice who writes to them meanwhile.  After they are closed."""
        if self._mine and all(os.path.exists(disk.path) for disk in self.record.disks):
            self._records.save(replace(self.record, left=state.left(self.record.disks)))


async def _open_images(
    stack: contextlib.AsyncExitStack, keeper: _Keeper, options: Options, pool: Pool
) -> tuple[list[ports.BlockDevice], state.Made]:
    """The devices, ours alone, and which of them had to be made.  Raises Usage for one that is too small."""
    record, devices, made = keeper.record, list[ports.BlockDevice](), set[int]()
    for index, disk in enumerate(record.disks):
        size = options.sizes[index] if index < len(options.sizes) else 0
        new = await pool(_missing, disk.path)
        if not (new or record.begun or record.unread):
            raise registry.foreign(disk.path)
        device = await _open_image(disk, keeper, size if new else None, options, pool)
        stack.push_async_callback(device.close)
        if device.fixed and device.size < size:
            raise errors.Usage(
                f"{disk.path} has {device.size:,} bytes, the source {size:,}: make it larger, with lvextend or"
                f" `qemu-img resize {disk.path} {size}`, then start again"
            )
        devices.append(device)
        made |= {index} if new else set()
    return devices, frozenset(made)


async def _open_image(
    disk: registry.Disk, keeper: _Keeper, create_size: int | None, options: Options, pool: Pool
) -> ports.BlockDevice:
    before = keeper.record.unread
    if create_size is not None:
        keeper.making(True)
    try:
        return await images.open_image(
            disk.path, True, format=disk.format or None, secret_file=options.secret_file, offload=pool,
            create_size=create_size,
        )  # fmt: skip
    except errors.FerryError:
        keeper.making(before)
        raise


def _missing(path: str) -> bool:
    """Whether a file is to be made; what a server exports is there already."""
    return isinstance(images.parse(path), str) and not os.path.lexists(path)


async def _fill(
    directory: Path, stream: registry.Stream, keeper: _Keeper, found: state.Found, files: state.Files,
    devices: list[ports.BlockDevice], topic: ports.Log, made: state.Made, pool: Pool,
) -> list[str]:  # fmt: skip
    """See that the store has a state that is true of the images.  Gives what there is to say of it."""
    record, notes = keeper.record, list[str]()
    all_made = len(made) == len(devices)  # beside others, one that is new is read, too: it is a hole
    unread = (record.unread or bool(found.lost)) and not all_made
    if found.lost:
        way = "everything travels" if all_made else "it is read for its digests, and only what differs travels"
        notes.append(f"the state of the replica {record.disks[0].path} was lost ({found.lost}): {way}")
        log.warning(notes[-1])
    # The record first: images of ours that have no state yet are read for their digests, never taken for empty ones.
    keeper.claim(unread)
    if found.lost or unread or found.store.empty:
        _, end = await topic.ends()
        state.begin(directory, found.store, record, stream, end)
    if unread:
        volumes = tuple(
            Volume(disk.name, device.size, disk.block_size) for disk, device in zip(record.disks, devices, strict=True)
        )
        await state.read_digests(files, volumes, devices, pool)
        state.adopted(found.store, volumes)
        keeper.claim(False)
    return notes
