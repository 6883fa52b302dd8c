"""What a tap is told to do: a JSON file that the source daemon writes; it holds no secret."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engine import errors, linux

VERSION = 1
LONGEST_SOCKET = 107
"""Bytes of a UNIX socket's path; QEMU has no way round that."""


class Ack(enum.Enum):
    """A write is answered once its record is in our memory, in the spool's page cache, on its medium, or on the bus."""

    MEMORY = "memory"
    SPOOL = "spool"
    FSYNC = "spool-fsync"
    BUS = "bus"


@dataclass(frozen=True, slots=True)
class Order:
    """Read once, at the door."""

    spool: Path
    """Directory of the spool, an embedded log; one tap at a time."""

    socket: Path
    """Where NBD is spoken.  Its directory has to be writable for us, and the socket for QEMU's user."""

    control: Path
    """Where the daemon and the watchdog ask."""

    disks: dict[str, int]
    """Name of the export -> bytes, exactly those of the source."""

    ack: Ack = Ack.SPOOL
    quota: int = 8 << 30
    """Bytes of the spool, at most: then the replica is broken, and not the guest.  8 GiB are 80 s at 100 MB/s."""

    limit: float = 0.5
    """Seconds that a reply waits for a medium or a bus before the policy falls to `spool`.  A guest may wait 2 s in
    all, and the watchdog takes 1.25 of them."""

    sync_every: float = 0.01
    """Seconds after which a write is made durable though no reply waits for it, so that it can be shipped.
    Needs testing on rotating disks."""

    first: int = 0
    """Numbers begin no lower, whatever the spool holds: they went on to there in one that is gone."""

    mode: int = 0o660
    """Rights of the NBD socket; the control socket is ours alone."""

    group: str = ""
    """Whose the NBD socket is, so that QEMU's user may connect; ours when it is empty."""


def load(path: Path) -> Order:
    """Raises Usage, naming file and key."""
    try:
        found = json.loads(path.read_text())
        version = found.pop("version")
        if version > VERSION:
            raise errors.Newer(path, version, VERSION)
        return parse(found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as why:
        raise errors.Usage(f"{path}: not an order for a tap: {why!r}") from why


def parse(found: dict[str, Any]) -> Order:
    """Raises ValueError, TypeError and KeyError for what is wrong."""
    unknown = set(found) - {field.name for field in fields(Order)}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    given = dict(found)
    for name in ("spool", "socket", "control"):
        given[name] = Path(given[name])
        if not given[name].is_absolute():
            raise ValueError(f"{name} = {given[name]}: an absolute path is wanted")
        if name != "spool" and len(str(given[name]).encode()) > LONGEST_SOCKET:
            raise ValueError(f"{name} = {given[name]}: at most {LONGEST_SOCKET} bytes")
    if "ack" in given:
        given["ack"] = Ack(given["ack"])
    order = Order(**given)
    if not order.disks or not all(0 < size < 1 << 63 for size in order.disks.values()):
        raise ValueError(f"disks = {order.disks}: names and sizes in bytes are wanted")
    return order


def save(path: Path, order: Order) -> None:
    """Write it, durably.  Raises Full, Usage, DeviceFailed."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(order).items()}
    linux.replace_text(path, json.dumps({"version": VERSION, **plain, "ack": order.ack.value}, indent=1) + "\n")
