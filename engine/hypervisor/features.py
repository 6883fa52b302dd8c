"""What a QEMU can do, found in its own description (`query-qmp-schema`, qapi/introspect.json); no I/O.

Versions are not asked: distributions carry features back, and builds leave some out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COPY_MODE = "mirror copy-mode"
BREAK_SNAPSHOT = "copy-before-write on-cbw-error"
CBW_TIMEOUT = "copy-before-write cbw-timeout"
SNAPSHOT_ACCESS = "snapshot-access"
YANK = "yank"
JOB_CHANGE = "block-job-change"
TARGET_IS_ZERO = "mirror target-is-zero"
EXPORT = "block-export-add"
MERGE = "block-dirty-bitmap-merge"
RECONNECT = "nbd reconnect-delay"

MIRRORS = (COPY_MODE, RECONNECT, EXPORT, MERGE)
"""What mirrors and a view of the disks below them need."""

_COMMANDS = {
    YANK: "yank",
    JOB_CHANGE: "block-job-change",
    EXPORT: "block-export-add",
    MERGE: "block-dirty-bitmap-merge",
}
_MEMBERS = {COPY_MODE: ("blockdev-mirror", "copy-mode"), TARGET_IS_ZERO: ("blockdev-mirror", "target-is-zero")}
_DRIVERS = {
    BREAK_SNAPSHOT: ("copy-before-write", "on-cbw-error"),
    CBW_TIMEOUT: ("copy-before-write", "cbw-timeout"),
    SNAPSHOT_ACCESS: ("snapshot-access", ""),
    RECONNECT: ("nbd", "reconnect-delay"),
}

SINCE = {
    COPY_MODE: "3.0", BREAK_SNAPSHOT: "7.1", CBW_TIMEOUT: "7.1", SNAPSHOT_ACCESS: "7.0", YANK: "6.0",
    JOB_CHANGE: "8.2", TARGET_IS_ZERO: "10.1", EXPORT: "5.2", MERGE: "4.0", RECONNECT: "4.2",
}  # fmt: skip
"""The QEMU that brought it, for messages only."""


def found(schema: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Which of the features above are there."""
    types = {entry["name"]: entry for entry in schema}
    drivers = _drivers(types)
    have = {feature for feature, command in _COMMANDS.items() if command in types}
    for feature, (command, member) in _MEMBERS.items():
        if member in _members(types, _argument(types, command)):
            have.add(feature)
    for feature, (driver, member) in _DRIVERS.items():
        if driver in drivers and (not member or member in _members(types, drivers[driver])):
            have.add(feature)
    return frozenset(have)


def lacking(have: Iterable[str], need: Iterable[str]) -> str:
    """What of `need` is not there, and which QEMU brought it, in words; nothing when all is."""
    missing = sorted(set(need) - set(have))
    return ", ".join(f"{feature} (QEMU {SINCE[feature]})" for feature in missing)


def _argument(types: Mapping[str, Mapping[str, Any]], command: str) -> str:
    return str(types.get(command, {}).get("arg-type", ""))


def _members(types: Mapping[str, Mapping[str, Any]], name: str) -> set[str]:
    return {member["name"] for member in types.get(name, {}).get("members", ())}


def _drivers(types: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Block driver -> the type of its options: the variants of what blockdev-add takes."""
    variants = types.get(_argument(types, "blockdev-add"), {}).get("variants", ())
    return {variant["case"]: variant["type"] for variant in variants}
