"""A machine as if we had never been there."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from engine import errors
from engine.hypervisor.connection import Hypervisor
from producers.machine.source import PREFIX
from producers.machine.view import end_leftover


async def machine(machines: Hypervisor, uuid: str, place: Path) -> str:
    """No job, checkpoint, bitmap, mark or file of ours is left; gives what there is to say of it.

    Repeatable.  Raises Transient while libvirt is away, InUse while somebody else's job keeps a checkpoint.
    """
    try:
        domain = await machines.domain(uuid)
    except errors.NotFound:
        await asyncio.to_thread(_remove, place)
        return "the machine is gone: bitmaps in its images, if they are still somewhere, are called vmferry-…"
    await end_leftover(machines, domain, place)
    ours = {one.name for one in await machines.checkpoints(uuid)} | await machines.bitmaps(uuid)
    for name in sorted(one for one in ours if one.startswith(PREFIX)):
        await machines.drop_checkpoint(uuid, name)
    if domain.active:
        await machines.set_mark(uuid, "")
    await asyncio.to_thread(_remove, place)
    return ""


def _remove(place: Path) -> None:
    if place.exists():
        shutil.rmtree(place)
