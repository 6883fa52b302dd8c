"""A target over devices and files that write down what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consumers.block import Target, Touched
from engine import digest
from engine.device.memory import MemoryDevice
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from engine.store.undo import PreImage, UndoLog
from schemas import events
from schemas.identity import GENESIS, Volume

BLOCK = 64
FITS = (events.Fit(GENESIS),)
Change = events.Written | events.Zeroed


class Noted(MemoryDevice):
    """A device that notes what is done to it, and may do less than it is told."""

    def __init__(self, name: str, size: int, order: list[str]) -> None:
        super().__init__(size, 16)
        self.name, self.order = name, order
        self.drops: Callable[[int], bool] = lambda _start: False
        self.reads: list[tuple[int, int]] = []

    async def read(self, start: int, length: int) -> bytes:
        self.reads.append((start, length))
        return await super().read(start, length)

    async def write(self, start: int, data: bytes) -> None:
        self.order.append(f"write {self.name}")
        if not self.drops(start):
            await super().write(start, data)

    async def flush(self) -> None:
        self.order.append(f"flush {self.name}")
        await super().flush()

    async def evict(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.order += [f"evict {self.name}" for _ in ranges]


class NotedFile(MemoryFile):
    """A file that notes when it is written and synced."""

    def __init__(self, name: str, order: list[str]) -> None:
        super().__init__()
        self.name, self.order = name, order

    def write(self, start: int, data: bytes) -> None:
        self.order.append(f"write {self.name}")
        super().write(start, data)

    def sync(self) -> None:
        self.order.append(f"sync {self.name}")
        super().sync()


@dataclass
class Bench:
    """A target of some volumes, and the order in which things happen to its media."""

    sizes: tuple[int, ...] = (10 * BLOCK,)
    order: list[str] = field(default_factory=list)
    devices: list[Noted] = field(init=False)
    undo: NotedFile = field(init=False)
    target: Target = field(init=False)

    def __post_init__(self) -> None:
        self.devices = [Noted(f"device{at}", 0, self.order) for at in range(len(self.sizes))]
        self.undo = NotedFile("undo", self.order)
        self.target = Target(self.devices, UndoLog(self.undo), self._leaves)

    def _leaves(self, at: int, volume: Volume) -> Leaves:
        return Leaves(volume, NotedFile(f"digests{at}", self.order), NotedFile(f"claims{at}", self.order))

    async def begin(self, *sizes: int) -> Touched:
        volumes = tuple(Volume(f"vd{at}", size, BLOCK) for at, size in enumerate(sizes or self.sizes))
        return await self.target.begin(events.Open(volumes, FITS))

    async def apply(self, *changes: Change) -> Touched:
        """One epoch of these changes; what it did to the media is in `order`."""
        touched = await self.begin()
        self.order.clear()
        await self.target.apply(changes, touched)
        return touched

    async def settled(self, *changes: Change) -> None:
        """One epoch of these changes, and all before it is forgotten."""
        touched = await self.apply(*changes)
        await self.target.flush()
        await self.target.read_back([touched])
        self.target.undo.truncate(16)
        self.order.clear()

    def images(self) -> list[PreImage]:
        return list(self.target.undo.newest_first(16))[::-1]

    @property
    def device(self) -> Noted:
        return self.devices[0]

    @property
    def leaves(self) -> Leaves:
        return self.target.leaves[0]

    def claimed(self) -> list[int]:
        return [at for at in range(self.leaves.volume.blocks) if at in self.leaves.claims]


def written(start: int, data: bytes, volume: int = 0) -> events.Written:
    return events.Written(volume, start, digest.of_pieces(start, data, BLOCK), data)


def zeroed(start: int, length: int, volume: int = 0) -> events.Zeroed:
    return events.Zeroed(volume, start, length)


def block(fill: bytes, count: int = 1) -> bytes:
    return fill * (BLOCK * count)
