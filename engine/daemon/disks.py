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
    """Make one of the three keys that say what a stream is of: just one has to be there."""
    there = [key for key in ("disk", "disks", "vm") if key in table]
    if len(there) != 1:
        both = f"both {there[0]} and {there[1]} stand there: keep one" if there else "disk, disks or vm is missing"
        reader.wrong(place, both)
    for key in ("mode", "exclude", "freeze") if "vm" not in table else ("format", "secret_file", "force_share"):
        if key in table:
            reader.wrong((*place, key), f"{key} is of a {'disk' if 'vm' in table else 'vm'}, and this is the other")
    if "vm" in values:
        values["disks"] = ()
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
