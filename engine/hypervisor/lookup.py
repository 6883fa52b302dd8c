"""What libvirt's objects say, as ours.  Called in threads; raises libvirt's errors, which `Link.call` translates."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from typing import Any

from engine import errors
from engine.hypervisor import domain, link
from engine.hypervisor.domain import Disk, Domain

_NO_DOMAIN, _NO_CHECKPOINT, _NO_BACKUP = 42, 103, 104
_INACTIVE, _MIGRATABLE, _PAUSED = 2, 8, 3


def domains(conn: Any) -> list[Domain]:
    """All machines; one that goes away meanwhile is left out."""
    found = []
    for one in conn.listAllDomains(0):
        try:
            found.append(describe(conn, one))
        except link.Error as error:
            if _number(error) != _NO_DOMAIN:
                raise
    return sorted(found, key=lambda one: one.name)


def machine(conn: Any, name_or_uuid: str) -> Any:
    """Raises NotFound, which says the names that are near."""
    for look in (conn.lookupByUUIDString, conn.lookupByName):
        # What is no UUID is refused by the first with an error of its own.
        with contextlib.suppress(link.Error):
            return look(name_or_uuid)
    names = [one.name() for one in conn.listAllDomains(0)]
    near = difflib.get_close_matches(name_or_uuid, names, 3) or sorted(names)[:3]
    there = f"there is {', '.join(near)}" if near else "there are none at all"
    raise errors.NotFound(f"no machine {name_or_uuid} at {conn.getURI()}: {there}")


def describe(conn: Any, one: Any) -> Domain:
    """One machine, with the sizes of the disks that are captured."""
    active = bool(one.isActive())

    def resolve(pool: str, volume: str) -> str:
        # A pool that is not started has no volumes; the disk is then said to have no local file.
        with contextlib.suppress(link.Error):
            return str(conn.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())
        return ""

    found = domain.parse(
        one.XMLDesc(0 if active else _INACTIVE), one.XMLDesc(_INACTIVE | _MIGRATABLE), active,
        paused=active and one.state()[0] == _PAUSED, persistent=bool(one.isPersistent()), resolve=resolve,
    )  # fmt: skip
    return dataclasses.replace(found, disks=tuple(_sized(one, disk) for disk in found.disks))


def _sized(one: Any, disk: Disk) -> Disk:
    if not disk.excluded:
        # The image of a machine that is off may be missing: its size is not known then, and whoever opens it says why.
        with contextlib.suppress(link.Error):
            return dataclasses.replace(disk, size=int(one.blockInfo(disk.name, 0)[0]))
    return disk


def checkpoint(one: Any, name: str) -> Any:
    """None when there is none of this name."""
    try:
        return one.checkpointLookupByName(name, 0)
    except link.Error as error:
        if _number(error) != _NO_CHECKPOINT:
            raise
        return None


def backup(one: Any) -> str | None:
    """The XML of the backup that runs, or None."""
    try:
        return str(one.backupGetXMLDesc(0))
    except link.Error as error:
        # A machine that is off has none either.
        if _number(error) != _NO_BACKUP and one.isActive():
            raise
        return None


def _number(error: Exception) -> int:
    return int(getattr(error, "get_error_code", lambda: 0)() or 0)
