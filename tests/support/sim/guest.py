"""The source: disks and a machine that change between passes, and sometimes within one."""

from __future__ import annotations

import random

from engine.device.memory import MemoryDevice
from schemas import events
from schemas.identity import Cut, Volume
from tests.support import defining
from tests.support.sim.oracle import Oracle
from tests.support.sim.plan import Plan
from tests.support.sim.process import Faults, Process, SimDevice

BLOCK = 32
SECTOR = 8


class Guest:
    """The source: disks and a machine that change between passes, and sometimes within one."""

    def __init__(self, plan: Plan, chance: random.Random) -> None:
        self._plan, self._chance = plan, chance
        self.disks = [MemoryDevice(chance.randrange(1, plan.blocks * BLOCK), SECTOR) for _ in range(plan.volumes)]
        self.changes = 0
        self._machines = random.Random(self.key()[0])
        self.machine = self._another_machine()
        self._snapshot = self.key(), self.machine

    def key(self) -> tuple[bytes, ...]:
        return tuple(disk.content() for disk in self.disks)

    def _another_machine(self) -> events.Defined:
        """One of a few, so that it comes to be again what it was."""
        return defining.machine(self._machines.randrange(4), self._machines.choice((b"", b"nvram")))

    async def change(self) -> None:
        chance = self._chance
        self.changes += 1
        if self._machines.random() < 0.3:
            self.machine = self._another_machine()
        if chance.random() < 0.15:
            await self._revert()
            return
        if chance.random() < 0.3:
            self._snapshot = self.key(), self.machine
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
        contents, self.machine = self._snapshot
        for disk, content in zip(self.disks, contents, strict=True):
            await disk.resize(len(content))
            await disk.write(0, content)


class GuestSource:
    """The guest as a producer reads it."""

    def __init__(self, guest: Guest, oracle: Oracle, process: Process) -> None:
        self._guest, self._oracle = guest, oracle
        self.devices = [SimDevice(disk, process, Faults(process.chance)) for disk in guest.disks]
        self._began = 0
        self.machine = guest.machine

    async def begin(self) -> tuple[Volume, ...]:
        self._began = self._guest.changes
        self.machine = self._guest.machine
        self._oracle.cuts.add((self._guest.key(), self.machine))
        return tuple(Volume(f"vd{at}", disk.size, BLOCK) for at, disk in enumerate(self._guest.disks))

    async def cut(self) -> Cut:
        return Cut.CRASH if self._began == self._guest.changes else Cut.NONE

    async def end(self) -> None:
        """Nothing is held."""
