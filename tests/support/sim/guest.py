"""The source: disks that change between passes, and sometimes within one."""

from __future__ import annotations

import random

from engine.device.memory import MemoryDevice
from schemas.identity import Cut, Volume
from tests.support.sim.oracle import Oracle
from tests.support.sim.plan import Plan
from tests.support.sim.process import Faults, Process, SimDevice

BLOCK = 32
SECTOR = 8


class Guest:
    """The source: disks that change between passes, and sometimes within one."""

    def __init__(self, plan: Plan, chance: random.Random) -> None:
        self._plan, self._chance = plan, chance
        self.disks = [self._disk() for _ in range(plan.volumes)]
        self.changes = 0
        self._snapshot = self.key()

    def _disk(self) -> MemoryDevice:
        return MemoryDevice(self._chance.randrange(1, self._plan.blocks * BLOCK), SECTOR)

    async def plug(self) -> None:
        """One more disk, which somebody has written to before."""
        self.changes += 1
        self.disks.append(self._disk())
        await self.disks[-1].write(0, self._chance.randbytes(self.disks[-1].size))

    def key(self) -> tuple[bytes, ...]:
        return tuple(disk.content() for disk in self.disks)

    async def change(self) -> None:
        chance = self._chance
        self.changes += 1
        if chance.random() < 0.15:
            await self._revert()
            return
        if chance.random() < 0.3:
            self._snapshot = self.key()
        for _ in range(chance.randrange(1, 4)):
            disk = chance.choice(self.disks)
            if chance.random() < self._plan.resizes:
                await disk.resize(chance.randrange(1, (self._plan.blocks + 2) * BLOCK))
            length = chance.randrange(1, min(disk.size, 3 * BLOCK) + 1)
            start = chance.randrange(0, disk.size - length + 1)
            data = bytes(length) if chance.random() < 0.3 else chance.randbytes(length)
            await disk.write(start, data)

    async def _revert(self) -> None:
        """Back to a snapshot: what was changed since comes to be as it was."""
        for disk, content in zip(self.disks, self._snapshot, strict=False):
            await disk.resize(len(content))
            await disk.write(0, content)


class GuestSource:
    """The guest as a producer reads it."""

    def __init__(self, guest: Guest, oracle: Oracle, process: Process) -> None:
        self._guest, self._oracle, self._process = guest, oracle, process
        self.devices: list[SimDevice] = []
        self._began = 0

    async def begin(self) -> tuple[Volume, ...]:
        self._began = self._guest.changes
        for disk in self._guest.disks[len(self.devices) :]:
            self.devices.append(SimDevice(disk, self._process, Faults(self._process.chance)))
        self._oracle.cuts.add(self._guest.key())
        return tuple(Volume(f"vd{at}", disk.size, BLOCK) for at, disk in enumerate(self._guest.disks))

    async def cut(self) -> Cut:
        return Cut.CRASH if self._began == self._guest.changes else Cut.NONE

    async def end(self) -> None:
        """Nothing is held."""
