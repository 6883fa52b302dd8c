"""A machine of a hypervisor as a source: all its disks at one instant, also while it runs.

While it runs, a pull backup of libvirt's fixes the instant.  A checkpoint is made with it, so that the next pass reads
only what was written since; where there is none, everything is read, and only what differs travels.  While it does not
run, its images are read, without a lock: nothing of ours keeps it from being started.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import errors, ports, registry
from engine.device import images
from engine.hypervisor.connection import Hypervisor
from engine.hypervisor.domain import Domain
from engine.hypervisor.trouble import BitmapLost
from producers.absent import Absent
from producers.anchor import Anchor
from producers.image import Image, ImageSource, Pass, Watched
from producers.machine import definition
from producers.machine.freeze import Freezer
from producers.machine.view import View, Wanted, end_leftover, open_view
from schemas import events
from schemas.extent import Ranges
from schemas.identity import Cut, Volume

log = logging.getLogger("vmferry.machine")
PREFIX = "vmferry-"
"""What our checkpoints' names begin with: `unprotect` and every start know by it what is ours."""
BOOT = 30.0
"""Seconds for which a machine that was just started is left alone, unless its guest agent has come before.  libvirt 9.0
loses word of an agent that comes while a backup begins, and then takes it for disconnected for as long as the machine
runs (2 of 6 starts here, and none of 6 that were left alone)."""
_GLANCE = 0.5
TRACKED = frozenset({"qcow2"})
"""Formats in which a checkpoint can be kept."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a machine is captured: by checkpoints where that can be; frozen around the instant where it answers."""

    checkpoints: bool = True
    exclude: frozenset[str] = frozenset()
    freezer: Freezer | None = None


class MachineSource:
    """The disks of one machine.  `place` is a directory for sockets and scratch files that QEMU may write to.

    `tidy` first.
    """

    def __init__(
        self, machines: Hypervisor, machine: str, disks: Sequence[registry.Disk], absent: Sequence[Absent],
        anchor: Anchor, place: Path, manner: Manner, offload: ports.Offload = asyncio.to_thread,
    ) -> None:  # fmt: skip
        self.told = Pass()
        self.devices: Sequence[ports.BlockDevice] = ()
        self.machine: events.Defined | None = None
        self.absent = absent
        self.rung, self.why = events.Rung.NONE, "it was not looked at yet"
        self._said: tuple[events.Rung, str] | None = None
        self._machines, self._machine, self._disks = machines, machine, disks
        self._read = [disk for disk in disks if disk.path]
        self._anchor, self._place, self._manner, self._offload = anchor, place, manner, offload
        self._view: View | None = None
        self._off: ImageSource | None = None
        self._opened: list[ports.BlockDevice] = []
        self._point, self._frozen = "", False
        self._met = False
        "It runs, and did so in the pass before."
        self._sizes: tuple[tuple[str, int], ...] = ()

    async def tidy(self) -> None:
        """End and remove what a killed run left, but for the checkpoint that is kept.  Raises as `begin`."""
        domain = await self._look()
        await end_leftover(self._machines, domain, self._place)
        if self._manner.freezer is not None:
            await self._manner.freezer.recover(domain.active)
        for one in await self._machines.checkpoints(domain.uuid) if domain.active else ():
            if one.name.startswith(PREFIX) and one.name != self._anchor.checkpoint:
                await self._machines.drop_checkpoint(domain.uuid, one.name)

    async def _look(self) -> Domain:
        """The machine as it is now.  Raises NotFound, Transient: also where it has other disks than we know."""
        domain = await self._machines.domain(self._machine)
        there = {disk.name: disk for disk in domain.captured if disk.name not in self._manner.exclude}
        ours = {disk.name: disk.path for disk in self._read}
        if {name: disk.path for name, disk in there.items()} != ours:
            raise errors.Transient(f"{domain.name} has other disks now, {', '.join(sorted(there))}: they are taken in")
        self._sizes = tuple((name, there[name].size) for name in ours)
        self.machine = await self._offload(definition.of, domain)
        return domain

    async def begin(self, cut: bool = True) -> tuple[Volume, ...]:
        """As Source.begin.  Raises InUse while a job of somebody else runs, NotFound for a machine that is gone,
        Transient while libvirt is away, and when the machine has other disks now."""
        domain = await self._booted(await self._look())
        found = await (self._running(domain, cut) if domain.active else self._resting(domain))
        present = dict(zip([disk.name for disk in self._read], found, strict=True))
        gone = {one.name: one for one in self.absent}
        self.devices = [present.get(disk.name) or gone[disk.name] for disk in self._disks]
        self._sizes = tuple((disk.name, present[disk.name].size) for disk in self._read)
        return self.volumes()

    async def _booted(self, domain: Domain) -> Domain:
        """The machine, once it has come up as far as we can tell."""
        if domain.active and not self._met and domain.agent:
            self._met = bool(await self._machines.mark(domain.uuid))  # we had to do with it since its start
        deadline = asyncio.get_running_loop().time() + BOOT
        while domain.active and domain.agent and not (self._met or domain.connected):
            if asyncio.get_running_loop().time() > deadline:
                break
            self.rung, self.why = events.Rung.NONE, "it was just started, and its guest agent is waited for"
            await asyncio.sleep(_GLANCE)
            domain = await self._look()
        self._met = domain.active
        return domain

    @property
    def unfrozen(self) -> str:
        """Why the last cut was not a frozen one, where it was to be; or that the guest may be frozen still."""
        return self._manner.freezer.why if self._manner.freezer is not None else ""

    def volumes(self) -> tuple[Volume, ...]:
        """The disks as they were last seen."""
        sizes = dict(self._sizes) | {one.name: one.size for one in self.absent}
        return tuple(Volume(disk.name, sizes[disk.name], disk.block_size) for disk in self._disks)

    async def data(self) -> int:
        """Bytes that one pass reads at most."""
        return sum(size for _, size in self._sizes)

    async def _resting(self, domain: Domain) -> Sequence[ports.BlockDevice]:
        """Its images, as whoever may start it leaves them: without a lock of ours."""
        self.rung, self.why = events.Rung.SCAN, "it does not run"
        formats = {disk.name: disk.format for disk in domain.captured}
        found = []
        for disk in self._read:
            device = await images.open_image(
                disk.path, False, format=formats[disk.name], force_share=True, offload=self._offload
            )
            self._opened.append(device)
            found.append(Image(disk.name, disk.block_size, disk.path, device))
        self._off = ImageSource(found, False, self._offload, self.told)
        await self._off.begin()
        return self._off.devices

    async def _running(self, domain: Domain, cut: bool) -> Sequence[ports.BlockDevice]:
        tracked = frozenset(disk.name for disk in domain.captured if disk.format in TRACKED)
        wants = cut and self._manner.checkpoints and bool(tracked)
        self._off, self._point = None, f"{PREFIX}{secrets.token_hex(6)}" if wants else ""
        since, why = await self._since(domain) if wants else ("", _untracked(self._manner.checkpoints))
        wanted = Wanted(tuple(disk.name for disk in self._read), tracked, self._point, since)
        try:
            self._view = await self._open(domain, wanted, cut)
        except (BitmapLost, errors.NotFound) as lost:
            if not since:
                raise
            # What changed since is not known any more: everything is read once.
            why = str(lost)
            self._anchor.drop()
            self._view = await self._open(domain, Wanted(wanted.disks, tracked, self._point), cut)
            since = ""
        if cut:
            self.rung, self.why = (events.Rung.CHECKPOINT if since else events.Rung.SCAN), why
        return [Watched(device, self.told) for device in self._view.devices]

    async def _open(self, domain: Domain, wanted: Wanted, cut: bool) -> View:
        self._frozen = False
        freezer = self._manner.freezer if cut and domain.agent else None

        async def fix(begin: Callable[[], Awaitable[None]]) -> None:
            if freezer is None:
                await begin()
            else:
                _, self._frozen = await freezer.around(begin)

        return await open_view(self._machines, domain, wanted, self._place, self._offload, fix)

    async def _since(self, domain: Domain) -> tuple[str, str]:
        there = [one.name for one in await self._machines.checkpoints(domain.uuid)]
        return self._anchor.since(there, await self._machines.mark(domain.uuid), self._sizes)

    def step(self) -> events.Stepped | None:
        """As Source.step."""
        if (self.rung, self.why) == self._said:
            return None
        self._said = self.rung, self.why
        return events.Stepped(self.rung, self.why or "a checkpoint tells what changed", time.time_ns())

    async def hints(self) -> Sequence[Ranges | None]:
        """As Source.hints.  Of a disk that is not there nothing has changed."""
        hints = self._view.hints if self._view is not None else [None] * len(self._read)
        present = dict(zip([disk.name for disk in self._read], hints, strict=True))
        return [present.get(disk.name) if disk.path else None for disk in self._disks]

    async def distrust(self, why: str) -> None:
        """As Source.distrust."""
        self.rung, self.why = events.Rung.SCAN, why
        self._anchor.drop()

    async def cut(self) -> Cut:
        """FILESYSTEM where the guest was frozen, else CRASH while it runs: what a power cut at that instant would have
        left.  Off: unless something changed."""
        if self._off is None:
            return Cut.FILESYSTEM if self._frozen else Cut.CRASH
        rests = not (await self._machines.domain(self._machine)).active
        return await self._off.cut() if rests else Cut.NONE

    async def same(self) -> bool:
        """Whether it is seen that nothing has changed since the last pass: do not read it."""
        if self._off is None or (await self._machines.domain(self._machine)).active:
            return False
        return await self._off.same()

    async def kept(self) -> None:
        """As Source.kept: the machine carries its mark first, so that a kill between the two reads everything once."""
        view, point = self._view, self._point
        if view is None or not point or not await view.alive():
            return
        there = [one.name for one in await self._machines.checkpoints(self._machine)]
        if point not in there:
            return  # somebody took it away: the next pass finds the one before, or none
        await self._machines.set_mark(self._machine, point)
        self._anchor.keep(point, self._sizes)
        self._point = ""
        for name in there:
            if name.startswith(PREFIX) and name != point:
                await self._machines.drop_checkpoint(self._machine, name)

    async def end(self) -> None:
        """As Source.end.  A checkpoint that is not kept goes: what it recorded falls to the one before it."""
        view, self._view = self._view, None
        point, self._point = self._point, ""
        opened, self._opened, self.devices = self._opened, [], ()
        try:
            if view is not None:
                await view.close()
            for device in opened:
                await device.close()
            if point and (await self._machines.domain(self._machine)).active:
                await self._machines.drop_checkpoint(self._machine, point)
        except errors.FerryError as why:
            log.warning("%s: the pass did not end in order: %s", self._machine, why)


def _untracked(allowed: bool) -> str:
    return "no disk of it is qcow2, in which a checkpoint can be kept" if allowed else "its `mode` is scan"
