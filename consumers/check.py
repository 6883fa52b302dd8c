"""Does a replica hold what its digests say?  Every block is read from the medium; nothing is written."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from consumers.state import Told
from engine import digest, linux, ports, registry
from engine.store.leaves import Leaves
from schemas.extent import Extent, Ranges

_READ = 4 << 20
_SPAN = 1 << 30
"""Bytes whose extents are asked for at once."""
_ZEROS = bytes(1 << 20)


@dataclass(slots=True)
class Finding:
    """What was found of one volume.  Blocks; `sha256` of all its bytes where it was asked for."""

    volume: str
    size: int
    block_size: int
    blocks: int
    read: int = 0
    "Bytes of data that were read; the rest were holes."
    unclaimed: int = 0
    "Blocks whose content nobody has proved: not compared."
    bad: Ranges = field(default_factory=Ranges)
    root: bytes = b""
    sha256: str = ""

    @property
    def bad_blocks(self) -> int:
        return self.bad.total

    def bad_bytes(self) -> list[tuple[int, int]]:
        """(start, end) in bytes of each run of blocks that differ."""
        size = self.block_size
        return [(first * size, min(end * size, self.size)) for first, end in self.bad]


class Check:
    """Reads one volume and compares it with its digests."""

    def __init__(self, leaves: Leaves, device: ports.BlockDevice, offload: ports.Offload, told: Told) -> None:
        self._leaves, self._device, self._offload, self._told = leaves, device, offload, told
        self._sha: Any = None
        volume = leaves.volume
        self.finding = Finding(volume.name, volume.size, volume.block_size, volume.blocks)

    async def run(self, sha256: bool = False) -> Finding:
        """Raises DeviceFailed; a medium that is too short is all differences from there on."""
        self._sha = hashlib.sha256() if sha256 else None
        finding, size = self.finding, self._leaves.volume.size
        there = min(size, self._device.size)
        async for part in self._parts(there // finding.block_size * finding.block_size if there < size else size):
            if part.zero:
                await self._offload(self._hole, part)
            else:
                await self._device.evict([(part.start, part.length)])
                await self._device.look([(part.start, part.length)], functools.partial(self._data, part.start))
                finding.read += part.length
            self._told(part.length)
        if there < size:
            finding.bad.add(there // finding.block_size, finding.blocks)
        finding.unclaimed = finding.blocks - self._leaves.claims.count
        finding.root = b"" if finding.bad else await self._offload(self._leaves.root)
        finding.sha256 = self._sha.hexdigest() if self._sha is not None and there == size else ""
        return finding

    async def _parts(self, end: int) -> AsyncIterator[Extent]:
        """All bytes in order, as whole blocks: holes, and data in bounded pieces."""
        for start in range(0, end, _SPAN):
            stop = min(start + _SPAN, end)
            for part in _whole(await self._device.extents(start, stop - start), self.finding.block_size, stop):
                yield part

    def _hole(self, part: Extent) -> None:
        size = self.finding.block_size
        first, end = part.start // size, -(-part.end // size)
        for at in range(first, end, 1 << 15):
            count = min(1 << 15, end - at)
            have = self._leaves.read(at, count)
            if have.count(0) != len(have):
                self._compare(at, b"".join(digest.zeros(self._leaves.volume.length(at + n)) for n in range(count)))
        if self._sha is not None:
            for left in range(part.length, 0, -len(_ZEROS)):
                self._sha.update(_ZEROS[: min(left, len(_ZEROS))])

    def _data(self, start: int, _: int, data: memoryview) -> None:
        self._compare(start // self.finding.block_size, digest.of_pieces(start, data, self.finding.block_size))
        if self._sha is not None:
            self._sha.update(data)

    def _compare(self, first: int, digests: bytes) -> None:
        if self._leaves.read(first, len(digests) // 32) == digests:
            return
        for at in range(len(digests) // 32):
            block, value = first + at, digests[at * 32 : at * 32 + 32]
            if block in self._leaves.claims and not self._leaves.matches(block, value):
                self.finding.bad.add(block, block + 1)


def _whole(found: Sequence[Extent], size: int, stop: int) -> Iterator[Extent]:
    """Extents as whole blocks, data in bounded pieces: a block that is a hole in part is data."""
    holes, at = Ranges(), found[0].start
    for one in found:
        if one.zero:
            holes.add(-(-one.start // size) * size, one.end if one.end == stop else one.end // size * size)
    step = max(_READ // size, 1) * size
    for low, high in [*holes, (stop, stop)]:
        for start in range(at, low, step):
            yield Extent(start, min(step, low - start))
        if high > low:
            yield Extent(low, high - low, True)
        at = high


def drop_cache(disks: tuple[registry.Disk, ...]) -> None:
    """Let what is read next come from the medium: what QEMU's formats hold is read through the page cache."""
    for disk in disks:
        if os.path.isfile(disk.path):
            try:
                fd = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(fd)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)
            except OSError as why:
                raise linux.failure(why, disk.path, "read it from the medium", opening=True) from why
