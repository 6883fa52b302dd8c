"""A Source of disk images at rest: raw files, block devices, and what QEMU can open, while nobody writes to them."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from engine import linux, ports
from engine.device.raw import RawDevice
from producers.absent import Absent
from producers.source import Unhinted
from schemas.extent import Extent
from schemas.identity import Cut, Volume

_CLOCK_STEP = 0.02
"""Seconds: two changes within one step of the file system's clock (at most 10 ms) look like one."""
_CLOCK_WAITS = 25

Seen = tuple[int, ...]
_SPAN = 1 << 30
T = TypeVar("T")


@dataclass(slots=True)
class Pass:
    """How far the reading of the source is, for people: bytes."""

    read: int = 0
    "Data read since the site was opened."


class Watched:
    """A device that tells a Pass what is read from it.  Everything else is the device's own."""

    def __init__(self, device: ports.BlockDevice, told: Pass) -> None:
        self._device, self._told = device, told

    @property
    def size(self) -> int:
        return self._device.size

    @property
    def fixed(self) -> bool:
        return self._device.fixed

    async def read(self, start: int, length: int) -> bytes:
        data = await self._device.read(start, length)
        self._told.read += length
        return data

    async def look(self, ranges: Sequence[tuple[int, int]], at: Callable[[int, memoryview], T]) -> list[T]:
        found = await self._device.look(ranges, at)
        self._told.read += sum(length for _, length in ranges)
        return found

    async def extents(self, start: int, length: int) -> Sequence[Extent]:
        return await self._device.extents(start, length)

    async def write(self, start: int, data: bytes) -> None:
        await self._device.write(start, data)

    async def scatter(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        await self._device.scatter(pieces)

    async def zero(self, start: int, length: int, keep: bool = False) -> None:
        await self._device.zero(start, length, keep)

    async def flush(self) -> None:
        await self._device.flush()

    async def evict(self, ranges: Sequence[tuple[int, int]]) -> None:
        await self._device.evict(ranges)

    async def resize(self, size: int) -> None:
        await self._device.resize(size)

    async def close(self) -> None:
        await self._device.close()


@dataclass(frozen=True, slots=True)
class Image:
    """One disk of the source: its volume's name and block size, its file, and the opened device.

    An Absent one has no file, and its device is not looked at.
    """

    name: str
    block_size: int
    path: str
    device: ports.BlockDevice


class ImageSource(Unhinted):
    """Disks read in passes, between which a VM may be started and stopped.

    During a pass nobody may open a raw image to write (engine/device/locks.py); for what qemu-nbd serves QEMU's own
    lock holds; another NBD server is taken at its word when it calls an export read-only.  `shared` images were opened
    although somebody may be writing to them: no cut of them is consistent.
    """

    def __init__(
        self, images: Sequence[Image], shared: bool = False, offload: ports.Offload = asyncio.to_thread,
        told: Pass | None = None,
    ) -> None:  # fmt: skip
        self.told = told or Pass()
        self._images = images
        self._there = [image for image in images if not isinstance(image.device, Absent)]
        self._shared = shared
        self._offload = offload
        self._seen: list[Seen] = []
        self.devices: Sequence[ports.BlockDevice] = [
            image.device if isinstance(image.device, Absent) else Watched(image.device, self.told) for image in images
        ]

    @property
    def absent(self) -> list[Absent]:
        """The disks that are not read."""
        return [image.device for image in self._images if isinstance(image.device, Absent)]

    async def begin(self, cut: bool = True) -> tuple[Volume, ...]:
        """As Source.begin.  Raises InUse, naming who has an image open to write."""
        for image in self._images:
            if isinstance(image.device, RawDevice):
                await image.device.guard()
        await self._settled_clock()
        self._seen = await self._states()
        return self.volumes()

    async def _settled_clock(self) -> None:
        """Wait until a change from now on must show in the time stamp of every image.

        Somebody who never stops writing is not waited for: the pass sees what he does.
        """
        for _ in range(_CLOCK_WAITS):
            age = time.time() - await self._offload(_newest, [image.path for image in self._there])
            if not 0 <= age < _CLOCK_STEP:  # a stamp of the future changes with the next write, too
                return
            await asyncio.sleep(_CLOCK_STEP - age)

    def volumes(self) -> tuple[Volume, ...]:
        """The disks as they are now."""
        return tuple(Volume(one.name, one.device.size, one.block_size) for one in self._images)

    async def data(self) -> int:
        """Bytes that are not known to be zeros: what one pass reads at most."""
        total = 0
        for device in self.devices:
            size = device.size
            for start in range(0, size, _SPAN):
                found = await device.extents(start, min(_SPAN, size - start))
                total += sum(extent.length for extent in found if not extent.zero)
        return total

    async def cut(self) -> Cut:
        """CRASH when nothing has changed since `begin`: what a powered-off machine's disk is; else NONE."""
        if self._shared:
            return Cut.NONE
        return Cut.CRASH if await self._states() == self._seen else Cut.NONE

    async def same(self) -> bool:
        """Whether it is seen that nothing has changed since the pass before, by the signs of `cut`: do not read it."""
        now = await self._states()
        return not self._shared and now == self._seen and all(now)

    async def _states(self) -> list[Seen]:
        return [await self._offload(_state, image.path) for image in self._there]

    async def end(self) -> None:
        for image in self._images:
            if isinstance(image.device, RawDevice):
                await image.device.unguard()


def _newest(paths: Sequence[str]) -> float:
    """When any of the files was last written to, in seconds since 1970."""
    return max((os.stat(path).st_mtime for path in paths if os.path.exists(path)), default=0.0)


def _state(path: str) -> Seen:
    """What changes when somebody writes to the image: size and times of a file, sectors written of a block device.

    Of an NBD URL nothing is seen.
    """
    if not os.path.isabs(path):
        return ()
    try:
        found = os.stat(path)
        if not stat.S_ISBLK(found.st_mode):
            return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # writes that wait in the page cache are counted now
        finally:
            os.close(fd)
        place = f"/sys/dev/block/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}/stat"
        counts = Path(place).read_text().split()
    except OSError as why:
        raise linux.failure(why, path, "see whether it changes", opening=True) from why
    return found.st_rdev, int(counts[6]), int(counts[13]) if len(counts) > 13 else 0
