"""From what was typed to the records of a stream and its replica, made once and found again ever after."""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine import errors, places, registry
from engine.device import images

BLOCK_SIZE = 64 << 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says of the pair.  Empty and None: not said."""

    source: str
    target: str
    bus: str = ""
    name: str = ""
    format: str = ""
    target_format: str = ""
    block_size: int | None = None
    adopt: bool = False
    config: str = ""
    "The file whose [kafka] table says how to get into the bus."


@dataclass(frozen=True, slots=True)
class Pair:
    """A stream, one replica of it, and the bytes of each disk of the source."""

    stream: registry.Stream
    replica: registry.Replica
    sizes: tuple[int, ...]
    new: bool
    "The stream was not known before."


async def pair(where: places.Places, wanted: Wanted, still: bool = False) -> Pair:
    """Find the pair, or make what is new of it; nothing is written yet.  Raises Usage, NotFound.

    With `still` damaged records stay where they are, too.
    """
    source, target = _place(wanted.source), _place(wanted.target)
    found = await images.describe(source, format=wanted.format or None)
    if _same(source, target):
        raise errors.Usage(f"{source} cannot be its own replica")
    known = registry.Registry(where, still)
    stream = known.of_source(source)
    new = stream is None
    if stream is None:
        stream = _stream(where, wanted, source, found.format, {one.label for one in known.streams()})
    elif len(stream.disks) > 1:
        raise errors.Usage(
            f"{source} is a disk of stream {stream.label}, which has several: the daemons replicate those"
        )
    else:
        stream = _again(stream, wanted)
    return Pair(stream, _replica(known, wanted, stream, target), (found.size,), new)


def _place(spec: str) -> str:
    """The path without links, or the URL as it is."""
    parsed = images.parse(spec)
    return os.path.realpath(parsed) if isinstance(parsed, str) else spec


def _same(source: str, target: str) -> bool:
    both = os.path.exists(source) and os.path.exists(target)
    return source == target or (both and os.path.samefile(source, target))


def _stream(where: places.Places, wanted: Wanted, source: str, kind: str, taken: set[str]) -> registry.Stream:
    label = wanted.name or _free(Path(source).stem or "disk", taken)
    if label in taken:
        raise errors.Usage(f"there is a stream {label!r} already: choose another --name")
    disk = registry.Disk("vda", source, wanted.format or kind, wanted.block_size or BLOCK_SIZE)
    bus, config = absolute(wanted.bus) or where.log, os.path.abspath(wanted.config) if wanted.config else ""
    return registry.Stream(str(uuid.uuid4()), label, bus, (disk,), config=config)


def _free(label: str, taken: set[str]) -> str:
    names = itertools.chain([label], (f"{label}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def absolute(bus: str) -> str:
    """The URL as it is found again from any directory."""
    return f"log:{os.path.abspath(bus[4:])}" if bus.startswith("log:") and bus[4:] else bus


def _again(stream: registry.Stream, wanted: Wanted) -> registry.Stream:
    size = stream.disks[0].block_size
    if wanted.block_size not in (None, size):
        raise errors.Usage(f"stream {stream.label} has blocks of {size:,} bytes; that cannot be changed")
    disk = replace(stream.disks[0], format=wanted.format or stream.disks[0].format)
    config = os.path.abspath(wanted.config) if wanted.config else stream.config
    bus = absolute(wanted.bus) or stream.bus
    return replace(stream, label=wanted.name or stream.label, bus=bus, disks=(disk,), config=config)


def _replica(known: registry.Registry, wanted: Wanted, stream: registry.Stream, target: str) -> registry.Replica:
    replica = known.of_target(target)
    if replica is None:
        if not wanted.adopt and isinstance(images.parse(target), str) and os.path.lexists(target):
            raise registry.foreign(target)
        disk = registry.Disk(stream.disks[0].name, target, wanted.target_format, stream.disks[0].block_size)
        return registry.Replica(
            secrets.token_hex(16), stream.stream, stream.bus, (disk,), unread=wanted.adopt, prefix=stream.prefix,
            config=stream.config,
        )  # fmt: skip
    if replica.stream != stream.stream:
        of = next((one.label for one in known.streams() if one.stream == replica.stream), replica.stream)
        raise errors.Usage(f"{target} is the replica of stream {of}: take another target for {stream.label}")
    unread = replica.unread or (wanted.adopt and not replica.begun)
    return replace(replica, bus=stream.bus, prefix=stream.prefix, config=stream.config, unread=unread)


@contextmanager
def settled(where: places.Places) -> Iterator[None]:
    """One process at a time decides what is new in a state directory."""
    places.make(where.root)
    fd = os.open(where.root / "registry.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
