"""Which streams a target takes, and where their replicas lie."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

from engine import errors, linux, registry, units
from engine.daemon.config import Accept
from schemas import control

_UNSAFE = re.compile(r"[/%\x00-\x1f\x7f]|^[.\s]|[\s]$")
_LONGEST_DISK = 40
_LONGEST = 200
"""Bytes of a name in a path: a file system allows 255, and a suffix follows."""


def safe(name: str) -> str:
    """A name as one part of a path: what could lead elsewhere stands as %XX, so that no two names become one."""
    text = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)
    return text.encode()[:_LONGEST].decode(errors="ignore")


def matches(rule: Accept, site: str, label: str) -> bool:
    """Whether the pattern of the rule takes SITE/NAME."""
    return fnmatch.fnmatchcase(f"{site}/{label}", rule.streams)


def rule_for(rules: Sequence[Accept], said: control.Present) -> Accept | None:
    """The first rule that takes it."""
    return next((one for one in rules if matches(one, said.site, said.label)), None)


def path(rule: Accept, said: control.Present, stream: str, number: int = 0) -> str:
    """Where the replica of one disk of a stream lies.

    Without {disk} in the rule the first disk has the path as it stands, and each further one `-NAME` before the suffix.
    A name that is too long for a path has the stream's UUID behind it.
    """
    name = safe(said.label)
    if len(name.encode()) >= _LONGEST - 3:
        name = f"{name[:150]}-{stream}"
    disk = safe(said.volumes[number].name)[:_LONGEST_DISK] if number < len(said.volumes) else ""
    values = {"site": safe(said.site), "name": name, "id": stream, "disk": disk}
    pattern = rule.path
    if number and "{disk}" not in pattern:
        stem, suffix = os.path.splitext(pattern)
        stem, suffix = (pattern, "") if "}" in suffix else (stem, suffix)
        pattern = f"{stem}-{{disk}}{suffix}"
    return re.sub(r"\{(site|name|id|disk)\}", lambda found: values[found[1]], pattern)


def refuse(
    rule: Accept, said: control.Present, taken: int, places: Sequence[str], known: registry.Registry, more: int = 0
) -> str:
    """Why the rule cannot take this stream, in words; nothing when it can.

    `taken`: bytes of its replicas so far.  `places` are those of its last disks, from number `more` on: the others it
    has.
    """
    size = sum(volume.size for volume in said.volumes[more:])
    if rule.quota and taken + size > rule.quota:
        return (
            f"{units.shown(size)} more would pass the quota of {units.shown(rule.quota)} of {rule.where}, of which"
            f" {units.shown(taken)} are taken"
        )
    if len({*places}) < len(places):
        return f"two disks of it would lie in one place: {', '.join(places)}"
    return next(filter(None, (_refuse_one(rule, where, known) for where in places)), "")


def _refuse_one(rule: Accept, where: str, known: registry.Registry) -> str:
    try:
        other = known.of_target(where)
    except errors.FerryError as why:
        return str(why)
    if not os.path.isdir(rule.base):
        return f"{rule.base}, where {rule.where} puts replicas, is not there: make it, or mount what belongs there"
    if os.path.lexists(where) and not rule.adopt and other is None:
        return (
            f"{where} exists, and is no replica that is known here; set adopt = true at {rule.where}: then it is read,"
            " and everything in it that differs from the source is overwritten"
        )
    if other is not None:
        return (
            f"{where} is the replica of stream {other.stream}: put {{id}} into the path of {rule.where}, or `vmferry"
            f' forget` that one; or, if this is the same disk and its source lost its state, set id = "{other.stream}"'
            " there"
        )
    return ""


def make_room(rule: Accept, where: str) -> None:
    """Make the directories below the base of the rule, durably, from the top.  Raises Transient where that fails."""
    directory = Path(rule.base)
    try:
        for part in Path(os.path.relpath(os.path.dirname(where), rule.base)).parts:
            directory /= part
            directory.mkdir(0o750, exist_ok=True)
            # Also of one that is there: whoever made it may have been killed before this.
            linux.sync_directory(str(directory))
    except OSError as why:
        raise errors.Transient(f"{why.filename}: cannot be made for a replica: {why.strerror}") from why
