"""The machines of a source daemon: which streams are of one, and how each is captured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.daemon.config import Common, StreamConfig
from engine.hypervisor.connection import Hypervisor
from producers.image import ImageSource
from producers.machine import clean
from producers.machine.fleet import Captured, Fleet
from producers.machine.source import MachineSource


class Machines:
    """Those of one hypervisor."""

    def __init__(self, common: Common) -> None:
        self._fleet, self.scratch = Fleet(common.hypervisor), Path(common.scratch)

    async def hypervisor(self) -> Hypervisor:
        """Raises Usage, Transient."""
        return await self._fleet.hypervisor()

    def captured(self, one: StreamConfig) -> Captured | None:
        """How a stream's machine is captured; None for one that is of disks."""
        if not one.vm:
            return None
        fleet, exclude = self._fleet, frozenset(one.exclude)
        return Captured(fleet.hypervisor, fleet.url, self.scratch, one.mode != "scan", exclude, one.freeze)

    async def resolved(self, one: StreamConfig) -> StreamConfig:
        """What stands in the config, with the UUID and the disks that libvirt tells.

        Raises NotFound (no such machine), Usage (none of its disks can be captured), Transient.
        """
        if not one.vm:
            return one
        domain = await (await self.hypervisor()).domain(one.vm)
        there = tuple((disk.name, disk.path) for disk in domain.captured if disk.name not in one.exclude)
        return replace(one, id=domain.uuid, disks=there)

    async def let_go(self, machine: str) -> str:
        """Nothing of ours stays with a machine, and all that libvirt and QEMU refuse because of a job or a checkpoint
        can be done; gives what there is to say of it.  A later pass reads everything.  Raises as `clean.machine`."""
        return await clean.machine(await self.hypervisor(), machine, self.scratch / machine)

    async def close(self) -> None:
        """Repeatable."""
        await self._fleet.close()


def said(source: ImageSource | MachineSource) -> dict[str, Any]:
    """What `status` says of how it is captured."""
    if not isinstance(source, MachineSource):
        return {"rung": "", "rung_why": "", "unfrozen": ""}
    return {"rung": source.rung.value, "rung_why": source.why, "unfrozen": source.unfrozen}
