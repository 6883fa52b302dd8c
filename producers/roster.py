"""The disks of a stream by their numbers: who was there once keeps his, and who is new comes last."""

from __future__ import annotations

from dataclasses import replace

from engine import errors, registry
from engine.daemon.config import StreamConfig
from engine.device import images

BLOCK_SIZE = 64 << 10


async def disks(one: StreamConfig, before: tuple[registry.Disk, ...]) -> tuple[registry.Disk, ...]:
    """The disks as the config has them now.  One that it has no more stays in its place, without a path.

    Raises what `images.describe` does of a disk that is new, or lies elsewhere; Usage where one was given another name.
    """
    wanted = {name: registry.place(path) if path else "" for name, path in one.disks}
    places = {disk.path: disk.name for disk in before if disk.path}
    for name, path in wanted.items():
        if path and places.get(path, name) != name:
            raise errors.Usage(f"{path} is {places[path]} of stream {one.name}, and keeps that name: not {name}")
    found = [await _disk(one, wanted.get(disk.name, ""), disk) for disk in before]
    known = {disk.name for disk in before}
    fresh = [registry.Disk(name, "", "", one.block_size or BLOCK_SIZE) for name in wanted if name not in known]
    return (*found, *[await _disk(one, wanted[disk.name], disk) for disk in fresh if wanted[disk.name]])


async def _disk(one: StreamConfig, path: str, was: registry.Disk) -> registry.Disk:
    """The disk at `path` in the place of what it was.  Blocks stay as large as they were."""
    if not path or (path == was.path and one.format in ("", was.format)):
        return replace(was, path=path)
    found = await images.describe(path, format=one.format or None)
    return replace(was, path=path, format=one.format or found.format)
