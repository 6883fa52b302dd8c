"""What a store may take, as the last run was told: kept beside the store, so that `vmferry status` can say so."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from engine import errors, linux

WARN_AT = 0.8
"""Share of a quota, or of a file system, from which on it is said aloud."""
UNDO = "undo-quota"
LOG = "log-quota"
STATE = "state-quota"
VERSION = 1
"""0 was the number alone."""
PRE_IMAGES = "undo"
"""The files that a quota of the state does not count: they have their own."""


@dataclass(frozen=True, slots=True)
class Stays:
    """One thing that is there after a stream was forgotten: what, where, how many bytes; None: not known here.

    `ours`: it is removed with --purge.  The disk of a source never is.
    """

    what: str
    path: str
    size: int | None
    ours: bool = True


def keep(directory: Path, name: str, amount: int) -> None:
    """Remember `amount` bytes, 0 for no quota, durably.  Raises Newer, Full, DeviceFailed."""
    if kept(directory, name) == amount:
        return
    linux.replace_text(directory / name, json.dumps({"version": VERSION, "bytes": amount}) + "\n")


def kept(directory: Path, name: str) -> int:
    """The quota in bytes; 0 where none was given, or what was kept does not read as one.  Raises Newer."""
    try:
        said = json.loads((directory / name).read_text())
        said = said if isinstance(said, dict) else {"version": 0, "bytes": said}
        if (version := int(said["version"])) > VERSION:
            raise errors.Newer(directory / name, version, VERSION)
        return max(0, int(said["bytes"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0


def used(place: Path, but: str = "") -> int:
    """Bytes that a file, or all below a directory but the files called `but`, take on their medium.

    What was punched out does not count.
    """
    if not place.is_dir():
        return place.stat().st_blocks * 512 if place.exists() else 0
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # gone between the listing and here
                total += os.stat(os.path.join(folder, name)).st_blocks * 512 if name != but else 0
    return total
