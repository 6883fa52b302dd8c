"""A guest whose disks are mirrored into a tap, for tests: two disks, vda in qcow2 and vdb raw."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from engine.hypervisor.connection import Hypervisor
from engine.hypervisor.mirror import OURS
from producers.machine.live import LiveView
from producers.machine.mirrors import Mirrors, Phase, State, Way
from producers.tap.record import Entry, Kind
from producers.tap.spool import Spool, recover
from schemas.extent import Ranges
from tests.support.hypervisor import Libvirtd, Vm
from tests.support.live.vm import MIB
from tests.support.tapping import Tap

DISKS = ("vda", "vdb")
SIZE = 64 * MIB
PATIENCE = 120.0


class Mirrored:
    """Made by `mirrored`: the guest is up, under load, the tap answers, and nothing is armed."""

    def __init__(self, machines: Hypervisor, vm: Vm, tap: Tap, place: Path, way: Way) -> None:
        self.machines, self.vm, self.tap, self.place = machines, vm, tap, place
        self.mirrors = Mirrors(machines, vm.uuid, place, way)

    async def arm(self) -> None:
        await self.mirrors.arm(await self.machines.domain(self.vm.uuid), DISKS, self.tap.order.socket)

    async def ready(self) -> None:
        """Arm, and wait until all is at the tap."""
        await self.arm()
        await self.until(Phase.READY)

    async def until(self, *phases: Phase) -> State:
        """The state, once it is one of those."""
        deadline = time.monotonic() + PATIENCE
        while (state := await self.mirrors.state()).phase not in phases:
            assert time.monotonic() < deadline, state
            await asyncio.sleep(0.02)
        return state

    async def found(self) -> State:
        """What another run finds; it goes on with that."""
        self.mirrors = Mirrors(self.machines, self.vm.uuid, self.place, self.mirrors.way)
        return await self.mirrors.find(DISKS)

    async def beats(self, count: int = 10) -> None:
        await asyncio.to_thread(self.vm.wait_beats, count)

    async def qmp(self, command: str, **arguments: Any) -> Any:
        return await self.machines.qmp(self.vm.uuid, command, **arguments)

    async def left(self) -> list[str]:
        """Whatever of ours QEMU still has, and the place."""
        nodes = await self.qmp("query-named-block-nodes", flat=True)
        bitmaps = [one for node in nodes for one in node.get("dirty-bitmaps", ())]
        names = [node["node-name"] for node in nodes] + [one.get("name", "(a mirror's)") for one in bitmaps]
        names += [one["id"] for one in await self.qmp("query-block-exports")]
        found = [name for name in names if name.startswith((OURS, "("))]
        found += [one["device"] for one in await self.qmp("query-block-jobs")]
        return found + [path.name for path in self.place.iterdir()]

    def durable(self) -> int:
        """Everything that was answered is durable below this number, which is returned."""
        number = int(self.tap.ask("status")["number"])
        deadline = time.monotonic() + PATIENCE
        while self.tap.ask("status")["durable"] < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return number

    def entries(self) -> list[Entry]:
        """The whole spool; of a tap that was killed as well."""
        if self.tap.process.poll() is not None:
            recover(self.tap.order.spool)
        spool, found = Spool(self.tap.order.spool), list[Entry]()
        try:
            at, past = spool.ends()
            while at < past:
                found += spool.read(at, 16 << 20)
                at = found[-1].number + 1
        finally:
            spool.close()
        return found

    def overlay(self, images: Iterable[Path], below: int = 1 << 62) -> None:
        """Write what came to the tap below that number onto raw images of the disks, in its order."""
        files = [open(image, "r+b") for image in images]  # noqa: SIM115
        with contextlib.ExitStack() as stack:
            for file in files:
                stack.enter_context(file)
            for entry in self.entries():
                if entry.kind in (Kind.WRITTEN, Kind.ZEROED) and entry.number < below:
                    files[entry.disk].seek(entry.start)
                    files[entry.disk].write(entry.data if entry.kind is Kind.WRITTEN else bytes(entry.length))

    def blank(self) -> list[Path]:
        """Raw images of zeros."""
        images = [self.vm.folder / f"{disk}.replica" for disk in DISKS]
        for image in images:
            with open(image, "wb") as file:
                file.truncate(SIZE)
        return images

    async def copied(self) -> list[Path]:
        """The disks as they are read now, one piece after the other."""
        images = self.blank()
        view = await self.mirrors.open_view()
        try:
            await self.read(view, images, [Ranges([(0, SIZE)])] * len(DISKS))
        finally:
            await view.close()
        return images

    async def read(self, view: LiveView, images: Iterable[Path], wanted: Iterable[Ranges]) -> None:
        """Read what is wanted of each disk into its raw image."""
        for device, image, ranges in zip(view.devices, images, wanted, strict=True):
            opened = os.open(image, os.O_WRONLY)
            try:
                for first, past in ranges:
                    for start in range(first, past, MIB):
                        os.pwrite(opened, await device.read(start, min(MIB, past - start)), start)
            finally:
                os.close(opened)

    def same(self, images: list[Path]) -> None:
        """They are what the disks of the machine, which is off, are.  Raises AssertionError."""
        for disk, image in zip(DISKS, images, strict=True):
            words = ("qemu-img", "compare", "-f", self.vm.formats[disk], "-F", "raw", self.vm.disks[disk], image)
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{disk}: {done.stdout}{done.stderr}"


@contextlib.asynccontextmanager
async def mirrored(libvirtd: Libvirtd, way: Way = Way.QMP) -> AsyncIterator[Mirrored]:
    """A guest under load, and a tap that answers; all of it ends with the test."""
    with Vm(libvirtd, "mirrored", DISKS, raw=("vdb",)) as vm:
        await asyncio.to_thread(vm.start)
        place = vm.folder / "scratch"
        place.mkdir()
        machines = await Hypervisor.connect(libvirtd.uri)
        tap = Tap(vm.folder / "tap", disks=dict.fromkeys(DISKS, SIZE))
        try:
            yield Mirrored(machines, vm, tap, place, way)
        finally:
            tap.close()
            await machines.close()
