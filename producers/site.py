"""Everything of one stream's source side, opened in order and let go in reverse: images, state, map, bus, Shipper."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine import envelope, errors, places, ports, quotas, registry
from engine.bus.reach import reach
from engine.daemon import wishes
from engine.device import images
from engine.pool import Pool
from engine.store.file import OsFile
from engine.store.sources import SourceState
from engine.store.stage import Stage
from producers import post, ship, state
from producers.absent import Absent
from producers.image import Image, ImageSource
from producers.pace import Limiter
from producers.source import Source
from schemas import topics

if TYPE_CHECKING:
    from producers.machine.fleet import Captured
    from producers.machine.source import MachineSource

log = logging.getLogger("vmferry.source")


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may choose.  `rate`: bytes per second, 0 for no limit; None leaves the stream's setting as it is."""

    rate: int | None = None
    log_quota: int | None = None
    force_share: bool = False
    secret_file: str = ""
    given_up: frozenset[str] = frozenset()
    "Volumes that are to hold no bytes any more: of a disk that is not there, and never will be."
    machine: Captured | None = None
    "How to capture the machine that the stream is of, where it is of one."
    ship: post.Settings = field(default_factory=post.Settings)
    reach: Callable[[registry.Stream, int | None], Awaitable[ports.Bus]] = reach
    "How to get to the bus: a daemon has one connection for all its streams."


@dataclass(slots=True)
class Site:
    """An opened source side.  `notes` say what its user must hear."""

    stream: registry.Stream
    directory: Path
    source: ImageSource | MachineSource
    shipper: ship.Shipper
    limiter: Limiter
    notes: list[str]

    async def obey_rate(self) -> None:
        """Follow the stream's setting of its rate for ever, looking every second."""
        while True:
            self.limiter.rate = read_rate(self.directory)
            await asyncio.sleep(1.0)


def read_rate(directory: Path) -> int:
    """Bytes per second that the stream may send, 0 without limit."""
    return wishes.load(directory).rate or 0


def write_rate(directory: Path, rate: int) -> None:
    """Keep the stream's rate where a running process finds it within a second."""
    wishes.save(directory, replace(wishes.load(directory), rate=rate))


@contextlib.asynccontextmanager
async def open_source(
    where: places.Places, stream: registry.Stream, expect: frozenset[bytes], options: Options
) -> AsyncIterator[Site]:
    """Open the source side of `stream`.  `expect` are the replicas whose answers a start waits for.

    State that is lost or damaged is begun anew, and said in `notes`: the start that follows compares digests.
    Raises InUse (another process; a writer of the image), NotFound, Usage, Full, Transient, Damaged (newer version).
    """
    directory = where.source(stream.stream)
    async with contextlib.AsyncExitStack() as stack:
        places.make(directory)
        stack.callback(places.Hold(directory, f"the source of stream {stream.label}").close)
        pool = Pool("source")
        stack.callback(pool.close)
        source: ImageSource | MachineSource
        if options.machine is not None:
            from producers.machine import opening  # it loads libvirt, for which no image should wait

            notes = list[str]()
            source = await opening.open_machine(stack, stream, directory, options.given_up, options.machine, pool)
        else:
            source, notes = await _open_images(stack, stream, options, pool)
        if options.rate is not None:
            write_rate(directory, options.rate)
        store = state.open_store(directory, stream, notes)
        stack.callback(store.close)
        _refuse_unknown(stream, store.load(), options)
        stream = replace(stream, begun=True, disks=tuple(map(registry.identified, stream.disks)))
        shipper, limiter = await _shipper(stack, directory, stream, source, store, expect, options, pool)
        for image in source.absent:
            image.know(lambda: (shipper.state.volumes, shipper.map))
        # Only now: a bus that was never reached is not remembered.
        registry.Registry(where).save(stream)
        # First of all on the way out: what still runs in threads ends before any file is closed.
        stack.push_async_callback(pool.idle)
        stack.push_async_callback(shipper.close)
        yield Site(stream, directory, source, shipper, limiter, notes)


async def _shipper(
    stack: contextlib.AsyncExitStack, directory: Path, stream: registry.Stream, source: Source,
    store: state.SqliteSourceStore, expect: frozenset[bytes], options: Options, pool: Pool,
) -> tuple[ship.Shipper, Limiter]:  # fmt: skip
    quotas.keep(directory, quotas.LOG, options.log_quota or 0)
    bus = await options.reach(stream, options.log_quota)
    stack.push_async_callback(bus.close)
    log_of_stream = await bus.open(topics.stream(stream.identity, stream.prefix), write=True)
    answers = await bus.open(topics.receipts(stream.prefix), shared=True)
    stage, maps = OsFile(directory / "stage"), state.Maps(directory)
    stack.callback(stage.close)
    stack.callback(maps.close)
    # On the same machine the disk is faster than zstd.
    settings = replace(options.ship, squeeze=envelope.plain) if stream.bus.startswith("log:") else options.ship
    limiter = Limiter(read_rate(directory))
    shipper = ship.Shipper(
        source, log_of_stream, answers, store, Stage(stage), maps, settings, pool, limiter, expect
    )  # fmt: skip
    return shipper, limiter


async def _open_images(
    stack: contextlib.AsyncExitStack, stream: registry.Stream, options: Options, pool: Pool
) -> tuple[ImageSource, list[str]]:
    """The images, guarded against writers; or beside one, and the sentences that say so."""
    opened: list[Image] = []
    notes: list[str] = []
    for index, disk in enumerate(stream.disks):
        if not disk.path:
            absent = Absent(disk.name, index, disk.name in options.given_up)
            opened.append(Image(disk.name, disk.block_size, "", absent))
            continue
        try:
            device = await _open(disk, options, False, pool)
        except errors.InUse as why:
            if not options.force_share:
                raise
            notes.append(f"{why}.  It is read all the same: no cut of it is consistent, and nothing is proved")
            device = await _open(disk, options, True, pool)
        stack.push_async_callback(device.close)
        opened.append(Image(disk.name, disk.block_size, disk.path, device))
    return ImageSource(opened, bool(notes), pool), notes


def _refuse_unknown(stream: registry.Stream, now: SourceState, options: Options) -> None:
    """Of a disk that is not read the map is all there is.  Raises Usage where that is lost."""
    known = {one.name for one in now.volumes if not now.rebuilding}
    gone = [one.name for one in stream.disks if not one.path and one.name not in known | options.given_up]
    if gone:
        raise errors.Usage(
            f"stream {stream.label}: its state was lost, or is an older one, and {', '.join(gone)}, which its config"
            f' has no more, can be told by nothing else: put it back, or write {gone[0]} = "" among its disks: then'
            " its replica is emptied"
        )


async def _open(disk: registry.Disk, options: Options, force_share: bool, pool: Pool) -> ports.BlockDevice:
    device = await images.open_image(
        disk.path, False, format=disk.format or None, secret_file=options.secret_file, force_share=force_share,
        offload=pool,
    )  # fmt: skip
    # Only what a server exports has it, and only for such is loaded what speaks NBD.
    if getattr(device, "open_to_others", False) and not force_share:
        await device.close()
        raise errors.InUse(
            f"{disk.path}: its server lets others write to it; have it exported read-only, as `qemu-nbd -r` does, or"
            " give --force-share"
        )
    return device
