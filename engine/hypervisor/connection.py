"""Virtual machines through libvirt: what they are, their backups, checkpoints, mirrors and agents, and what happens.

Checkpoints are libvirt's, and here and only here that is what the word means.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from engine import errors
from engine.hypervisor import calls, domain, features, happenings, lookup, mirror, trouble
from engine.hypervisor.domain import BackupDisk, Checkpoint, Domain
from engine.hypervisor.link import CALL, Error, Link, Told, dotted, libvirt, libvirt_qemu, named

T = TypeVar("T")

SYSTEM = "qemu:///system"
END = 60.0
"""Seconds for a backup to be over once it is told to end."""
_MARK = "urn:vmferry:kept:1"
_LIVE = 1
"""VIR_DOMAIN_AFFECT_LIVE."""


class Hypervisor:
    """Made by `connect`.  Safe for use by many tasks at once.

    A machine is named by its UUID; `domain` takes its name, too.  Raises everywhere NotFound (no such machine),
    Transient (libvirtd is away, and is looked for again at the next call), Usage (no right to, unknown to this libvirt
    or QEMU), InUse (another job runs).
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    @classmethod
    async def connect(cls, uri: str = SYSTEM) -> Hypervisor:
        """Raises Usage (no libvirt-python, no right, too old, not QEMU), Transient (libvirtd is away)."""
        return cls(await Link.open(uri))

    async def close(self) -> None:
        """Let go of the connection and its events; machines and jobs stay as they are.  Repeatable."""
        await self._link.close()

    async def versions(self) -> tuple[str, str]:
        """(libvirt's, QEMU's)."""
        return await self._link.call("versions", lambda conn: (dotted(conn.getLibVersion()), dotted(conn.getVersion())))

    async def qemu_user(self) -> tuple[int, int] | None:
        """User and group that QEMU runs as; None where libvirt does not say."""
        return await self._link.call("capabilities", lambda conn: domain.qemu_user(conn.getCapabilities()))

    async def confined_by(self) -> list[str]:
        """How libvirt keeps machines apart here: "dac", "apparmor", "selinux"."""
        return await self._link.call("capabilities", lambda conn: domain.confined_by(conn.getCapabilities()))

    async def watch(self, told: Told) -> None:
        """From now on `told` hears, in this loop, what happens to machines, and when libvirt goes and comes; until
        `close`."""
        await self._link.watch(told)

    # Machines.

    async def domains(self) -> list[Domain]:
        """All machines, by name."""
        return await self._link.call("list the machines", lookup.domains)

    async def domain(self, name_or_uuid: str) -> Domain:
        """Raises NotFound, which says the names that are near."""
        return await self._link.call(
            f"machine {name_or_uuid}", lambda conn: lookup.describe(conn, lookup.machine(conn, name_or_uuid))
        )

    async def features(self, uuid: str) -> frozenset[str]:
        """What the QEMU of this running machine can do: names of engine.hypervisor.features."""
        return features.found(await self.qmp(uuid, "query-qmp-schema"))

    async def job(self, uuid: str) -> str:
        """The job that the whole machine is in: "", "backup", "migration out", "save", …"""

        def look(one: Any) -> str:
            found = one.jobStats() if one.isActive() else {}
            kind = found.get("operation", 0) if found.get("type", 0) else 0
            return happenings.OPERATIONS.get(kind, f"operation {kind}")

        return await self._machine(uuid, "look for a job", look)

    async def qmp(self, uuid: str, command: str, **arguments: Any) -> Any:
        """One command of QEMU's monitor, past libvirt (which marks the machine as tainted); gives its return value."""

        def ask(one: Any) -> Any:
            said = libvirt_qemu.qemuMonitorCommand(one, json.dumps({"execute": command, "arguments": arguments}), 0)
            answer = json.loads(said)
            if "error" in answer:
                raise trouble.named(f"machine {uuid}: {command}", 0, answer["error"]["desc"])
            return answer["return"]

        return await self._machine(uuid, command, ask)

    async def _machine(self, uuid: str, what: str, ask: Callable[[Any], T], seconds: float = CALL) -> T:
        return await self._link.call(
            f"machine {uuid}: {what}", lambda conn: ask(conn.lookupByUUIDString(uuid)), seconds
        )

    # Backups in pull mode, and checkpoints.

    async def begin_backup(self, uuid: str, socket: str, disks: Sequence[BackupDisk], checkpoint: str = "") -> None:
        """Serve a view of `disks`, of one instant, on the UNIX socket `socket`: for each an export of its name, with
        what changed `since` in the context qemu:dirty-bitmap:`domain.bitmap_of`.  With `checkpoint` changes are counted
        anew from that same instant.  Ends with the machine; else by `end_backup`.

        Raises InUse (another job; BitmapLeft: a bitmap called `checkpoint` is there), BitmapLost (`since` is not
        known any more), Usage (an image that cannot have bitmaps, a socket that QEMU could not make), Full: then no
        backup runs and there is no such checkpoint.  After Transient, or cancelled, both may be there, or come later:
        `backup_socket` says whose backup runs.
        """
        wanted = (
            domain.checkpoint_xml(checkpoint, [disk.name for disk in disks if disk.tracked]) if checkpoint else None
        )

        def begin(one: Any) -> None:
            calls.check_socket(socket, domain.qemu_user(one.connect().getCapabilities()))
            if checkpoint and lookup.checkpoint(one, checkpoint) is not None:
                raise errors.InUse(f"machine {uuid} has a checkpoint {checkpoint} already: take another name")
            try:
                one.backupBegin(domain.backup_xml(socket, disks), wanted, 0)
            except Error:
                # Where only the exports failed libvirt keeps the checkpoint.  The one before counts on by itself.
                left = lookup.checkpoint(one, checkpoint) if checkpoint else None
                if left is not None:
                    left.delete(0)
                raise

        await self._machine(uuid, "begin a backup", begin)

    async def end_backup(self, uuid: str) -> None:
        """End the backup that runs, whoever began it: its view, exports and scratch are gone.  Repeatable.

        One that somebody else begins as soon as it can be is not waited for."""

        def end(one: Any) -> str | None:
            xml = lookup.backup(one)
            if xml is not None:
                one.abortJob()
            return None if xml is None else domain.backup_socket(xml)

        ended = await self._machine(uuid, "end the backup", end)
        until = time.monotonic() + END
        while ended is not None and await self.backup_socket(uuid) == ended:
            if time.monotonic() > until:
                raise errors.Transient(f"machine {uuid}: its backup has not ended after {END:g} s")
            await asyncio.sleep(0.05)

    async def backup_socket(self, uuid: str) -> str | None:
        """Where the backup that runs is served (nothing when that is no UNIX socket); None when none runs."""

        def look(one: Any) -> str | None:
            xml = lookup.backup(one)
            return None if xml is None else domain.backup_socket(xml)

        return await self._machine(uuid, "look for a backup", look)

    async def checkpoints(self, uuid: str) -> list[Checkpoint]:
        """Those that libvirt knows, parents first."""
        flags = libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL

        def look(one: Any) -> list[Checkpoint]:
            return [domain.parse_checkpoint(each.getXMLDesc(0)) for each in one.listAllCheckpoints(flags)]

        return await self._machine(uuid, "list checkpoints", look)

    async def drop_checkpoint(self, uuid: str, name: str) -> None:
        """No checkpoint and no bitmap of this name is left on any disk, also when only one of them was there.

        Each checkpoint counts for itself (libvirt >= 6.8): what an older one says is not less for it.  Repeatable.
        """

        def drop(one: Any) -> None:
            found = lookup.checkpoint(one, name)
            if found is None:
                return
            try:
                found.delete(0 if one.isActive() else libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
            except Error as error:
                if not isinstance(named("", error), (trouble.BitmapLost, errors.Usage)):
                    raise
                # Its bitmap is gone or broken: what libvirt cannot merge is only forgotten.
                found.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)

        await self._machine(uuid, f"drop checkpoint {name}", drop)
        for place, running in await self._places_of(uuid, name):
            if running:
                await self.qmp(uuid, "block-dirty-bitmap-remove", node=place, name=name)
            else:
                await calls.in_thread(functools.partial(calls.remove_image_bitmap, place, name), CALL, place)

    async def mark(self, uuid: str) -> str:
        """The name that `set_mark` gave the running machine; nothing when it was started, or reverted, since."""

        def look(one: Any) -> str:
            try:
                return domain.parse_mark(one.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, _MARK, _LIVE))
            except Error as error:
                if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_OPERATION_INVALID):  # type: ignore[attr-defined]
                    return ""
                raise

        return await self._machine(uuid, "look for our mark", look)

    async def set_mark(self, uuid: str, name: str) -> None:
        """Have the running machine carry a name for as long as it runs, in no definition of it; "" takes it away."""

        def put(one: Any) -> None:
            xml = domain.mark_xml(name) if name else None
            one.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml, "vmferry", _MARK, _LIVE)

        await self._machine(uuid, "mark it", put)

    async def bitmaps(self, uuid: str) -> frozenset[str]:
        """The names of all bitmaps on its disks, also of those that no checkpoint knows."""
        return frozenset(name for _, _, name in await self._bitmaps(uuid))

    async def _places_of(self, uuid: str, name: str) -> list[tuple[str, bool]]:
        return [(place, running) for place, running, found in await self._bitmaps(uuid) if found == name]

    async def _bitmaps(self, uuid: str) -> list[tuple[str, bool, str]]:
        """(node of QEMU, or image of a machine that is off; whether it runs; name) of each bitmap."""
        found = await self.domain(uuid)
        if found.active:
            nodes = await self.qmp(uuid, "query-named-block-nodes", flat=True)
            return [
                (node["node-name"], True, bitmap["name"])
                for node in nodes for bitmap in node.get("dirty-bitmaps", ()) if bitmap.get("name")
            ]  # fmt: skip
        bitmaps: list[tuple[str, bool, str]] = []
        for image in [disk.path for disk in found.captured if disk.format == "qcow2"]:
            listed = await calls.in_thread(functools.partial(calls.image_bitmaps, image), CALL, image)
            bitmaps += [(image, False, bitmap["name"]) for bitmap in listed]
        return bitmaps

    # Mirrors of libvirt's own.

    async def begin_mirror(self, uuid: str, disk: str, socket: str, export: str, rate: int = 0) -> None:
        """Copy `disk` to an export of the NBD server on `socket`, and from then on every write before the guest hears
        that it is done (SYNCHRONOUS_WRITES).  Returns once it runs; "job ready" is told to those who watch.  What is
        copied, not what the guest writes, has `rate` bytes a second (0: as fast as it goes)."""
        flags = (
            libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
            | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
            | libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
        )
        wanted = {libvirt.VIR_DOMAIN_BLOCK_COPY_GRANULARITY: mirror.GRANULARITY}
        if rate:
            wanted[libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH] = rate

        def begin(one: Any) -> None:
            one.blockCopy(disk, domain.copy_xml(socket, export), wanted, flags)

        await self._machine(uuid, f"mirror {disk}", begin)

    async def throttle_mirror(self, uuid: str, disk: str, rate: int) -> None:
        """Bytes a second that a mirror copies, from now on; 0: as fast as it goes.  Raises Usage where none runs."""
        flags = libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES
        await self._machine(uuid, f"throttle the mirror of {disk}", lambda one: one.blockJobSetSpeed(disk, rate, flags))

    async def end_mirror(self, uuid: str, disk: str) -> None:
        """The guest writes to its own disk alone again.  Repeatable."""

        def end(one: Any) -> None:
            if one.blockJobInfo(disk, 0):
                one.blockJobAbort(disk, 0)

        await self._machine(uuid, f"end the mirror of {disk}", end)

    # The guest's agent.

    async def freeze(self, uuid: str, seconds: float) -> int:
        """Freeze the guest's file systems; gives how many.  Raises AgentSilent after `seconds`, and InUse when they are
        frozen already.  After any error some may be frozen, or become so later: thaw."""
        return int(await self._agent(uuid, "guest-fsfreeze-freeze", seconds))

    async def thaw(self, uuid: str, seconds: float = 10.0) -> int:
        """Thaw them; gives how many.  Repeatable.  Raises AgentSilent."""
        return int(await self._agent(uuid, "guest-fsfreeze-thaw", seconds))

    async def agent_answers(self, uuid: str, seconds: float) -> bool:
        """Whether an agent answers within `seconds` (and 5 more, which libvirt takes to find that out)."""
        try:
            await self._agent(uuid, "guest-ping", seconds)
        except trouble.AgentSilent:
            return False
        return True

    async def _agent(self, uuid: str, command: str, seconds: float) -> Any:
        def ask(one: Any) -> Any:
            said = libvirt_qemu.qemuAgentCommand(one, json.dumps({"execute": command}), max(1, round(seconds)), 0)
            return json.loads(said)["return"]

        return await self._machine(uuid, command, ask, CALL + seconds)
