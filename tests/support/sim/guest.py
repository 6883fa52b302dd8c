"""The source: disks and a machine that change between passes, and sometimes within one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine import ports
from engine.device.memory import MemoryDevice
from producers.anchor import Anchor, Kept
from producers.source import Source, Unhinted
from schemas import events
from schemas.extent import Ranges
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
        self.disks = [self._disk() for _ in range(plan.volumes)]
        self.changes = 0
        self.points: dict[str, list[Ranges]] = {}
        "What was written to each disk since a checkpoint was made; a revert writes behind their backs."
        self.mark, self.runs = "", 0
        self._machines = random.Random(self.key()[0])
        self.machine = self._another_machine()
        self._snapshot = self.key(), self.machine, self.mark

    def _disk(self) -> MemoryDevice:
        return MemoryDevice(self._chance.randrange(1, self._plan.blocks * BLOCK), SECTOR)

    async def plug(self) -> None:
        """One more disk, which somebody has written to before."""
        self.changes += 1
        self.disks.append(self._disk())
        await self.disks[-1].write(0, self._chance.randbytes(self.disks[-1].size))

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
        if chance.random() < self._plan.reverts:
            await self._revert()
            return
        if chance.random() < 0.3:
            self._snapshot = self.key(), self.machine, self.mark
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(self.disks))
            disk = self.disks[at]
            if chance.random() < self._plan.resizes:
                await disk.resize(chance.randrange(1, (self._plan.blocks + 2) * BLOCK))
            length = chance.randrange(1, min(disk.size, 3 * BLOCK) + 1)
            start = chance.randrange(0, disk.size - length + 1)
            data = bytes(length) if chance.random() < 0.3 else chance.randbytes(length)
            await disk.write(start, data)
            for point in self.points.values():
                if at < len(point):
                    point[at].add(start, start + length)

    async def _revert(self) -> None:
        """Back to a snapshot: what was changed since comes to be as it was, and what ran over it is ended."""
        self.runs += 1
        contents, self.machine, mark = self._snapshot
        self.mark = mark if self._chance.random() < 0.5 else ""
        for disk, content in zip(self.disks, contents, strict=False):
            await disk.resize(len(content))
            await disk.write(0, content)


class GuestSource(Unhinted):
    """The guest as a producer reads it: powered off now and then, and sometimes not at the right time."""

    def __init__(self, guest: Guest, oracle: Oracle, process: Process) -> None:
        self._guest, self._oracle, self._process = guest, oracle, process
        self.devices: list[ports.BlockDevice] = []
        self._began = 0
        self.machine: events.Defined | None = guest.machine

    async def begin(self, cut: bool = True) -> tuple[Volume, ...]:
        self._began = self._guest.changes
        for disk in self._guest.disks[len(self.devices) :]:
            self.devices.append(SimDevice(disk, self._process, Faults(self._process.chance)))
        self.machine = self._guest.machine
        self._oracle.cuts.add((self._guest.key(), self.machine))
        return tuple(Volume(f"vd{at}", disk.size, BLOCK) for at, disk in enumerate(self._guest.disks))

    async def cut(self) -> Cut:
        return Cut.CRASH if self._began == self._guest.changes else Cut.NONE

    async def end(self) -> None:
        """Nothing is held."""


@dataclass
class AnchorDisk:
    """What survives of an Anchor."""

    kept: Kept = field(default_factory=Kept)


class SimAnchorStore:
    """A small file that is replaced whole."""

    def __init__(self, disk: AnchorDisk, process: Process) -> None:
        self._disk, self._process = disk, process

    def load(self) -> Kept:
        return self._disk.kept

    def save(self, kept: Kept) -> None:
        self._process.step()
        self._disk.kept = kept
        self._process.step()


class LiveSource(Unhinted):
    """The running guest as a producer reads it: frozen views, and checkpoints that tell what was written since."""

    def __init__(self, guest: Guest, oracle: Oracle, process: Process, disk: AnchorDisk) -> None:
        self._guest, self._oracle, self._process = guest, oracle, process
        self.anchor = Anchor(SimAnchorStore(disk, process))
        self.devices: Sequence[ports.BlockDevice] = ()
        self.machine: events.Defined | None = guest.machine
        self._point, self._run = "", 0
        self._hints: list[Ranges | None] = []
        self._disks: list[tuple[str, int]] = []

    async def begin(self, cut: bool = True) -> tuple[Volume, ...]:
        guest, chance = self._guest, self._process.chance
        self._process.step()
        self._disks = [(f"vd{at}", disk.size) for at, disk in enumerate(guest.disks)]
        since, _ = self.anchor.since(guest.points, guest.mark, self._disks)
        self._hints = [one.copy() for one in guest.points[since]] if since else [None] * len(guest.disks)
        self._run, self._point = guest.runs, ""
        if cut:
            self._point = chance.randbytes(4).hex()
            guest.points[self._point] = [Ranges() for _ in guest.disks]
        self.machine = guest.machine
        self._oracle.cuts.add((guest.key(), guest.machine))
        self.devices = [SimDevice(await _frozen(disk), self._process, Faults(chance)) for disk in guest.disks]
        self._process.step()
        return tuple(Volume(name, size, BLOCK) for name, size in self._disks)

    async def hints(self) -> Sequence[Ranges | None]:
        return self._hints

    async def distrust(self, why: str) -> None:
        self.anchor.drop()

    async def cut(self) -> Cut:
        return Cut.CRASH

    async def kept(self) -> None:
        guest = self._guest
        if self._point not in guest.points or guest.runs != self._run:
            return  # no checkpoint was made, another producer dropped it, or it was ended
        guest.mark = self._point
        self.anchor.keep(self._point, self._disks)
        guest.points = {self._point: guest.points[self._point]}
        self._process.step()

    async def end(self) -> None:
        """Checkpoints that were not kept stay until one is."""


def source(plan: Plan, guest: Guest, oracle: Oracle, process: Process, anchor: AnchorDisk) -> Source:
    """The guest as this seed's producer reads it."""
    return LiveSource(guest, oracle, process, anchor) if plan.live else GuestSource(guest, oracle, process)


async def _frozen(disk: MemoryDevice) -> MemoryDevice:
    copy = MemoryDevice(disk.size, SECTOR)
    await copy.write(0, disk.content())
    return copy
