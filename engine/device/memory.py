"""A block device in memory: what a medium does, its cache and its losses included.

Writes go to a cache over the durable bytes; `flush` makes them durable; `lose` is a power cut, after which each
unflushed write is there, is not, or is torn at a sector, as a `random.Random` says.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from engine import errors
from engine.device.serial import Serial
from schemas.extent import Extent


class MemoryDevice(Serial):
    """`size` bytes of zeros.  `sector` is the unit that is never torn."""

    def __init__(self, size: int, sector: int = 512) -> None:
        self._durable = bytearray(size)
        self._cache = bytearray(size)
        self._unflushed: list[tuple[int, bytes]] = []
        self._sector = sector
        self.fixed = False

    @property
    def size(self) -> int:
        return len(self._cache)

    def content(self) -> bytes:
        """Everything, as a read would give it."""
        return bytes(self._cache)

    async def read(self, start: int, length: int) -> bytes:
        if start + length > len(self._cache):
            raise errors.DeviceFailed(f"read of {start}..{start + length} on a device of {len(self._cache)} bytes")
        return bytes(self._cache[start : start + length])

    async def write(self, start: int, data: bytes) -> None:
        if start + len(data) > len(self._cache):
            raise errors.DeviceFailed(f"write of {start}..{start + len(data)} on a device of {len(self._cache)} bytes")
        self._cache[start : start + len(data)] = data
        self._unflushed.append((start, bytes(data)))

    async def zero(self, start: int, length: int, keep: bool = False) -> None:
        await self.write(start, bytes(length))

    async def flush(self) -> None:
        for start, data in self._unflushed:
            self._durable[start : start + len(data)] = data
        self._unflushed.clear()

    def fail_flush(self) -> None:
        """A flush failed, and what it lost counts as clean: reads show it until it is evicted, the medium lacks it."""
        self._unflushed.clear()

    async def extents(self, start: int, length: int) -> Sequence[Extent]:
        if start + length > len(self._cache):
            raise errors.DeviceFailed(f"extents of {start}..{start + length}, size {len(self._cache)}")
        found: list[Extent] = []
        for at in range(start, start + length, self._sector):
            size = min(self._sector, start + length - at)
            zero = not any(self._cache[at : at + size])
            if found and found[-1].zero == zero:
                found[-1] = Extent(found[-1].start, found[-1].length + size, zero)
            else:
                found.append(Extent(at, size, zero))
        return found

    async def evict(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Clean pages leave the cache: the next read shows the medium, with what is not flushed yet."""
        for one in ranges:
            self._evict(*one)

    def _evict(self, start: int, length: int) -> None:
        end = min(start + length, len(self._cache))
        self._cache[start:end] = self._durable[start:end]
        for at, data in self._unflushed:
            low, high = max(at, start), min(at + len(data), end)
            if low < high:
                self._cache[low:high] = data[low - at : high - at]

    async def resize(self, size: int) -> None:
        if self.fixed and size != self.size:
            raise errors.Usage(f"a device of {self.size} bytes cannot become one of {size}")
        # A resize reaches the medium at once, as a journal's own transaction does; data before it need not.
        for side in (self._cache, self._durable):
            del side[size:]
            side.extend(bytes(size - len(side)))
        self._unflushed = [(at, data[: max(0, size - at)]) for at, data in self._unflushed]

    async def close(self) -> None:
        """Nothing is held open."""

    def lose(self, chance: random.Random) -> None:
        """A power cut."""
        for start, data in self._unflushed:
            fate = chance.random()
            if fate < 0.4:
                continue
            end = len(data) if fate < 0.8 else chance.randrange(0, len(data) + 1, self._sector)
            self._durable[start : start + end] = data[:end]
        self._unflushed.clear()
        self._cache[:] = self._durable
