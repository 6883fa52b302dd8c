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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import errors, linux, ports
from engine.hypervisor import calls, features
from engine.hypervisor.connection import Hypervisor
from engine.hypervisor.domain import Domain
from engine.nbd import client
from producers.machine.live import SOCKET, LiveView, end_views, open_live
from producers.machine.phase import Phase, State, lost
from producers.machine.qemu_mirrors import QemuMirrors

__all__ = ["LiveView", "Mirrors", "Phase", "State", "Way"]

RECORD = "mirrors.json"
"""Written before the first mirror is begun: by it a later run knows which of libvirt's mirrors are ours."""
VERSION = 1
AGAIN = 25.0
"""Seconds that `resume` takes at most.  QEMU 7.2 looks for a server that went away after 1, 2, 4, 8 and then every
16 s, and nothing hurries it."""


GREETING = 5.0
"""Seconds for a tap to greet a client."""


class Way(enum.Enum):
    """Who begins the mirrors."""

    QMP = "qmp"
    LIBVIRT = "libvirt"


class Mirrors:
    """Of one machine, by its UUID.  `place`: a directory where QEMU's user may make sockets.  One task at a time.

    Raises everywhere Transient (libvirt is away), NotFound (no such machine), Usage.
    """

    def __init__(
        self, machines: Hypervisor, machine: str, place: Path, way: Way = Way.QMP,
        offload: ports.Offload = asyncio.to_thread,
    ) -> None:  # fmt: skip
        self._machines, self._machine, self._place, self._offload = machines, machine, place, offload
        self._qemu = QemuMirrors(machines, machine)
        self.way = way
        """By which `arm` goes."""
        self.in_force = way
        """That of the mirrors that there are: another one where `find` found so."""
        self._disks: tuple[str, ...] = ()
        self._socket, self._rate = "", 0

    async def find(self, disks: Sequence[str]) -> State:
        """What there is of a run before this one, as `state` of `disks`."""
        self._disks = tuple(disks)
        record = await asyncio.to_thread(self._load)
        self._socket, self.in_force = record.get("socket", ""), Way(record.get("way", Way.QMP.value))
        self._qemu.doubt(disks)
        found = await self.state()
        if found.phase is Phase.NONE:
            self.in_force = self.way
        return found

    async def arm(self, domain: Domain, disks: Sequence[str], socket: Path) -> None:
        """Mirror each of `disks` into the tap on `socket`.  Returns once all of them run; else none does.  A kill of
        ours leaves some: `find` says so.

        Raises InUse (somebody's job holds a disk, or mirrors of ours are there), Usage (this QEMU cannot; the socket is
        closed to its user), NotFound (no socket, no such disk or export), Transient (the tap does not answer).
        """
        await self._check(str(socket))
        await self._probe(disks, socket)
        if (await self.find(disks)).phase is not Phase.NONE:
            raise errors.InUse(f"machine {self._machine}: mirrors of ours are there: disarm them first")
        record = {"version": VERSION, "socket": str(socket), "way": self.way.value}
        await asyncio.to_thread(linux.replace_text, self._place / RECORD, json.dumps(record) + "\n")
        # Power lost here: no QEMU is left, either, and the record names no mirror that there is.
        self._socket, self.in_force = str(socket), self.way
        try:
            if self.way is Way.QMP:
                await self._qemu.begin(domain, disks, str(socket))
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
        await asyncio.to_thread(calls.check_socket, str(self._place / SOCKET), user)

    async def _probe(self, disks: Sequence[str], socket: Path) -> None:
        """QEMU, and its guest with it, would stand still for as long as a tap that hangs does not greet it."""
        try:
            async with asyncio.timeout(GREETING):
                for disk in disks:
                    await (await client.Client.connect(client.Place(socket=str(socket)), disk, (), disk)).close()
        except TimeoutError as why:
            raise errors.Transient(f"{socket}: the tap does not answer after {GREETING:g} s") from why

    async def state(self) -> State:
        """How they are.  An epoch may be cut where the state is READY *after* the number up to which it reaches was
        fixed: a mirror that failed before that number does not become READY again without `resume`."""
        try:
            if self.in_force is Way.QMP:
                return await self._qemu.state(self._disks)
            return self._by_libvirt(await self._machines.domain(self._machine))
        except errors.Usage:
            if (await self._machines.domain(self._machine)).active:
                raise
            return State(Phase.NONE, "the machine does not run")

    def _by_libvirt(self, domain: Domain) -> State:
        ours = self._libvirts(domain)
        found = {disk.name: disk.mirror_ready for disk in domain.disks if disk.name in ours}
        if not found:
            return State(Phase.NONE)
        if gone := [disk for disk in self._disks if found.get(disk, "abort") in ("abort", "pivot")]:
            return lost(gone)
        late = [disk for disk in self._disks if found[disk] != "yes"]
        return State(Phase.ARMING, f"{', '.join(late)} is copied") if late else State(Phase.READY)

    def _libvirts(self, domain: Domain) -> list[str]:
        return [disk.name for disk in domain.disks if self._socket and disk.mirror_socket == self._socket]

    async def resume(self, patience: float = AGAIN) -> None:
        """Once the tap is there again, also where they say READY: mirrors that stopped go on, and send what was written
        meanwhile; ARMING until they have.  One whose guest wrote nothing meanwhile has not noticed, and stops at the
        next write.  Nothing by libvirt's way, where the jobs are gone.

        Raises Transient when they have not come back to it after `patience` seconds.  Repeatable.
        """
        if self.in_force is Way.QMP:
            await self._qemu.resume(patience)

    async def missed(self) -> int:
        """Bytes that stopped mirrors would send again, as fast as the tap takes them: nothing bounds that in QEMU,
        which minds the speed of a job until it was READY once.  0 by libvirt's way."""
        return await self._qemu.missed() if self.in_force is Way.QMP else 0

    async def throttle(self, rate: int) -> None:
        """Bytes a second that libvirt's mirrors copy, also those that are begun later; 0: as fast as it goes.  What the
        guest writes has no limit; nothing is copied by QMP."""
        self._rate = rate
        if self.in_force is Way.LIBVIRT:
            for disk in self._libvirts(await self._machines.domain(self._machine)):
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
            await self._qemu.end()
        for name in (RECORD, SOCKET):
            (self._place / name).unlink(missing_ok=True)
        self._socket = ""

    async def open_view(self, since: str = "") -> LiveView:
        """What is on the disks at the moment when it is read, below the mirrors, for as long as the view is open; with
        what the checkpoint `since` calls written by now.  Everything later comes by the mirrors, which run already.

        Raises InUse (a backup of somebody else's has QEMU's only NBD server), Usage (a socket that QEMU cannot make).
        """
        domain = await self._machines.domain(self._machine)
        return await open_live(self._machines, domain, self._disks, self._place, since, self._offload)

    def _load(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self._place / RECORD).read_text())
            if found["version"] > VERSION:
                raise errors.Newer(self._place / RECORD, found["version"], VERSION)
            return found
        return {}
