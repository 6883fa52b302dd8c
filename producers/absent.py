"""A disk that its stream has no more: its volume keeps its number, and nothing is read of it.

What all replicas have of it stays as it is, root and all.  Where a part of it has never travelled, no replica has it
whole, and none ever will: then the volume is given up, and holds no bytes from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine import errors
from engine.device.serial import Serial
from engine.store.blockmap import BlockMap
from schemas.extent import Extent
from schemas.identity import Volume

Known = Callable[[], tuple[tuple[Volume, ...], BlockMap]]
"""The volumes as they are stored, and their maps; no map before it is loaded."""


class Absent(Serial):
    """A BlockDevice in the place of volume `index`.  `know` it before its size is asked for."""

    fixed = True

    def __init__(self, name: str, index: int, given_up: bool) -> None:
        self.name, self._index, self._given_up = name, index, given_up
        self._known: Known | None = None
        self._looked = False

    def know(self, known: Known) -> None:
        self._known = known

    @property
    def size(self) -> int:
        """As large as it was left; 0 where it is given up."""
        volumes, maps = self._known() if self._known is not None else ((), BlockMap([]))
        if self._given_up or self._index >= len(volumes):
            return 0
        if not self._looked and self._index < len(maps.volumes):
            self._looked, self._given_up = True, not maps.volumes[self._index].travelled()
        return 0 if self._given_up else volumes[self._index].size

    async def read(self, start: int, length: int) -> bytes:
        """Raises NotFound."""
        raise errors.NotFound(f"{self.name} is not read any more (bytes {start} to {start + length} of it)")

    async def extents(self, start: int, length: int) -> Sequence[Extent]:
        """None: of no byte is anything known."""
        return []

    async def zero(self, start: int, length: int, keep: bool = False) -> None:
        """Raises Usage, as all that would change it."""
        raise errors.Usage(f"{self.name} is not there (bytes {start} to {start + length}, keep {keep})")

    async def resize(self, size: int) -> None:
        """As `zero`."""
        raise errors.Usage(f"{self.name} is not there, and cannot have {size} bytes")

    async def flush(self) -> None:
        """Nothing was written."""

    async def evict(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Nothing is cached."""

    async def close(self) -> None:
        """Nothing is held."""
