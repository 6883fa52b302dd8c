"""`look` and `scatter` by `read` and `write`, one after the other: for devices where one wait more is no loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Serial:
    """What a BlockDevice can inherit."""

    async def read(self, start: int, length: int) -> bytes:
        """As BlockDevice.read."""
        raise NotImplementedError

    async def write(self, start: int, data: bytes) -> None:
        """As BlockDevice.write."""
        raise NotImplementedError

    async def look(self, ranges: Sequence[tuple[int, int]], at: Callable[[int, memoryview], T]) -> list[T]:
        """As BlockDevice.look."""
        return [at(number, memoryview(await self.read(*one))) for number, one in enumerate(ranges)]

    async def scatter(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """As BlockDevice.scatter."""
        for start, data in pieces:
            await self.write(start, data)
