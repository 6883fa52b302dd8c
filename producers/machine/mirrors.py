"""The mirrors in QEMU that send every write of a machine to its tap, and a view of the disks below them.

Two ways.  QMP: `blockdev-mirror` with sync=none, in step from the start; a tap that went away is come back to, and only
what was written meanwhile is sent again.  Libvirt does not see these jobs: `virsh save` ends them.  LIBVIRT:
`blockCopy`, which copies the whole disk into the tap first, and whose job ends with the tap: it is armed, and copies,
anew.

A sink that hangs holds a guest's write for ever, and a cancel of its job as well: whoever disarms ends the tap first.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import errors, linux, ports
from engine.hypervisor import calls, features, mirror
from engine.hypervisor.connection import Hypervisor
from engine.hypervisor.domain import Domain
from producers.machine.live import LiveView, end_views, open_live

log = logging.getLogger("vmferry.machine")
RECORD = "mirrors.json"
"""Written before the first mirror is begun: by it a later run knows which of libvirt's mirrors are ours."""
VERSION = 1
AGAIN = 25.0
"""Seconds that `resume` takes at most.  QEMU 7.2 looks for a server that went away after 1, 2, 4, 8 and then every
16 s, and nothing hurries it."""
END = 60.0
_PARK = 5.0


class Way(enum.Enum):
    """Who begins the mirrors."""

    QMP = "qmp"
    LIBVIRT = "libvirt"


class Phase(enum.Enum):
    NONE = "none"
    """No mirror of ours."""
    ARMING = "arming"
    """They run, and not all that was written is at the tap."""
    READY = "ready"
    """All that was written is at the tap, and every write is there before the guest hears that it is done."""
    STOPPED = "stopped"
    """The tap went away, and writes pass it by; `resume` heals it."""
    BROKEN = "broken"
    """A mirror is not there: disarm, arm."""


@dataclass(frozen=True, slots=True)
class State:
    phase: Phase
    why: str = ""


class Mirrors:
    """Of one machine, by its UUID.  `place`: a directory where QEMU's user may make sockets.  One task at a time.

    Raises everywhere Transient (libvirt is away), NotFound (no such machine), Usage.
    """

    def __init__(
        self, machines: Hypervisor, machine: str, place: Path, way: Way = Way.QMP,
        offload: ports.Offload = asyncio.to_thread,
    ) -> None:  # fmt: skip
        self._machines, self._machine, self._place, self._offload = machines, machine, place, offload
        self.way = way
        self.in_force = way
        """The way of the mirrors that there are: another one where `find` found so."""
        self._disks: tuple[str, ...] = ()
        self._socket, self._rate = "", 0
        self._behind: set[str] = set()
        """Those of which it is not known that they caught up."""
        self._nodes: dict[str, str] = {}

    async def find(self, disks: Sequence[str]) -> State:
        """What there is of a run before this one, as `state` of `disks`."""
        self._disks = tuple(disks)
        record = await asyncio.to_thread(self._load)
        self._socket, self.in_force = record.get("socket", ""), Way(record.get("way", self.way.value))
        self._behind, self._nodes = set(disks), {}
        return await self.state()

    async def arm(self, domain: Domain, disks: Sequence[str], socket: Path) -> None:
        """Mirror each of `disks` into the tap on `socket`, which has to be alive: QEMU waits for its first answer.
        Returns once all of them run; else none does.  A power cut, or a kill of ours, leaves some: `find` says so.

        Raises InUse (somebody's job holds a disk, or mirrors of ours are there), Usage (this QEMU cannot; the socket is
        closed to its user), NotFound (no socket, no such disk).
        """
        await self._check(str(socket))
        if (await self.find(disks)).phase is not Phase.NONE:
            raise errors.InUse(f"machine {self._machine}: mirrors of ours are there: disarm them first")
        record = {"version": VERSION, "socket": str(socket), "way": self.way.value}
        await asyncio.to_thread(linux.replace_text, self._place / RECORD, json.dumps(record) + "\n")
        self._socket, self.in_force = str(socket), self.way
        try:
            if self.way is Way.QMP:
                await self._begin(domain)
            else:
                for disk in disks:
                    await self._machines.begin_mirror(self._machine, disk, str(socket), disk, self._rate)
        except BaseException:
            await self.disarm()
            raise

    async def _check(self, socket: str) -> None:
        lacks = features.lacking(await self._machines.features(self._machine), features.MIRRORS)
        if lacks:
            raise errors.Usage(f"machine {self._machine}: its QEMU is too old for a tap: it lacks {lacks}")
        user = await self._machines.qemu_user()
        await asyncio.to_thread(calls.check_peer, socket, user)
        await asyncio.to_thread(calls.check_socket, str(self._place / RECORD), user)

    async def _begin(self, domain: Domain) -> None:
        aliases = {disk.name: disk.alias for disk in domain.disks if disk.name in self._disks}
        tops = mirror.tops(await self._qmp("query-block"), aliases)
        for disk in self._disks:
            if disk not in tops:
                raise errors.NotFound(f"machine {self._machine}: QEMU has no disk {disk} with a medium")
            await self._qmp("blockdev-add", mirror.target(disk, self._socket))
            await self._qmp("blockdev-mirror", mirror.mirror(disk, tops[disk]["node-name"], self._rate))
        self._behind = set()  # nothing was behind when they began, and what fails from now on stops them

    async def state(self) -> State:
        """How they are.  An epoch may be cut where the state is READY *after* the number up to which it reaches was
        fixed: a mirror that failed before that number does not become READY again without `resume`."""
        try:
            if self.in_force is Way.LIBVIRT:
                return self._by_libvirt(await self._machines.domain(self._machine))
            return await self._by_qemu()
        except errors.Usage:
            if (await self._machines.domain(self._machine)).active:
                raise
            return State(Phase.NONE, "the machine does not run")

    def _by_libvirt(self, domain: Domain) -> State:
        ours = self._libvirts(domain)
        found = {disk.name: disk.mirror_ready for disk in domain.disks if disk.name in ours}
        if not found:
            return State(Phase.NONE)
        if lost := [disk for disk in self._disks if found.get(disk, "abort") in ("abort", "pivot")]:
            return State(Phase.BROKEN, f"the mirror of {', '.join(lost)} is not there any more")
        late = [disk for disk in self._disks if found[disk] != "yes"]
        return State(Phase.ARMING, f"{', '.join(late)} is copied") if late else State(Phase.READY)

    async def _by_qemu(self) -> State:
        found = await self._jobs()
        if not found:
            return State(Phase.NONE)
        if lost := [disk for disk in self._disks if disk not in found or found[disk].ending]:
            return State(Phase.BROKEN, f"the mirror of {', '.join(lost)} is not there any more")
        if stopped := [disk for disk in self._disks if found[disk].failed]:
            self._behind.update(stopped)
            return State(Phase.STOPPED, f"writes to {', '.join(stopped)} do not reach the tap")
        late = [disk for disk in self._disks if not found[disk].ready]
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
        if (job := (await self._jobs())[disk]).synced is not None:
            return job.synced
        if await self._counted(disk):
            return False
        job = (await self._jobs())[disk]
        if job.left == 0 and not job.paused and not job.failed:
            return True
        return await self._parked(disk)

    async def _parked(self, disk: str) -> bool:
        name = {"device": mirror.of(disk)}
        if not (await self._jobs())[disk].paused:
            await self._qmp("block-job-pause", name)
        until = time.monotonic() + _PARK
        parked = (await self._jobs())[disk].parked
        while not parked and time.monotonic() < until:
            await asyncio.sleep(0.01)
            parked = (await self._jobs())[disk].parked
        done = parked and not await self._counted(disk)
        if (await self._jobs())[disk].failed:
            return False  # it stays as it is: STOPPED
        await self._qmp("block-job-resume", name)
        job = (await self._jobs())[disk]
        return done and not job.failed and not job.paused

    async def _counted(self, disk: str) -> int:
        nodes = await self._qmp("query-named-block-nodes", {"flat": True})
        if disk not in self._nodes:
            domain = await self._machines.domain(self._machine)
            aliases = {one.name: one.alias for one in domain.disks if one.name == disk}
            tops = mirror.tops(await self._qmp("query-block"), aliases)
            node = mirror.below(tops[disk], nodes) if disk in tops else ""
            if not node:
                raise errors.NotFound(f"machine {self._machine}: QEMU has no disk {disk} any more")
            self._nodes[disk] = node
        return mirror.behind(nodes, self._nodes[disk])

    async def resume(self, patience: float = AGAIN) -> None:
        """Once the tap is there again: mirrors that stopped go on, and send what was written meanwhile; ARMING until
        they have.  One whose guest wrote nothing meanwhile has not noticed, and stops at the next write.

        Raises Transient when they have not come back to it after `patience` seconds.  Repeatable.
        """
        if self.in_force is Way.LIBVIRT:
            return
        until = time.monotonic() + patience
        self._behind.update(self._disks)
        while stopped := [disk for disk, job in (await self._jobs()).items() if job.paused or job.failed]:
            if time.monotonic() > until:
                raise errors.Transient(f"machine {self._machine}: QEMU has not come back to the tap: it is tried again")
            for disk in stopped:
                await self._unless_gone(self._qmp("block-job-resume", {"device": mirror.of(disk)}), disk)
            # QEMU looks for the tap beside this; a request that finds none fails at once, and stops the job again.
            await asyncio.sleep(0.2)

    async def throttle(self, rate: int) -> None:
        """Bytes a second that are copied, or sent again; 0: as fast as it goes.  What the guest writes has no limit.
        Holds for mirrors that are begun later, too."""
        self._rate = rate
        if self.in_force is Way.QMP:
            for disk in await self._jobs():
                arguments = {"device": mirror.of(disk), "speed": rate}
                await self._unless_gone(self._qmp("block-job-set-speed", arguments), disk)
            return
        domain = await self._machines.domain(self._machine)
        for disk in self._libvirts(domain):
            await self._machines.throttle_mirror(self._machine, disk, rate)

    async def disarm(self) -> None:
        """No job, node, export, bitmap, file or NBD server of ours is left, whoever of us left it.  Repeatable.

        The tap has to be dead, or to answer.  Raises Transient when a mirror does not end.
        """
        record = await asyncio.to_thread(self._load)
        self._socket = self._socket or record.get("socket", "")
        domain = await self._machines.domain(self._machine)
        if domain.active:
            await end_views(self._machines, self._machine, self._place)
            for disk in self._libvirts(domain):
                await self._machines.end_mirror(self._machine, disk)
            await self._cancel()
            for node in await self._qmp("query-named-block-nodes", {"flat": True}):
                if node["node-name"].startswith(mirror.OURS) and node["drv"] == "nbd":
                    await self._qmp("blockdev-del", {"node-name": node["node-name"]})
        (self._place / RECORD).unlink(missing_ok=True)
        self._socket, self._behind, self._nodes = "", set(), {}

    def _libvirts(self, domain: Domain) -> list[str]:
        return [disk.name for disk in domain.disks if self._socket and disk.mirror_socket == self._socket]

    async def _cancel(self) -> None:
        until = time.monotonic() + END
        told: set[str] = set()
        while found := await self._jobs():
            if time.monotonic() > until:
                raise errors.Transient(
                    f"machine {self._machine}: mirrors have not ended after {END:g} s: is the tap dead?"
                )
            for disk in set(found) - told:
                await self._unless_gone(self._qmp("block-job-cancel", {"device": mirror.of(disk), "force": True}), disk)
            told |= set(found)
            await asyncio.sleep(0.05)

    async def open_view(self, since: str = "") -> LiveView:
        """What is on the disks at the moment when it is read, below the mirrors, for as long as the view is open; with
        what the checkpoint `since` calls written by now.  Everything later comes by the mirrors, which run already.

        Raises InUse (a backup of somebody else's has QEMU's only NBD server), Usage (a socket that QEMU cannot make).
        """
        domain = await self._machines.domain(self._machine)
        return await open_live(self._machines, domain, self._disks, self._place, since, self._offload)

    async def _jobs(self) -> Mapping[str, mirror.Job]:
        return mirror.jobs(await self._qmp("query-block-jobs"))

    async def _qmp(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        return await self._machines.qmp(self._machine, command, **(arguments or {}))

    async def _unless_gone(self, asked: Awaitable[object], disk: str) -> None:
        try:
            await asked
        except errors.Usage:
            if disk in await self._jobs():
                raise

    def _load(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self._place / RECORD).read_text())
            if found["version"] > VERSION:
                raise errors.Newer(self._place / RECORD, found["version"], VERSION)
            return found
        return {}
