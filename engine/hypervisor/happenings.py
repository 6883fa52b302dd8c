"""What befalls machines, in our words, from the numbers of libvirt's events (libvirt-domain.h; they never change)."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOST, AGAIN = "connection lost", "connected"
"""Of no machine: libvirt is away, and libvirt is there again: what happened between is not told."""


@dataclass(frozen=True, slots=True)
class Happening:
    """`what` is one of the words below; `detail` the reason, the disk or the device, in libvirt's words."""

    uuid: str
    what: str
    detail: str = ""


LIFECYCLE: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("defined", ("added", "updated", "renamed", "from snapshot")),
    1: ("undefined", ("removed", "renamed")),
    2: ("started", ("booted", "migrated", "restored", "from snapshot", "woken up")),
    3: ("paused", ("asked", "migrated", "io error", "watchdog", "restored", "from snapshot", "api error",
                   "postcopy", "postcopy failed")),
    4: ("resumed", ("asked", "migrated", "from snapshot", "postcopy", "postcopy failed")),
    5: ("stopped", ("shut down", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot")),
    6: ("shutting down", ("finished", "by guest", "by host")),
    7: ("paused", ("to memory", "to disk")),
    8: ("crashed", ("panicked", "crashloaded")),
}  # fmt: skip
"""Event -> (word, its reasons in order)."""

_CRASHES = {"crashed", "failed"}
"""Reasons to have stopped that nobody asked for: QEMU was killed, or broke."""

JOBS = {1: "pull", 2: "copy", 3: "commit", 4: "active commit", 5: "backup"}
ENDS = {0: "completed", 1: "failed", 2: "cancelled", 3: "ready"}
AGENTS = {1: "agent connected", 2: "agent disconnected"}

OPERATIONS = {
    0: "", 1: "start", 2: "save", 3: "restore", 4: "migration in", 5: "migration out", 6: "snapshot", 7: "revert",
    8: "dump", 9: "backup", 10: "snapshot delete",
}  # fmt: skip

_DISKS = re.compile(r"^(ua-|(virtio|usb)-disk\d|(scsi|sata|ide|fdc)\d+-\d)")
"""Aliases that libvirt gives to disks; one that a user gave (ua-) says nothing of what it is."""


def lifecycle(uuid: str, event: int, reason: int) -> Happening:
    """An event that is not known keeps its number."""
    word, reasons = LIFECYCLE.get(event, (f"event {event}", ()))
    detail = reasons[reason] if 0 <= reason < len(reasons) else f"reason {reason}"
    return Happening(uuid, "crashed" if word == "stopped" and detail in _CRASHES else word, detail)


def block_job(uuid: str, disk: str, kind: int, end: int) -> Happening:
    """A job of one disk: ready, or over."""
    ended = ENDS.get(end, f"end {end}")
    what = "job ready" if ended == "ready" else "job ended"
    return Happening(uuid, what, f"{disk} {JOBS.get(kind, f'job {kind}')} {ended}")


def job(uuid: str, operation: int) -> Happening:
    """A job of the whole machine is over."""
    return Happening(uuid, "job ended", OPERATIONS.get(operation, f"operation {operation}"))


def device(uuid: str, what: str, alias: str) -> Happening | None:
    """A device came or went (`what` is "added" or "removed"); None for what can be no disk."""
    return Happening(uuid, f"disk {what}", alias) if _DISKS.match(alias) else None


def agent(uuid: str, state: int) -> Happening:
    """The guest's agent opened its channel, or closed it."""
    return Happening(uuid, AGENTS.get(state, f"agent state {state}"))
