"""What one record of the spool holds: the writes that came together, numbered (docs/TAP.md has the byte table).

Pure.  The checksum is the one that the embedded log keeps of each of its records.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from engine import errors

MAGIC = b"VTAP"
VERSION = 1
NONCE = 16
"""Bytes that tell one incarnation of a tap from every other."""

LONGEST = 8 << 20
"""Bytes of data in one entry; a longer write is several, which a disk could have torn there, too."""
MOST_ENTRIES = 0xFFFF
LONGEST_ZERO = 1 << 31

HEAD = struct.Struct(">4sBxHQQ16s")
ENTRY = struct.Struct(">BxHLQ")


class Kind(enum.IntEnum):
    BEGAN = 1
    """A tap began; the data is JSON: its disks' names and sizes, by their numbers."""
    WRITTEN = 2
    ZEROED = 3
    FLUSHED = 4
    """A client asked for it; all before is durable once this is."""
    MARK = 5
    """The daemon's: the data is its own words."""


class Entry(NamedTuple):
    """One thing that happened.  `start` and `length` in bytes of the disk, whose number is its place in BEGAN; of BEGAN
    and MARK `length` is that of the data, and the others are 0.  `arrived`: ns since 1970 by the host's clock."""

    number: int
    kind: Kind
    disk: int
    start: int
    length: int
    arrived: int
    nonce: bytes
    data: bytes


def pack(
    number: int, arrived: int, nonce: bytes, entries: Sequence[bytes], data: Sequence[bytes | memoryview]
) -> bytes:
    """One record: `entries` are packed by ENTRY, the first of them has `number`; `data` of those that have some."""
    return b"".join((HEAD.pack(MAGIC, VERSION, len(entries), number, arrived, nonce), *entries, *data))


def one(kind: Kind, data: bytes = b"") -> tuple[list[bytes], list[bytes | memoryview]]:
    """Entries and data of a record that holds just this."""
    return [ENTRY.pack(kind, 0, len(data), 0)], [data]


def began(disks: Mapping[str, int]) -> bytes:
    """The data of BEGAN: names and sizes, in the order of their numbers."""
    return json.dumps({"disks": [[name, size] for name, size in disks.items()]}).encode()


def disks(data: bytes) -> dict[str, int]:
    """What `began` made."""
    return dict(json.loads(data)["disks"])


def head(record: bytes) -> tuple[int, int]:
    """(number of the first, how many).  Raises Damaged, Newer."""
    return _head(record)[:2]


def unpack(record: bytes) -> list[Entry]:
    """All entries of a record.  Raises Damaged, Newer."""
    number, count, arrived, nonce = _head(record)
    at = HEAD.size + count * ENTRY.size
    entries = []
    for kind, disk, length, start in ENTRY.iter_unpack(record[HEAD.size : at]):
        size = 0 if kind in (Kind.ZEROED, Kind.FLUSHED) else length
        entries.append(Entry(number, Kind(kind), disk, start, length, arrived, nonce, record[at : at + size]))
        number, at = number + 1, at + size
    if at != len(record):
        raise errors.Damaged(f"a record of the spool has {len(record)} bytes where its entries say {at}")
    return entries


def _head(record: bytes) -> tuple[int, int, int, bytes]:
    if len(record) < HEAD.size or record[:4] != MAGIC:
        raise errors.Damaged(f"not a record of a tap's spool: it begins with {record[:4]!r}")
    _, version, count, number, arrived, nonce = HEAD.unpack_from(record)
    if version > VERSION:
        raise errors.Newer("a record of the spool", version, VERSION)
    if len(record) < HEAD.size + count * ENTRY.size or not count:
        raise errors.Damaged(f"a record of the spool ends within its {count} entries")
    return number, count, arrived, nonce
