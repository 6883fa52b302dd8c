"""A replica to another place: copied, read back and compared by its digests, and only then taken for the replica.

What a crash leaves, step by step: a copy under a name of its own, which the next try begins anew; then the whole copy
under its own name beside the replica, which is still the old one; then the new one.  At no time is it neither.  What
is left is noted before it is made (engine/leftover.py), so that `status` can say what to do with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from consumers import check, offline, state
from consumers.offline import Offline
from consumers.state import Told
from engine import errors, leftover, linux, ports, registry
from engine.device import images
from engine.places import Places

_PIECE = 4 << 20
_SPAN = 1 << 30


@dataclass(frozen=True, slots=True)
class Moved:
    """Which disk, from where to where; `copied` bytes of data.  The old image is left where it is."""

    record: registry.Replica
    disk: str
    new: str
    old: str
    copied: int


async def move(
    where: Places, record: registry.Replica, goal: str, told: Told, format: str = "", secret_file: str = "",
    disk: str = "",
) -> Moved:  # fmt: skip
    """Move the image of a replica's disk to `goal`, where nothing may be yet.  Nothing is applied to it meanwhile.

    `disk` may be left out where there is one only.
    Raises Usage, InUse, NotFound, Full, DeviceFailed, Divergence (the replica, or its copy, is not what it should be).
    """
    goal = _free(goal)
    number = _number(record, disk)
    was = record.disks[number]
    if not isinstance(images.parse(was.path), str):
        raise errors.Usage(f"{was.path}: what lies in a file or a block device can be moved")
    with _unfinished(Path(f"{goal}{leftover.SUFFIX}")) as fresh:
        async with offline.open_replica(where, record, write=True, secret_file=secret_file) as opened:
            await opened.replay.recover()
            if number >= len(opened.target.leaves):
                raise errors.Usage(f"{was.name} of it holds nothing yet: there is nothing to move")
            leftover.begin(opened.directory, goal, was.name if len(record.disks) > 1 else "")
            kind = format or was.format or images.detect(was.path)
            copied = await _copy(opened, number, str(fresh), kind, secret_file, told)
            _name(fresh, goal)
            moved = _take(opened, number, goal, kind)
    leftover.end(where.replica(record.stream, record.replica))
    return Moved(moved, was.name, goal, was.path, copied)


def _number(record: registry.Replica, name: str) -> int:
    """Which disk is meant.  Raises NotFound, Usage."""
    names = [disk.name for disk in record.disks]
    if not name and len(names) > 1:
        raise errors.Usage(f"it has {len(names)} disks: name one with --disk: {', '.join(names)}")
    if name and name not in names:
        raise errors.NotFound(f"it has no disk {name!r}: it has {', '.join(names)}")
    return names.index(name) if name else 0


def _free(goal: str) -> str:
    """The place without links, where nothing is."""
    if os.path.lexists(goal):
        raise errors.Usage(f"{goal} exists: name a place where nothing is, or remove it first")
    return os.path.realpath(goal)


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """The name of a copy that is not whole: what an earlier try left goes first, what this one leaves goes too."""
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


async def _copy(opened: Offline, number: int, fresh: str, format: str, secret_file: str, told: Told) -> int:
    device, leaves = opened.target.devices[number], opened.target.leaves[number]
    copy = await images.open_image(
        fresh, True, format=format, secret_file=secret_file, create_size=device.size, offload=opened.pool,
    )  # fmt: skip
    try:
        copied = await _data(device, copy, told)
        await copy.flush()
        check.drop_cache((registry.Disk("", fresh, "", 0),))
        finding = await check.Check(leaves, copy, opened.pool, told).run(False)
    finally:
        await copy.close()
    roots = opened.replay.state.position.roots
    if finding.bad_blocks or (roots and finding.root != roots[number]):
        old = opened.keeper.record.disks[number].path
        raise errors.Divergence(
            f"the copy {fresh} of {old} is not what its digests say, in {finding.bad_blocks} blocks: nothing"
            " was moved.  `vmferry verify` tells whether the replica itself is"
        )
    return copied


async def _data(device: ports.BlockDevice, copy: ports.BlockDevice, told: Callable[[int], None]) -> int:
    copied = 0
    for low in range(0, device.size, _SPAN):
        for found in await device.extents(low, min(_SPAN, device.size - low)):
            for at in range(found.start, found.end, _PIECE) if not found.zero else ():
                length = min(_PIECE, found.end - at)
                await copy.write(at, await device.read(at, length))
                copied += length
                told(length)
    return copied


def _name(fresh: Path, goal: str) -> None:
    """The whole copy gets its name, durably.  A crash behind this: it is there, and is not the replica."""
    os.rename(fresh, goal)
    linux.sync_directory(goal)


def _take(opened: Offline, number: int, goal: str, kind: str) -> registry.Replica:
    """The record says that it is the replica.  A crash behind this: it is, and the old image is nobody's."""
    disks = list(opened.keeper.record.disks)
    disks[number] = registry.identified(replace(disks[number], path=goal, format=kind))
    # `left`: whoever writes to them from now on, is noticed.
    opened.keeper.save(disks=tuple(disks), left=state.left(disks))
    return opened.keeper.record
