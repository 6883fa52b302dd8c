"""A process that can die at any step: its files, devices and stores count steps, and after death nothing answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from engine import errors
from engine.device.memory import MemoryDevice
from engine.device.serial import Serial
from engine.store.memory import MemoryFile
from engine.store.replicas import KeptEpoch, MemoryReplicaStore, Outgoing, State, Update
from engine.store.sources import MemorySourceStore, SourceState
from schemas import events
from schemas.extent import Extent

_YIELDS = 0.15
"""How often others run between two steps."""


class Crash(BaseException):
    """The process is gone."""


class Process:
    """One incarnation.  `countdown` steps from now it dies (None: it lives); a step takes up to `longest` s."""

    def __init__(self, chance: random.Random, countdown: int | None, longest: float = 0.02) -> None:
        self.chance = chance
        self.countdown = countdown
        self.alive = True
        self._longest = longest

    def step(self) -> None:
        """Before and after every effect: the moment at which it may be the last one."""
        if not self.alive:
            raise Crash
        if self.countdown is not None:
            self.countdown -= 1
            if self.countdown <= 0:
                self.alive = False
                raise Crash

    async def pause(self) -> None:
        """A step at which others may run."""
        self.step()
        if self.chance.random() < _YIELDS:
            await asyncio.sleep(self.chance.random() * self._longest)
            self.step()

    async def gate(self, _operation: str, _topic: str) -> None:
        await self.pause()


class SimFile:
    """A file as one process sees it."""

    def __init__(self, file: MemoryFile, process: Process) -> None:
        self._file, self._process = file, process
        self.path = file.path

    def size(self) -> int:
        return self._file.size()

    def read(self, start: int, length: int) -> bytes:
        return self._file.read(start, length)

    def write(self, start: int, data: bytes) -> None:
        self._process.step()
        self._file.write(start, data)
        self._process.step()

    def discard(self, start: int, length: int) -> None:
        self._process.step()
        self._file.discard(start, length)

    def truncate(self, size: int) -> None:
        self._process.step()
        self._file.truncate(size)
        self._process.step()

    def sync(self) -> None:
        self._process.step()
        self._file.sync()
        self._process.step()

    def close(self) -> None:
        """Files stay."""


class Faults:
    """What a medium does wrong: chances in 1 for each operation."""

    def __init__(self, chance: random.Random, drop: float = 0.0, fail_flush: float = 0.0) -> None:
        self.chance, self.drop, self.fail_flush = chance, drop, fail_flush


class SimDevice(Serial):
    """A device as one process sees it."""

    def __init__(self, device: MemoryDevice, process: Process, faults: Faults) -> None:
        self._device, self._process, self._faults = device, process, faults
        self.fixed = False

    @property
    def size(self) -> int:
        return self._device.size

    async def read(self, start: int, length: int) -> bytes:
        await self._process.pause()
        return await self._device.read(start, length)

    async def write(self, start: int, data: bytes) -> None:
        await self._process.pause()
        if self._faults.chance.random() >= self._faults.drop:
            await self._device.write(start, data)
        self._process.step()

    async def zero(self, start: int, length: int, keep: bool = False) -> None:
        await self.write(start, bytes(length))

    async def flush(self) -> None:
        await self._process.pause()
        if self._faults.chance.random() < self._faults.fail_flush:
            self._device.fail_flush()
            raise errors.DeviceFailed("flush: I/O error")
        await self._device.flush()
        self._process.step()

    async def extents(self, start: int, length: int) -> Sequence[Extent]:
        await self._process.pause()
        return await self._device.extents(start, length)

    async def evict(self, ranges: Sequence[tuple[int, int]]) -> None:
        await self._process.pause()
        await self._device.evict(ranges)

    async def resize(self, size: int) -> None:
        await self._process.pause()
        await self._device.resize(size)
        self._process.step()

    async def close(self) -> None:
        """Devices stay."""


class SimSourceStore:
    """A source's state as one process sees it."""

    def __init__(self, store: MemorySourceStore, process: Process) -> None:
        self._store, self._process = store, process

    def load(self) -> SourceState:
        return self._store.load()

    def commit(self, state: SourceState) -> None:
        self._process.step()
        self._store.commit(state)
        self._process.step()

    def close(self) -> None:
        """Stores stay."""


class SimReplicaStore:
    """A replica's state as one process sees it; `watch` hears of every commit that took place."""

    def __init__(self, store: MemoryReplicaStore, process: Process, watch: Callable[[Update], None]) -> None:
        self._store, self._process, self._watch = store, process, watch

    def load(self) -> State:
        return self._store.load()

    def commit(self, update: Update) -> None:
        self._process.step()
        self._store.commit(update)
        self._watch(update)
        self._process.step()

    def kept(self) -> list[KeptEpoch]:
        return self._store.kept()

    def definition(self, epoch: int) -> events.Defined | None:
        return self._store.definition(epoch)

    def forget_before(self, epoch: int) -> None:
        self._process.step()
        self._store.forget_before(epoch)
        self._process.step()

    def outbox(self) -> list[Outgoing]:
        return self._store.outbox()

    def published(self, number: int) -> None:
        self._process.step()
        self._store.published(number)
        self._process.step()

    def close(self) -> None:
        """Stores stay."""
