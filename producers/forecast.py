"""What a pass would do, found out by reading only: how much is read, what would travel, how fast the source is."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from engine import ports, registry
from engine.device import images
from engine.pool import Pool
from engine.store import peek
from engine.store.blockmap import MapFiles, VolumeMap
from engine.store.sources import SourceState
from producers import state
from producers.image import Pass, Watched
from producers.scan import Blocks, Scan
from schemas.extent import Ranges
from schemas.identity import GENESIS, Volume

_SPAN = 1 << 30
_STEP = 4 << 20
SAMPLE = 64 << 20
"""Bytes that are read to see how fast the source is."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes, and bytes per second.  `known` is False where the whole source travels, as a first time."""

    size: int
    data: int
    travels: int
    zeros: int
    speed: float
    known: bool


class _Shadow:
    """A File that is only read: what the map would change as it is loaded stays undone."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
        self._size = path.stat().st_size

    def size(self) -> int:
        return self._size

    def read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)

    def write(self, start: int, data: bytes) -> None:
        """Nothing."""

    def discard(self, start: int, length: int) -> None:
        """Nothing."""

    def truncate(self, size: int) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def close(self) -> None:
        self._file.close()


class _Cut(Watched):
    """The first `size` bytes of a device: what the map knows of one that has grown."""

    def __init__(self, device: ports.BlockDevice, size: int) -> None:
        super().__init__(device, Pass())
        self._size = size

    @property
    def size(self) -> int:
        return self._size


async def of(disk: registry.Disk, directory: Path, secret_file: str, force_share: bool) -> Forecast:
    """Look at the source, and at its map where there is one.  Raises as open_image, NotFound, Damaged."""
    pool = Pool("forecast")
    device = await images.open_image(
        disk.path, False, format=disk.format or None, secret_file=secret_file, force_share=force_share, offload=pool
    )
    try:
        known = _known(directory)
        holes = await _holes(device)
        speed = await _speed(device, holes)
        data = device.size - holes.total
        travels = await _differing(device, directory, known, holes, pool) if known else data
        return Forecast(device.size, data, travels, holes.total, speed, known is not None)
    finally:
        await pool.idle()
        await device.close()
        pool.close()


def _known(directory: Path) -> SourceState | None:
    """The state of a source that has a map to compare with; None for a first time."""
    if not (directory / state.STATE).exists():
        return None
    found = peek.source(directory / state.STATE)
    return found if found.chain != GENESIS and found.volumes and not found.rebuilding else None


async def _holes(device: ports.BlockDevice) -> Ranges:
    holes = Ranges()
    for start in range(0, device.size, _SPAN):
        for found in await device.extents(start, min(_SPAN, device.size - start)):
            if found.zero:
                holes.add(found.start, found.end)
    return holes


async def _speed(device: ports.BlockDevice, holes: Ranges) -> float:
    """Bytes per second of reading data, from the medium as far as it can be; 0 where there is none."""
    done, began = 0, time.monotonic()
    for low, high in holes.missing(0, device.size):
        for start in range(low, high, _STEP):
            length = min(_STEP, high - start)
            await device.evict([(start, length)])
            await device.read(start, length)
            done += length
            if done >= SAMPLE or time.monotonic() - began > 1.0:
                return done / max(time.monotonic() - began, 1e-6)
    return done / max(time.monotonic() - began, 1e-6)


async def _differing(device: ports.BlockDevice, directory: Path, known: SourceState, holes: Ranges, pool: Pool) -> int:
    """Bytes of data that differ from the map, or that some replica may lack."""
    old = known.volumes[0]
    size = min(old.size, device.size)
    if not size:
        return device.size - holes.total
    files = [_Shadow(directory / f"0.{part}") for part in ("digests", "known", "prints", "unsure")]
    try:
        volume = VolumeMap(Volume(old.name, size, old.block_size), MapFiles(*files))
        travels = Ranges()
        for start, end in volume.unsure.set_runs(0, volume.volume.blocks):
            travels.add(start * old.block_size, min(end * old.block_size, size))
        for start, end in holes:
            travels.remove(start, end)
        async with contextlib.aclosing(Scan(0, _Cut(device, size), volume, known.seed, pool).changed()) as walk:
            async for found in walk:
                if isinstance(found, Blocks):
                    start = found.first * old.block_size
                    travels.add(start, start + len(found.data))
        for start, end in holes.missing(size, device.size):
            travels.add(start, end)
        return travels.total
    finally:
        for file in files:
            file.close()
