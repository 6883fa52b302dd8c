"""Mirrors that are begun by QEMU's own monitor: what it is told, and what its answers say; no I/O.

Sources: QEMU's QMP reference (blockdev-mirror, query-block-jobs, query-block, query-named-block-nodes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

OURS = "vmferry-"
"""What our jobs, nodes, exports and bitmaps begin with."""
GRANULARITY = 4096
"""Bytes of a mirror: overlapping pieces of this size wait for each other (sequential writes of 4 KiB to a sink of 5 ms:
1,489 a second, and 185 with 64 KiB)."""

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One mirror of ours, as QEMU says it is."""

    ready: bool
    "It was in step once."
    paused: bool
    failed: bool
    "Its target, or its source, gave an error."
    parked: bool
    "It was paused, and has ended all it had under way; what the guest writes is mirrored by the way."
    left: int
    "Bytes that are under way, or were found to be behind: those of the guest's writes, too."
    synced: bool | None
    "Whether nothing is behind; None where QEMU does not say (before 8.2)."
    ending: bool


def of(disk: str) -> str:
    """Our name for the job, the filter and the export of `disk`; QEMU takes 31 bytes."""
    return f"{OURS}{disk}"


def target_of(disk: str) -> str:
    """Our name for the node that is the way to the tap."""
    return f"{OURS}{disk}-tap"


def target(disk: str, socket: str) -> dict[str, Any]:
    """What blockdev-add takes: the tap's export of `disk`.

    reconnect-delay 0: while the tap is away a write of the guest's fails on this side at once, and waits for nobody.
    """
    return {
        "driver": "nbd", "node-name": target_of(disk), "server": {"type": "unix", "path": socket}, "export": disk,
        "reconnect-delay": 0,
    }  # fmt: skip


def mirror(disk: str, node: str) -> dict[str, Any]:
    """What blockdev-mirror takes for `disk`, whose topmost node is `node`: nothing is copied, and every write from now
    on is sent before the guest hears that it is done."""
    return {
        "job-id": of(disk), "device": node, "target": target_of(disk), "sync": "none",
        "copy-mode": "write-blocking", "on-target-error": "stop", "on-source-error": "report",
        "granularity": GRANULARITY, "filter-node-name": of(disk),
    }  # fmt: skip


def jobs(answer: Iterable[Answer]) -> dict[str, Job]:
    """query-block-jobs -> our mirrors, by disk."""
    return {one["device"].removeprefix(OURS): _job(one) for one in answer if one["device"].startswith(OURS)}


def _job(one: Answer) -> Job:
    status = one["status"]
    return Job(
        ready=one["ready"], paused=one["paused"], failed=one["io-status"] != "ok",
        parked=status in ("standby", "paused"), left=one["len"] - one["offset"], synced=one.get("actively-synced"),
        ending=status in ("waiting", "pending", "aborting", "concluded", "null"),
    )  # fmt: skip


def tops(blocks: Iterable[Answer], aliases: Mapping[str, str]) -> dict[str, Answer]:
    """query-block, and the alias of each disk -> the topmost node of each disk that QEMU has, as it describes it."""
    found = {}
    for one in blocks:
        parts = PurePosixPath(one.get("qdev") or one["device"]).parts
        for disk, alias in aliases.items():
            if alias and alias in parts and "inserted" in one:
                found[disk] = one["inserted"]
    return found


def below(top: Answer, nodes: Sequence[Answer]) -> str:
    """The node that holds the disk's content: `top`, or, where that is the filter of a mirror, the one below it.

    QEMU does not say who is whose parent; a filter has the file name of what it filters.  A format's node has the name
    of its file's node as well: of those libvirt calls the upper one …-format.  Nothing where there is none.
    """
    if top["drv"] != "mirror_top":
        return str(top["node-name"])
    same = [
        one["node-name"] for one in nodes if one.get("file") == top["file"] and not one["node-name"].startswith(OURS)
    ]
    return next((name for name in same if name.endswith("-format")), same[0] if same else "")


def behind(nodes: Iterable[Answer], node: str) -> int:
    """query-named-block-nodes -> bytes that the mirror of `node` has still to send again: its own bitmap, which alone
    has no name, counts them."""
    return sum(
        bitmap["count"] for one in nodes if one["node-name"] == node
        for bitmap in one.get("dirty-bitmaps", ()) if not bitmap.get("name")
    )  # fmt: skip


def named(node: Answer, bitmap: str) -> Answer:
    """What QEMU says of the bitmap of this name on a node; nothing when there is none."""
    return next((one for one in node.get("dirty-bitmaps", ()) if one.get("name") == bitmap), {})


def sound(nodes: Iterable[Answer], node: str, bitmap: str) -> bool:
    """Whether the bitmap of this name on `node` is there, and has counted all the time."""
    found = next((named(one, bitmap) for one in nodes if one["node-name"] == node), {})
    return bool(found and found["recording"] and not found.get("inconsistent"))


def chain(top: Answer) -> list[str]:
    """The file names of a disk's image and of what lies below it, topmost first."""
    image, found = top.get("image"), []
    while image:
        found.append(str(image["filename"]))
        image = image.get("backing-image")
    return found
