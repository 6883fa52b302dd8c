"""What stands in blocks before an epoch first writes to them, read in as few goes as can be."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from consumers import pieces
from engine import ports
from engine.store.leaves import Leaves
from engine.store.undo import PreImage
from schemas.extent import Extent, Ranges

Run = tuple[int, int]
"""Blocks [first, end)."""


class PreImages:
    """Reads those of one volume: number `index`, as large as its `leaves` say."""

    def __init__(self, index: int, device: ports.BlockDevice, leaves: Leaves) -> None:
        self._index, self._device, self._leaves = index, device, leaves
        self._volume = leaves.volume

    def all_of(self, runs: Ranges, found: list[list[PreImage]]) -> Iterator[Coroutine[Any, Any, None]]:
        """Work that may be done side by side; each has a place of its own in `found`, in order."""
        for group in pieces.groups(runs, self._bytes, lambda run: self._bytes(run) >= pieces.GROUP):
            found.append([])
            yield self._group(group, found[-1])

    async def _group(self, runs: Sequence[Run], place: list[PreImage]) -> None:
        if self._bytes(runs[0]) < pieces.GROUP:
            place += await self._short(runs)
            return
        for run in runs:
            place += await self.long(*run)

    def _bytes(self, run: Run) -> int:
        return (run[1] - run[0]) * self._volume.block_size

    async def long(self, first: int, end: int) -> list[PreImage]:
        """What stands in blocks [first, end), holes without their bytes."""
        size = self._volume.block_size
        images: list[PreImage] = []
        for part in await self._aligned(first * size, min(end * size, self._volume.size)):
            data = b"" if part.zero else await self._device.read(part.start, part.length)
            first, count = part.start // size, -(-part.length // size)
            images += self._images(first, count, self._leaves.read(first, count) if data else b"", data)
        return images

    async def _short(self, runs: Sequence[Run]) -> list[PreImage]:
        """The same for short runs: reading a hole costs less than asking where holes are."""
        size = self._volume.block_size
        ranges = [(first * size, min(end * size, self._volume.size) - first * size) for first, end in runs]
        digests = self._leaves.read_each([(first, end - first) for first, end in runs])
        found = await self._device.look(ranges, functools.partial(self._looked_at, runs, digests))
        return list(itertools.chain.from_iterable(found))

    def _looked_at(
        self, runs: Sequence[Run], digests: Sequence[bytes], number: int, data: memoryview
    ) -> list[PreImage]:
        size, whole, at = self._volume.block_size, bytes(data), runs[number][0]
        zero = [whole.count(0, low, low + size) == min(size, len(whole) - low) for low in range(0, len(whole), size)]
        images: list[PreImage] = []
        for is_zero, blocks in itertools.groupby(zero):
            count, low = len(list(blocks)), (at - runs[number][0]) * size
            done = at - runs[number][0]
            held = digests[number][done * 32 : (done + count) * 32]
            images += self._images(at, count, held, b"" if is_zero else whole[low : low + count * size])
            at += count
        return images

    def _images(self, first: int, count: int, held: bytes, data: bytes) -> list[PreImage]:
        """`count` blocks of digests `held` that hold `data`, or zeros without it, split by whether these are proved."""
        images: list[PreImage] = []
        for start, end, claimed in self._leaves.claims.runs(first, count):
            low, high = ((at - first) * self._volume.block_size for at in (start, end))
            digests = held[(start - first) * 32 : (end - first) * 32] if data else b""
            images.append(PreImage(self._index, start, end - start, claimed, digests, data[low:high]))
        return images

    async def _aligned(self, start: int, stop: int) -> list[Extent]:
        """[start, stop) as whole blocks of zeros and of data, data in pieces of a bounded size."""
        size = self._volume.block_size
        parts: list[Extent] = []
        holes = Ranges()
        for found in await self._device.extents(start, stop - start):
            if found.zero:
                end = found.end if found.end >= stop else found.end // size * size
                holes.add(-(-found.start // size) * size, end)
        for low, high in holes:
            parts.append(Extent(low, high - low, True))
        for low, high in holes.missing(start, stop):
            step = max(pieces.READ // size, 1) * size
            parts += [Extent(at, min(step, high - at)) for at in range(low, high, step)]
        return sorted(parts, key=lambda part: part.start)
