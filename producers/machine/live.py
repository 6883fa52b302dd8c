"""What is on the disks of a running machine at the moment when it is read: exports of their nodes, below any mirror."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import errors, ports
from engine.device.nbd import NbdDevice
from engine.hypervisor import calls, mirror
from engine.hypervisor.connection import Hypervisor
from engine.hypervisor.domain import Domain
from engine.nbd import client
from schemas.extent import Ranges

HINT = f"{mirror.OURS}hint"
"""Our bitmap: what a checkpoint's called written when the view was opened."""
SOCKET = "live.sock"
END = 60.0


class LiveView:
    """Made by Mirrors.open_view: `devices` of the disks in their order, and `hints`: the bytes that were written since
    the checkpoint, None where nobody knows (a raw disk; a bitmap that is not there, or inconsistent)."""

    def __init__(self, machines: Hypervisor, domain: Domain, place: Path) -> None:
        self._machines, self._domain, self._place = machines, domain, place
        self.devices: list[ports.BlockDevice] = []
        self.hints: list[Ranges | None] = []

    async def close(self) -> None:
        """Nothing of it is left in QEMU.  Repeatable; not needed once the machine is off."""
        devices, self.devices = self.devices, []
        for device in devices:
            await device.close()
        try:
            await end_views(self._machines, self._domain.uuid, self._place)
        except errors.FerryError:
            if (await self._machines.domain(self._domain.uuid)).active:
                raise

    async def begin(self, disks: Sequence[str], since: str, offload: ports.Offload) -> None:
        """Export and connect.  Raises as open_live; then some may be left."""
        uuid, socket = self._domain.uuid, self._place / SOCKET
        nodes = await self._machines.qmp(uuid, "query-named-block-nodes", flat=True)
        aliases = {one.name: one.alias for one in self._domain.disks if one.name in disks}
        tops = mirror.tops(await self._machines.qmp(uuid, "query-block"), aliases)
        if lost := [disk for disk in disks if disk not in tops or not mirror.below(tops[disk], nodes)]:
            raise errors.NotFound(f"machine {uuid}: QEMU has no disk {', '.join(lost)} with a medium")
        content = {disk: mirror.below(tops[disk], nodes) for disk in disks}
        hinted = await self._hint({disk: _bitmaps(tops[disk], node, nodes, since) for disk, node in content.items()},
                                  content)  # fmt: skip
        address = {"type": "unix", "data": {"path": str(socket)}}
        await self._machines.qmp(uuid, "nbd-server-start", addr=address)
        for disk, node in content.items():
            export: dict[str, Any] = {"type": "nbd", "id": mirror.of(disk), "name": disk, "node-name": node}
            export |= {"writable": False, "bitmaps": [HINT] if disk in hinted else []}
            await self._machines.qmp(uuid, "block-export-add", **export)
        for disk in disks:
            bitmap, name = HINT if disk in hinted else "", f"{self._domain.name}/{disk}"
            device = await NbdDevice.connect(client.Place(socket=str(socket)), disk, False, name, offload, bitmap)
            self.devices.append(device)
            self.hints.append(await device.dirty() if bitmap else None)

    async def _hint(self, bitmaps: dict[str, list[dict[str, str]]], content: dict[str, str]) -> set[str]:
        """Merge what the bitmaps of each disk say into one of ours, all at one instant; which disks have it."""
        actions: list[dict[str, Any]] = []
        for disk, sources in bitmaps.items():
            if sources:
                added = {"node": content[disk], "name": HINT, "disabled": True, "persistent": False}
                merged = {"node": content[disk], "target": HINT, "bitmaps": sources}
                actions.append({"type": "block-dirty-bitmap-add", "data": added})
                actions.append({"type": "block-dirty-bitmap-merge", "data": merged})
        if actions:
            await self._machines.qmp(self._domain.uuid, "transaction", actions=actions)
        return {disk for disk, sources in bitmaps.items() if sources}


def _bitmaps(top: mirror.Answer, node: str, nodes: Sequence[mirror.Answer], since: str) -> list[dict[str, str]]:
    """Those that `since` has on the images of one disk: libvirt begins it anew in the image that a snapshot adds, and
    all of them together are what was written.  None where the topmost image has none that is sound."""
    if not since or not mirror.sound(nodes, node, since):
        return []
    files = set(mirror.chain(top)[1:])
    lower = [one for one in nodes if one.get("file") in files and mirror.named(one, since)]
    if any(mirror.named(one, since).get("inconsistent") for one in lower):
        return []
    return [{"node": name, "name": since} for name in (node, *(one["node-name"] for one in lower))]


async def open_live(
    machines: Hypervisor, domain: Domain, disks: Sequence[str], place: Path, since: str, offload: ports.Offload
) -> LiveView:
    """As Mirrors.open_view.  What an earlier one left is ended first."""
    calls.check_socket(str(place / SOCKET), await machines.qemu_user())
    await end_views(machines, domain.uuid, place)
    view = LiveView(machines, domain, place)
    try:
        await view.begin(disks, since, offload)
    except BaseException:
        await view.close()
        raise
    return view


async def end_views(machines: Hypervisor, uuid: str, place: Path) -> None:
    """No export, NBD server or bitmap of a view is left; a server of somebody else's stays.  Repeatable."""
    exports = [one["id"] for one in await machines.qmp(uuid, "query-block-exports")]
    ours = [name for name in exports if name.startswith(mirror.OURS)]
    if ours and len(ours) < len(exports):
        for name in ours:
            await machines.qmp(uuid, "block-export-del", id=name, mode="hard")
    elif ours or await _served(place / SOCKET):
        await machines.qmp(uuid, "nbd-server-stop")
    (place / SOCKET).unlink(missing_ok=True)
    until = time.monotonic() + END
    while any(one["id"].startswith(mirror.OURS) for one in await machines.qmp(uuid, "query-block-exports")):
        if time.monotonic() > until:
            raise errors.Transient(f"machine {uuid}: the exports of its disks have not ended after {END:g} s")
        await asyncio.sleep(0.05)
    for node in await machines.qmp(uuid, "query-named-block-nodes", flat=True):
        if mirror.named(node, HINT):
            await machines.qmp(uuid, "block-dirty-bitmap-remove", node=node["node-name"], name=HINT)


async def _served(socket: Path) -> bool:
    """Whether a server is there: QEMU has one at most, and does not say where."""
    try:
        _, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
