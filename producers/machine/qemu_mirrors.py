"""Mirrors that QEMU's own monitor begins: in step from the start, and come back to a tap that went away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from engine import errors
from engine.hypervisor import mirror
from engine.hypervisor.connection import Hypervisor
from engine.hypervisor.domain import Domain
from producers.machine.phase import Phase, State, lost

END = 60.0
"""Seconds for mirrors to be over once they are told to end."""
_PARK = 5.0
"""Seconds for one that is paused to end what it has under way."""
_PAUSE = 0.2


class QemuMirrors:
    """Of one machine.  Raises everywhere what Hypervisor.qmp does: Usage for a machine that does not run, too."""

    def __init__(self, machines: Hypervisor, machine: str) -> None:
        self._machines, self._machine = machines, machine
        self._behind: set[str] = set()
        """Those of which it is not known that they caught up."""
        self._nodes: dict[str, str] = {}

    async def begin(self, domain: Domain, disks: Sequence[str], socket: str) -> None:
        """Mirror each of `disks`.  Raises InUse, NotFound; then some may run."""
        aliases = {disk.name: disk.alias for disk in domain.disks if disk.name in disks}
        tops = mirror.tops(await self._qmp("query-block"), aliases)
        for disk in disks:
            if disk not in tops:
                raise errors.NotFound(f"machine {self._machine}: QEMU has no disk {disk} with a medium")
            await self._qmp("blockdev-add", **mirror.target(disk, socket))
            await self._qmp("blockdev-mirror", **mirror.mirror(disk, tops[disk]["node-name"]))
        self._behind = set()  # nothing was behind when they began, and what fails from now on stops them

    def doubt(self, disks: Sequence[str]) -> None:
        """Whether these are in step is not known: it is looked at."""
        self._behind, self._nodes = set(disks), {}

    async def state(self, disks: Sequence[str]) -> State:
        """As Mirrors.state."""
        found = await self._jobs()
        if not found:
            return State(Phase.NONE)
        if gone := [disk for disk in disks if disk not in found or found[disk].ending]:
            return lost(gone)
        if stopped := [disk for disk in disks if found[disk].failed]:
            self._behind.update(stopped)
            return State(Phase.STOPPED, f"writes to {', '.join(stopped)} do not reach the tap")
        late = [disk for disk in disks if not found[disk].ready]
        late = late or [disk for disk in sorted(self._behind) if not await self._caught_up(disk)]
        self._behind.intersection_update(late)
        return State(Phase.ARMING, f"{', '.join(late)} catches up") if late else State(Phase.READY)

    async def _caught_up(self, disk: str) -> bool:
        """Whether all that `disk` was behind is at the tap.

        QEMU says it from 8.2 on.  Before, two things do: the bitmap of the mirror has nothing more to send, and, looked
        at after that, nothing is under way.  What is under way counts the guest's own writes as well, and is never
        nothing on a busy disk: then the job is paused for a moment, in which it ends what it had begun and goes to
        `standby`; what the guest writes is mirrored all the same.
        """
        synced = (await self._job(disk)).synced
        if synced is not None:
            return synced
        if await self._unsent(disk):
            return False
        job = await self._job(disk)
        return (job.left == 0 and not job.paused and not job.failed) or await self._parked(disk)

    async def _parked(self, disk: str) -> bool:
        """As `_caught_up`, of a busy disk.  Killed in here the job stays paused, and is looked at here again."""
        name = mirror.of(disk)
        if not (await self._job(disk)).paused:
            await self._qmp("block-job-pause", device=name)
        until, parked = time.monotonic() + _PARK, False
        while not parked and time.monotonic() < until:
            parked = (await self._job(disk)).parked
            await asyncio.sleep(0.01)
        parked = parked and not await self._unsent(disk)
        if (await self._job(disk)).failed:
            return False  # it stays as it is: STOPPED
        await self._qmp("block-job-resume", device=name)
        # One that failed between these two lines is mended, and told as in step: that takes a tap that has died, and
        # whoever begins another one calls `resume`, after which everything is looked at again.
        job = await self._job(disk)
        return parked and not job.failed and not job.paused

    async def _unsent(self, disk: str) -> int:
        """Bytes that the mirror has not taken up yet."""
        nodes = await self._qmp("query-named-block-nodes", flat=True)
        if disk not in self._nodes:
            domain = await self._machines.domain(self._machine)
            aliases = {one.name: one.alias for one in domain.disks if one.name == disk}
            tops = mirror.tops(await self._qmp("query-block"), aliases)
            node = mirror.below(tops[disk], nodes) if disk in tops else ""
            if not node:
                raise errors.NotFound(f"machine {self._machine}: QEMU has no disk {disk} any more")
            self._nodes[disk] = node
        return mirror.behind(nodes, self._nodes[disk])

    async def resume(self, patience: float) -> None:
        """As Mirrors.resume."""
        until = time.monotonic() + patience
        while True:
            found = await self._jobs()
            self._behind.update(found)
            stopped = [disk for disk, job in found.items() if job.paused or job.failed]
            if not stopped:
                return
            if time.monotonic() > until:
                raise errors.Transient(f"machine {self._machine}: QEMU has not come back to the tap: it is tried again")
            for disk in stopped:
                await self._unless_gone(disk, "block-job-resume")
            # QEMU looks for the tap beside this; a request that finds none fails at once, and stops the job again.
            await asyncio.sleep(_PAUSE)

    async def missed(self) -> int:
        """As Mirrors.missed."""
        return sum([await self._unsent(disk) for disk in await self._jobs()])

    async def end(self) -> None:
        """No job and no node of ours is left.  Raises Transient when one does not end."""
        until, told = time.monotonic() + END, set[str]()
        while found := await self._jobs():
            if time.monotonic() > until:
                raise errors.Transient(
                    f"machine {self._machine}: its mirrors have not ended after {END:g} s: is the tap dead?"
                )
            for disk in set(found) - told:
                await self._unless_gone(disk, "block-job-cancel", force=True)
            told |= set(found)
            await asyncio.sleep(0.05)
        for node in await self._qmp("query-named-block-nodes", flat=True):
            if node["node-name"].startswith(mirror.OURS) and node["drv"] == "nbd":
                await self._qmp("blockdev-del", **{"node-name": node["node-name"]})
        self.doubt(())

    async def _jobs(self) -> Mapping[str, mirror.Job]:
        return mirror.jobs(await self._qmp("query-block-jobs"))

    async def _job(self, disk: str) -> mirror.Job:
        found = await self._jobs()
        if disk not in found:
            raise errors.Transient(f"machine {self._machine}: the mirror of {disk} has ended meanwhile")
        return found[disk]

    def _qmp(self, command: str, **arguments: Any) -> Awaitable[Any]:
        return self._machines.qmp(self._machine, command, **arguments)

    async def _unless_gone(self, disk: str, command: str, **arguments: Any) -> None:
        """Tell the job of `disk`, which may end at this moment."""
        try:
            await self._qmp(command, device=mirror.of(disk), **arguments)
        except errors.Usage:
            if disk in await self._jobs():
                raise
