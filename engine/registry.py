"""Which disks are streams, and which files are their replicas: a small JSON file each, for people too.

Written to a new file, synced, and renamed over the old one: a reader sees the one or the other.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import errors, linux, places
from engine.store import database
from schemas import topics

log = logging.getLogger("vmferry.state")
VERSION = 2
"""1 had no `prefix`, `config` and `site`."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk: its `name` in the stream, and the image.  `device` and `inode` tell it from another of its path."""

    name: str
    path: str
    format: str
    block_size: int
    device: int = 0
    inode: int = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """What a stream is of.  `begun`: its source has had a state.  `site` is its source's, where one was named.

    `prefix` begins the names of its topics; `config` is the file whose [kafka] table says how to get into its bus.
    A disk's place in `disks` is its number for ever.  A stream of which only a replica is here has no path in its
    disks; and a disk that its source reads no more has none, either.
    """

    stream: str
    label: str
    bus: str
    disks: tuple[Disk, ...]
    begun: bool = False
    site: str = ""
    prefix: str = topics.PREFIX
    config: str = ""

    @property
    def identity(self) -> bytes:
        return uuid.UUID(self.stream).bytes

    @property
    def first(self) -> Disk | None:
        """The first disk that its source reads; None where that is elsewhere."""
        return next((disk for disk in self.disks if disk.path), None)


@dataclass(frozen=True, slots=True)
class Replica:
    """Where a replica lies.  `begun`: it has had a state.  `unread`: its digests must first be read from its image.

    `left` is (size, mtime in ns) of each image as we last closed it: another value means that somebody wrote to it.
    `held`: why nothing may be applied to it (consumers/held.py); here as well, so that it outlives a lost state.
    """

    replica: str
    stream: str
    bus: str
    disks: tuple[Disk, ...]
    begun: bool = False
    unread: bool = False
    left: tuple[tuple[int, int], ...] = ()
    held: str = ""
    prefix: str = topics.PREFIX
    config: str = ""

    @property
    def identity(self) -> bytes:
        return bytes.fromhex(self.replica)

    @property
    def paths(self) -> dict[str, str]:
        """Its images, by the names of their disks."""
        return {disk.name: disk.path for disk in self.disks}


class Registry:
    """All records below one state directory.  With `still`, nothing is moved: for a look.

    `newer` is told of each record that a newer vmferry wrote, and its stream's UUID, and the others are given: for who
    serves many streams.  Without it the first such record is raised.
    """

    def __init__(
        self, where: places.Places, still: bool = False, newer: Callable[[str, errors.Newer], None] | None = None
    ) -> None:
        self.places = where
        self._still = still
        self._newer = newer

    @property
    def readable(self) -> bool:
        """Whether we may look at what is recorded here.  A daemon's group may call it, and not look into its state."""
        return os.access(self.places.streams, os.R_OK | os.X_OK)

    def streams(self) -> list[Stream]:
        return [one for one in self._all("*/stream.json", Stream) if isinstance(one, Stream)]

    def replicas(self, stream: str = "*") -> list[Replica]:
        """The replicas of one stream, or of all."""
        found = self._all(f"{stream}/replica-*/replica.json", Replica)
        return [one for one in found if isinstance(one, Replica)]

    def _all(self, pattern: str, kind: type[Stream] | type[Replica]) -> Iterator[Stream | Replica | None]:
        for path in sorted(self.places.streams.glob(pattern)):
            try:
                yield _load(path, kind, self._still)
            except errors.Newer as why:
                if self._newer is None:
                    raise
                self._newer(path.relative_to(self.places.streams).parts[0], why)

    def save(self, record: Stream | Replica) -> None:
        """Durable when it returns."""
        if isinstance(record, Stream):
            _save(self.places.stream(record.stream) / "stream.json", record)
        else:
            _save(self.places.replica(record.stream, record.replica) / "replica.json", record)

    def of_source(self, path: str) -> Stream | None:
        """The stream whose first disk is the image at `path`; one that was moved is known by its inode, and given its
        new path."""
        wanted, here = place(path), _identity(path)
        moved: Stream | None = None
        for one in self.streams():
            first = one.first
            if first is None:
                continue
            if first.path == wanted:
                return one
            if not os.path.exists(first.path) and here != (0, 0) and (first.device, first.inode) == here:
                moved = one
        if moved is None or moved.first is None:
            return None
        was = moved.first
        log.warning("%s was %s: the stream follows it", wanted, was.path)
        return replace(moved, disks=tuple(replace(one, path=wanted) if one is was else one for one in moved.disks))

    def of_target(self, path: str) -> Replica | None:
        """The replica whose image is at `path`."""
        wanted = place(path)
        return next((one for one in self.replicas() if any(disk.path == wanted for disk in one.disks)), None)

    def find(self, name: str) -> Stream:
        """The one stream that `named` finds.  Raises NotFound, Usage."""
        found = self.named(name)
        if len(found) > 1:
            raise errors.Usage(f"{name!r} names {len(found)} streams: {', '.join(one.stream for one in found)}")
        return found[0]

    def named(self, name: str) -> list[Stream]:
        """Streams by label, UUID or the beginning of it, or the path of a source or of a replica.  Raises NotFound."""
        wanted = place(name)
        ours = {one.stream for one in self.replicas() if any(disk.path == wanted for disk in one.disks)}
        found = [
            one
            for one in self.streams()
            if name == one.label
            or (len(name) > 3 and one.stream.startswith(name))
            or one.stream in ours
            or any(disk.path == wanted for disk in one.disks)
        ]
        if not found:
            known = ", ".join(one.label for one in self.streams()) or "none"
            raise errors.NotFound(f"no stream {name!r} in {self.places.root}; these are known: {known}")
        return found


def place(path: str) -> str:
    """Without links and from the root; a URL as it is."""
    return path if "://" in path else os.path.realpath(path)


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def foreign(path: str) -> errors.Usage:
    """What is said of a target that exists and is nobody's replica."""
    return errors.Usage(
        f"{path} exists, and is no replica that is known here.  Take another target, or give --adopt: then it is read,"
        " and everything in it that differs from the source is overwritten"
    )


def identified(disk: Disk) -> Disk:
    """The disk with the device and inode that its path has now; zeros where there is nothing."""
    device, inode = _identity(disk.path)
    return replace(disk, device=device, inode=inode)


def _save(path: Path, record: Stream | Replica) -> None:
    places.make(path.parent)
    linux.replace_text(path, json.dumps({"version": VERSION, **dataclasses.asdict(record)}, indent=1) + "\n")


def _load(path: Path, kind: type[Stream] | type[Replica], still: bool) -> Stream | Replica | None:
    """The record; None, said aloud and set aside, when it cannot be read.  Raises Newer."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields.pop("version")
        if version > VERSION:
            raise errors.Newer(path, version, VERSION)
        disks = tuple(Disk(**disk) for disk in fields.pop("disks"))
        left: Any = fields.pop("left", None)
        if left is not None:
            fields["left"] = tuple((size, changed) for size, changed in left)
        return kind(disks=disks, **fields)
    except (ValueError, KeyError, TypeError, AttributeError) as why:
        goal = path if still else database.set_aside(path)
        log.warning("%s does not read as written (%s): it is now %s", path, why, goal.name)
        return None
    except OSError as why:
        raise linux.failure(why, str(path), "read it", opening=True) from why
