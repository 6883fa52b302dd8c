"""The disks of one stream, as a config names them: `disk = PATH`, or `disks = { vda = PATH, vdb = PATH }`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from engine import errors
from engine.daemon.toml import Convert, Reader

Disks = tuple[tuple[str, str], ...]
"""(volume, path), in order; without a path the volume is given up: it holds no bytes from now on."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}")
FIRST = "vda"
"""What a stream's only disk is called where nobody names it."""


class Inside(errors.Usage):
    """What is wrong with one `key` of a table."""

    def __init__(self, why: str, key: str) -> None:
        super().__init__(why)
        self.key = key


def parse(value: Mapping[str, Any], path: Convert) -> Disks:
    """The table of `disks`; `path` converts each path.  Raises Usage, which names the key."""
    found = []
    for name, one in value.items():
        try:
            if not _NAME.fullmatch(name):
                raise errors.Usage(f"{name!r}: the name of a disk is of letters, digits and dashes, at most 32")
            found.append((name, "" if one == "" else path(one)))
        except errors.Usage as why:
            raise Inside(str(why), name) from why
    if not any(one for _, one in found):
        raise errors.Usage('at least one disk is wanted, as in { vda = "/srv/web-1.qcow2" }')
    return tuple(found)


def take(reader: Reader, place: tuple[str, ...], table: Mapping[str, Any], values: dict[str, Any]) -> None:
    """Make one key of the two in the values of a stream: just one has to be there."""
    if ("disk" in table) == ("disks" in table):
        reader.wrong(place, "both disk and disks stand there: keep one" if "disk" in table else "disk is missing")
    if "disk" in values:
        values["disks"] = ((FIRST, values.pop("disk")),)


def shared(reader: Reader, place: tuple[str, ...], ours: Disks, taken: Mapping[str, str]) -> None:
    """Say which of our disks, at `place`, is that of another stream, or stands twice.  `taken`: whose each path is."""
    seen: dict[str, str] = {}
    for name, path in ours:
        real = os.path.realpath(path)
        if path and (other := taken.get(real) or seen.get(real)):
            reader.wrong((*place, name) if place[-1] == "disks" else place, f"{path} is the disk of {other} as well")
        seen[real] = name
