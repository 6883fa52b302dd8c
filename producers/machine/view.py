"""The disks of a running machine at one instant: a pull backup of libvirt's, read over NBD for as long as a pass lasts.

What the guest writes meanwhile goes to its disks; what stood there before is kept in scratch files, which grow by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import errors, ports, units
from engine.device.nbd import NbdDevice
from engine.hypervisor.connection import Hypervisor
from engine.hypervisor.domain import BackupDisk, Domain, bitmap_of
from engine.nbd import client
from schemas.extent import Ranges

log = logging.getLogger("vmferry.machine")
_LOOK = 0.5
"""Seconds between two looks at the room for scratch files."""
LEAST = 512 << 20
"""Bytes that must stay free beside them: a guest whose scratch file finds no room gets an I/O error, so that the view
is given up long before."""

Fix = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Runs what fixes the instant, and what has to surround it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a view is to be: the disks by name, those that can have a bitmap, the checkpoint that is made with it
    ("": none), and the one since which changes are told ("": none)."""

    disks: tuple[str, ...]
    tracked: frozenset[str]
    checkpoint: str = ""
    since: str = ""


class View:
    """Made by `open_view`.  `devices` and `hints` are those of the disks that were wanted, in their order."""

    def __init__(self, machines: Hypervisor, domain: Domain, place: Path, wanted: Wanted) -> None:
        self._machines, self._domain, self._place, self._wanted = machines, domain, place, wanted
        self.devices: list[ports.BlockDevice] = []
        self.hints: list[Ranges | None] = []
        self.given_up = ""
        self._watch: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Fix the instant."""
        wanted = self._wanted
        disks = [
            BackupDisk(
                name, str(_scratch(self._place, name)), wanted.since if name in wanted.tracked else "",
                name in wanted.tracked,
            )
            for name in wanted.disks
        ]  # fmt: skip
        await self._machines.begin_backup(self._domain.uuid, str(_socket(self._place)), disks, wanted.checkpoint)

    async def connect(self, offload: ports.Offload) -> None:
        """Connect to every export.  Raises what a connection does."""
        self._watch = asyncio.create_task(self._watch_room())
        place = client.Place(socket=str(_socket(self._place)))
        for name in self._wanted.disks:
            bitmap = bitmap_of(name) if self._wanted.since and name in self._wanted.tracked else ""
            device = await NbdDevice.connect(place, name, False, f"{self._domain.name}/{name}", offload, bitmap)
            self.devices.append(device)
            self.hints.append(await device.dirty() if bitmap else None)

    async def alive(self) -> bool:
        """Whether it is still what it was: a revert, or the end of the machine, ends it."""
        return not self.given_up and await self._machines.backup_socket(self._domain.uuid) == str(_socket(self._place))

    async def _watch_room(self) -> None:
        """Give the view up before the guest could feel that its scratch files find no room."""
        while True:
            if short := _short(self._place, self._domain.name):
                self.given_up = short
                log.warning("%s", self.given_up)
                await self._end()
                return
            await asyncio.sleep(_LOOK)

    async def _end(self) -> None:
        """The guest is free of it.  What is wrong with libvirt then is told by the next call to it."""
        try:
            await self._machines.end_backup(self._domain.uuid)
        except errors.FerryError as why:
            log.warning("the backup job of %s was not ended in order: %s", self._domain.name, why)

    async def close(self) -> None:
        """Let go.  Repeatable."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])
        devices, self.devices = self.devices, []
        for device in devices:
            await device.close()
        try:
            if await self.alive():
                await self._end()
        finally:
            _sweep(self._place, self._wanted.disks)


async def open_view(
    machines: Hypervisor, domain: Domain, wanted: Wanted, place: Path, offload: ports.Offload, fix: Fix
) -> View:
    """Fix the instant by `fix`, and connect.

    Raises InUse (somebody else's job), BitmapLost and NotFound (`wanted.since` is not to be had), Transient, Usage,
    Full; nothing is left of it then, but a checkpoint that libvirt may have made.
    """
    await end_leftover(machines, domain, place)
    _sweep(place, wanted.disks)
    if short := _short(place, domain.name):
        raise errors.Full(short)  # before any job: it is tried again and again
    view = View(machines, domain, place, wanted)
    try:
        await fix(view.begin)
        await view.connect(offload)
    except BaseException as why:
        await view.close()
        if view.given_up:
            raise errors.Full(view.given_up) from why
        raise
    return view


async def end_leftover(machines: Hypervisor, domain: Domain, place: Path) -> None:
    """End the backup job that a killed run of ours left running, which keeps libvirt from all that a job forbids."""
    if domain.active and await machines.backup_socket(domain.uuid) == str(_socket(place)):
        log.warning("%s: a backup job of ours that was left running is ended", domain.name)
        await machines.end_backup(domain.uuid)


def make_place(base: Path, machine: str, qemu: tuple[int, int] | None) -> Path:
    """The directory of one machine, which QEMU's user may write to: his where we may give it away, else his group's by
    the rights of `base`."""
    try:
        base.mkdir(mode=0o711, parents=True, exist_ok=True)
        place = base / machine
        place.mkdir(exist_ok=True)
        if os.geteuid() == 0 and qemu is not None:
            os.chown(place, *qemu)
            place.chmod(0o700)
        else:
            os.chown(place, -1, base.stat().st_gid)
            place.chmod(0o770)
    except OSError as why:
        raise errors.Usage(
            f"{why.filename}: cannot be made for what a machine writes while it is read ({why.strerror}): let `scratch`"
            " name a directory that this user and QEMU's may write to"
        ) from why
    return place


def _short(place: Path, machine: str) -> str:
    """What is wrong with the room for scratch files; nothing where there is enough."""
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    if free >= LEAST:
        return ""
    return (
        f"{place}: {units.shown(free)} are left for what {machine} writes while it is read,"
        f" and {units.shown(LEAST)} are wanted: make room there, or let `scratch` name another directory"
    )


def _socket(place: Path) -> Path:
    return place / "nbd.sock"


def _scratch(place: Path, name: str) -> Path:
    return place / f"{name}.scratch"


def _sweep(place: Path, names: Sequence[str]) -> None:
    """What a view that was killed left behind."""
    for path in (_socket(place), *(_scratch(place, name) for name in names)):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
