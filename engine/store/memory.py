"""The File port in memory: what was not synced is lost, kept or torn by `lose`."""

from __future__ import annotations

import random


class MemoryFile:
    """An empty file."""

    path = "a file in memory"

    def __init__(self, sector: int = 16) -> None:
        self._durable = bytearray()
        self._cache = bytearray()
        self._unsynced: list[tuple[int, bytes]] = []
        self._sizes: list[int] = []
        self._sector = sector

    def size(self) -> int:
        return len(self._cache)

    def read(self, start: int, length: int) -> bytes:
        return bytes(self._cache[start : start + length])

    def write(self, start: int, data: bytes) -> None:
        _put(self._cache, start, data)
        self._unsynced.append((start, bytes(data)))

    def discard(self, start: int, length: int) -> None:
        end = min(start + length, len(self._cache))
        if start < end:
            self.write(start, bytes(end - start))

    def truncate(self, size: int) -> None:
        # As on a journalling file system: a size may be durable before the data that was written earlier.
        del self._cache[size:]
        self._cache.extend(bytes(size - len(self._cache)))
        self._unsynced.append((-1 - size, b""))

    def sync(self) -> None:
        self._durable[:] = self._cache
        self._unsynced.clear()

    def close(self) -> None:
        """Nothing is held open."""

    def lose(self, chance: random.Random) -> None:
        """A power cut: each unsynced write is there, is not, or is torn."""
        for start, data in self._unsynced:
            fate = chance.random()
            if fate < 0.4:
                continue
            if start < 0:
                size = -1 - start
                del self._durable[size:]
                self._durable.extend(bytes(size - len(self._durable)))
                continue
            end = len(data) if fate < 0.8 else chance.randrange(0, len(data) + 1, self._sector)
            _put(self._durable, start, data[:end])
        self._unsynced.clear()
        self._cache[:] = self._durable


def _put(side: bytearray, start: int, data: bytes) -> None:
    if data:
        side.extend(bytes(max(0, start - len(side))))
        side[start : start + len(data)] = data
