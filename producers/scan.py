"""Scan: read a volume, compare prints with the map, and give what differs; or give what some replica may lack.

Holes are told by extents and never read.  Windows are read and hashed a few ahead of their use.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine import digest, ports
from engine.store.blockmap import ZERO_PRINT, VolumeMap
from producers.absent import Absent
from schemas import extent
from schemas.extent import Ranges

WINDOW = 4 << 20
"""Bytes read and hashed at once: large enough that a thread's wake-up is lost in it, small enough for memory."""
_SPAN = 1 << 30
"""Bytes whose extents are asked for at once, in whole blocks."""
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Blocks:
    """Whole blocks from `first` on that hold data: bytes, prints and digests, each joined."""

    volume: int
    first: int
    data: bytes
    prints: bytes
    digests: bytes


@dataclass(frozen=True, slots=True)
class Zeros:
    """`count` blocks of zeros from `first` on."""

    volume: int
    first: int
    count: int


Found = Blocks | Zeros
_Job = Callable[[], Awaitable[list[Found]]]
_OfData = Callable[[int, memoryview], list[Found]]
_OfZeros = Callable[[int, int], list[Found]]


class Scan:
    """Reads one volume against its map.  `seed` keys the prints."""

    def __init__(
        self, index: int, device: ports.BlockDevice, known: VolumeMap, seed: int, offload: ports.Offload = ports.inline
    ) -> None:
        self._index = index
        self._device = device
        self._map = known
        self._seed = seed
        self._offload = offload

    def changed(self, hint: Ranges | None = None) -> AsyncGenerator[Found, None]:
        """Blocks with a digest whose content is another one now.  To be closed by who leaves it early.

        With a `hint` only those are read that some of its bytes lie in.
        """
        if hint is not None:
            return self._walk(self._hinted(hint), self._differing, self._zeros_differing)
        volume = self._map.volume
        step, known = max(WINDOW // volume.block_size, 1), Ranges()
        for start, end in self._map.known.set_runs(0, volume.blocks):
            # Whole windows: what a killed baseline has not sent yet is not read here; scattered blocks cost no more.
            known.add(start // step * step, min(-(-end // step) * step, volume.blocks))
        return self._walk(known, self._differing, self._zeros_differing)

    def _hinted(self, hint: Ranges) -> Ranges:
        """Blocks with a digest that the hint touches."""
        size, known, found = self._map.volume.block_size, self._map.known, Ranges()
        for start, end in hint.within(0, self._map.volume.size):
            first = start // size
            for low, high in known.set_runs(first, -(-end // size) - first):
                found.add(low, high)
        return found

    async def unhinted(self, hint: Ranges, chosen: Iterable[int]) -> int | None:
        """The first of the `chosen` blocks that is not what the map says, though the hint does not name it: it lies."""
        named, size = self._hinted(hint), self._map.volume.block_size
        clean = [block for block in chosen if block in self._map.known and block not in named]
        prints = {block: self._map.prints(block, 1) for block in clean}
        ranges = [(block * size, self._map.volume.length(block)) for block in clean]
        found = await self._device.look(ranges, lambda _, data: self._prints(data)[0])
        return next((block for block, now in zip(clean, found, strict=True) if now != prints[block]), None)

    def unsure(self) -> AsyncGenerator[Found, None]:
        """Every block that some replica may lack, as it is now.  To be closed by who leaves it early."""
        wanted = Ranges(self._map.unsure.set_runs(0, self._map.volume.blocks))
        return self._walk(wanted, self._all, self._zeros_all)

    async def _walk(
        self,
        wanted: Ranges,
        data: _OfData,
        zeros: _OfZeros,
    ) -> AsyncGenerator[Found, None]:
        """Windows of `wanted` in order, `_AHEAD` of them under way at any time."""
        if isinstance(self._device, Absent):
            return
        size = self._map.volume.block_size
        span = max(_SPAN // size, 1) * size
        waiting: deque[asyncio.Task[list[Found]]] = deque()
        try:
            for start, end in wanted:
                for low in range(start * size, min(end * size, self._map.volume.size), span):
                    high = min(low + span, end * size, self._map.volume.size)
                    async for job in self._jobs(low, high, data, zeros):
                        waiting.append(asyncio.ensure_future(job()))
                        if len(waiting) > _AHEAD:
                            for found in await waiting.popleft():
                                yield found
            while waiting:
                for found in await waiting.popleft():
                    yield found
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _jobs(
        self,
        low: int,
        high: int,
        data: _OfData,
        zeros: _OfZeros,
    ) -> AsyncIterator[_Job]:
        size = self._map.volume.block_size
        holes = Ranges()
        for found in await self._device.extents(low, high - low):
            if found.zero:
                end = found.end if found.end == self._map.volume.size else found.end // size * size
                holes.add(-(-found.start // size) * size, end)
        before: list[tuple[int, int]] = []
        for start, end, hole in _both(holes, low, high):
            if hole:
                before.append((start // size, -(-end // size) - start // size))
                continue
            step = max(WINDOW // size, 1) * size
            for at in range(start, end, step):
                # A hole waits for the data behind it: a thread's wake-up costs more than to look at its prints.
                yield self._read_job(functools.partial(_all_of, zeros, before), data, at, min(step, end - at))
                before = []
        if before:
            yield self._job(functools.partial(_all_of, zeros, before))

    def _job(self, work: Callable[[], list[Found]]) -> _Job:
        async def run() -> list[Found]:
            result: list[Found] = await self._offload(work)
            return result

        return run

    def _read_job(self, before: Callable[[], list[Found]], work: _OfData, start: int, length: int) -> _Job:
        async def run() -> list[Found]:
            first = start // self._map.volume.block_size
            (found,) = await self._device.look([(start, length)], lambda _, data: before() + work(first, data))
            return found

        return run

    def _prints(self, data: memoryview) -> list[bytes]:
        """The print of each block, 16 zero bytes for one of zeros."""
        size = self._map.volume.block_size
        zero = digest.fingerprint(bytes(size), self._seed)
        prints = []
        for at in range(0, len(data), size):
            part = data[at : at + size]
            value = digest.fingerprint(part, self._seed)
            # The secret keeps a guest from forging a print of zeros; the comparison keeps luck from it.
            is_zero = value == zero and bytes(part).count(0) == size
            if len(part) < size:
                is_zero = bytes(part).count(0) == len(part)
            prints.append(ZERO_PRINT if is_zero else value)
        return prints

    def _differing(self, first: int, data: memoryview) -> list[Found]:
        prints = self._prints(data)
        stored, known = self._map.prints(first, len(prints)), self._map.known
        joined = b"".join(prints)
        if joined == stored:
            return []
        differ = [
            at for at, value in enumerate(prints) if value != stored[at * 16 : at * 16 + 16] and first + at in known
        ]
        return self._found(first, data, prints, differ)

    def _all(self, first: int, data: memoryview) -> list[Found]:
        prints = self._prints(data)
        return self._found(first, data, prints, list(range(len(prints))))

    def _found(self, first: int, data: memoryview, prints: list[bytes], chosen: list[int]) -> list[Found]:
        size = self._map.volume.block_size
        found: list[Found] = []
        for low, high in extent.runs(at for at in chosen if prints[at] == ZERO_PRINT):
            found.append(Zeros(self._index, first + low, high - low))
        for low, high in extent.runs(at for at in chosen if prints[at] != ZERO_PRINT):
            part = bytes(data[low * size : high * size])
            digests = digest.of_pieces(0, part, size)
            found.append(Blocks(self._index, first + low, part, b"".join(prints[low:high]), digests))
        return found

    def _zeros_differing(self, first: int, count: int) -> list[Found]:
        """Runs of known blocks in a hole that the map does not have as zeros."""
        differ = Ranges()
        for start, end in self._map.known.set_runs(first, count):
            for at in range(start, end, 1 << 16):
                size = min(1 << 16, end - at)
                stored = self._map.prints(at, size)
                if stored.count(0) != len(stored):
                    for low, high in extent.runs(
                        block for block in range(size) if stored[block * 16 : block * 16 + 16] != ZERO_PRINT
                    ):
                        differ.add(at + low, at + high)
        return [Zeros(self._index, start, end - start) for start, end in differ]

    def _zeros_all(self, first: int, count: int) -> list[Found]:
        return [Zeros(self._index, first, count)]


def _all_of(zeros: _OfZeros, holes: Sequence[tuple[int, int]]) -> list[Found]:
    return [one for hole in holes for one in zeros(*hole)]


def _both(holes: Ranges, low: int, high: int) -> Iterator[tuple[int, int, bool]]:
    """[low, high) in order, as (start, end, whether a hole)."""
    at = low
    for start, end in list(holes.within(low, high)):
        if at < start:
            yield at, start, False
        yield start, end, True
        at = end
    if at < high:
        yield at, high, False


def pieces(found: Found, block_size: int, most: int) -> Iterator[Found]:
    """What was found, data in pieces of at most `most` bytes: as much as one event may hold."""
    if not isinstance(found, Blocks):
        yield found
        return
    step = max(most // block_size, 1)
    for at in range(0, len(found.prints) // 16, step):
        data = found.data[at * block_size : (at + step) * block_size]
        prints, digests = found.prints[at * 16 : (at + step) * 16], found.digests[at * 32 : (at + step) * 32]
        yield Blocks(found.volume, found.first + at, data, prints, digests)
