"""Since when a hypervisor's word of what changed is taken: the checkpoint that the map of a stream stands on.

A checkpoint says what was written through the running machine since it was made, and nothing of what was written
otherwise: offline, by a revert, or behind a bitmap that did not survive.  So the machine carries, for as long as it
runs, a mark with the name of the checkpoint that was kept last.  What is started anew has none, and what is reverted
has an older one; then nothing is believed, and everything is read once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from engine import errors, linux

log = logging.getLogger("vmferry.ship")
VERSION = 1
FILE = "anchor.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """The `checkpoint` that the map stands on; names and sizes (bytes) of the disks as they were then."""

    checkpoint: str = ""
    disks: tuple[tuple[str, int], ...] = ()


class Store(Protocol):
    """Where it is kept, durably."""

    def load(self) -> Kept: ...

    def save(self, kept: Kept) -> None: ...


class Anchor:
    """Of one stream."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept = store.load()

    @property
    def checkpoint(self) -> str:
        """The one that is kept, whether it can still be relied on or not."""
        return self._kept.checkpoint

    def since(self, there: Collection[str], mark: str, disks: Sequence[tuple[str, int]]) -> tuple[str, str]:
        """(the checkpoint since which changes are known, why there is none), one of them empty.

        `there` are the checkpoints that the machine has, `mark` is the one that it carries, `disks` are its disks now.
        """
        kept = self._kept
        if not kept.checkpoint:
            return "", "no pass over it was kept yet"
        if kept.checkpoint not in there:
            return "", f"its checkpoint {kept.checkpoint} is gone"
        if mark != kept.checkpoint:
            return "", "it was started, reverted or changed offline since the last pass"
        if tuple(disks) != kept.disks:
            return "", "its disks, or their sizes, are others than in the last pass"
        return kept.checkpoint, ""

    def keep(self, checkpoint: str, disks: Sequence[tuple[str, int]]) -> None:
        """All that was written up to `checkpoint` is on the bus and in the map, durably.  Now so is this."""
        self._kept = Kept(checkpoint, tuple(disks))
        self._store.save(self._kept)

    def drop(self) -> None:
        """Nothing is believed before the next pass is kept."""
        if self._kept.checkpoint:
            self._kept = Kept()
            self._store.save(self._kept)


class FileStore:
    """A small file beside the source's state; lost or damaged, everything is read once."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE

    def load(self) -> Kept:
        """Raises Newer."""
        try:
            fields = json.loads(self._path.read_text(encoding="utf-8"))
            version = fields.pop("version")
            if version > VERSION:
                raise errors.Newer(self._path, version, VERSION)
            return Kept(str(fields["checkpoint"]), tuple((str(name), int(size)) for name, size in fields["disks"]))
        except FileNotFoundError:
            return Kept()
        except OSError as why:
            raise linux.failure(why, str(self._path), "read it", opening=True) from why
        except (ValueError, KeyError, TypeError, AttributeError) as why:
            log.warning("%s does not read as written (%s): everything is read once", self._path, why)
            return Kept()

    def save(self, kept: Kept) -> None:
        linux.replace_text(self._path, json.dumps({"version": VERSION, **asdict(kept)}))
