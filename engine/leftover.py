"""What a move of a replica that never came to its end has left: noted before it begins, and gone when it is done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from engine import linux

FILE = "moving"
SUFFIX = ".moving"
"""Behind the name of a copy that is not whole."""


def begin(directory: Path, goal: str, disk: str = "") -> None:
    """Note, durably, that a copy is about to be made for `goal`, and of which disk where there are several.

    Raises Full, Usage, DeviceFailed.
    """
    linux.replace_text(directory / FILE, f"{goal}\0{disk}" if disk else goal)


def end(directory: Path) -> None:
    """There is nothing more to say of it.  Repeatable.  A crash that undoes this has it said of files that are gone."""
    (directory / FILE).unlink(missing_ok=True)


def words(directory: Path, paths: Mapping[str, str], name: str) -> str:
    """What the operator of a replica of stream `name` should know; nothing when nothing was left.

    `paths` are its images, by the names of their disks.
    """
    try:
        goal, _, disk = (directory / FILE).read_text(encoding="utf-8", errors="surrogateescape").partition("\0")
    except OSError:
        return ""
    left = [one for one in (f"{goal}{SUFFIX}", goal) if os.path.lexists(one)]
    if not left or goal in paths.values():
        return ""
    path = paths.get(disk) or next(iter(paths.values()))
    return (
        f"a move to {goal} was not finished, and the replica is {path} as before: remove {' and '.join(left)}, or do it"
        f" again: {'remove it, then ' if goal in left else ''}`vmferry target move {name} {goal}"
        f"{f' --disk {disk}' if disk else ''}`"
    )
