"""The segment files of the embedded log: what their bytes mean (docs/EMBEDDED-LOG.md), without any state.

A segment is the truth about its records: each one carries its own offset, its length and an xxh3-64 over all of it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import xxhash

from engine import errors
from engine.ports import Entry

MAGIC = b"VMFYLOG\0"
VERSION = 1
SEGMENT_SIZE = 128 << 20
"""A segment that has this many bytes takes no more records: retention gives space back in such steps."""
RECORD_LIMIT = 16 << 20
"""Most bytes in one record: bounds what a damaged length can make a reader allocate."""

_FILE = struct.Struct(">8s I I Q")
_RECORD = struct.Struct(">I I Q")
FILE_HEADER = _FILE.size + 8
RECORD_HEADER = _RECORD.size + 8

_READ_BLOCK = 1 << 20
_READ_LEAST = 64 << 10
_IOV_MAX = 1024


class Torn(Exception):
    """The bytes here are not the whole record that is wanted here.  `position` is where it begins in the file."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position, self.reason = position, reason


def path(directory: Path, first: int) -> Path:
    """The file of the segment whose first record has offset `first`."""
    return directory / f"{first:020d}.seg"


def firsts(directory: Path) -> list[int]:
    """The first offsets of all segments that are there, rising."""
    return sorted(int(name[:-4]) for name in os.listdir(directory) if name.endswith(".seg"))


def file_header(first: int) -> bytes:
    """The 32 bytes before the first record."""
    head = _FILE.pack(MAGIC, VERSION, 0, first)
    return head + xxhash.xxh3_64(head).digest()


def check_file(directory: Path, first: int) -> bool:
    """Whether the segment has a whole header; False is a creation that did not end.  Raises Newer for one of a newer
    version, Damaged when it is not ours to read, or of another offset than its name says."""
    file = path(directory, first)
    with open(file, "rb") as opened:
        head = opened.read(FILE_HEADER)
    if len(head) == FILE_HEADER and head[:8] == MAGIC:
        version = _FILE.unpack_from(head)[1]
        if version > VERSION:
            raise errors.Newer(file, version, VERSION)
        if head == file_header(first):
            return True
        raise errors.Damaged(f"{file}: the file header does not read as written; restore the file from a copy")
    if len(head) == FILE_HEADER and any(head):
        raise errors.Damaged(f"{file} is not a segment of a vmferry log: it begins with {head[:8]!r}")
    return False


def record_header(offset: int, data: bytes) -> bytes:
    """The 24 bytes before `data`."""
    head = _RECORD.pack(len(data), 0, offset)
    digest = xxhash.xxh3_64(head)
    digest.update(data)
    return head + digest.digest()


def announced(view: memoryview, at: int, offset: int, position: int) -> int:
    """Bytes of payload that the header at view[at] announces.  Raises Torn unless it is the header of `offset`."""
    length, reserved, found = _RECORD.unpack_from(view, at)
    if found != offset or reserved or length > RECORD_LIMIT:
        raise Torn(position, "its header is not the one of this offset")
    return int(length)


def verify(view: memoryview, at: int, stop: int, position: int) -> None:
    """Raises Torn unless the record view[at:stop] has the hash of its header."""
    digest = xxhash.xxh3_64(view[at : at + _RECORD.size])
    digest.update(view[at + RECORD_HEADER : stop])
    if digest.digest() != view[at + _RECORD.size : at + RECORD_HEADER]:
        raise Torn(position, "its bytes do not have the hash of its header")


def take(fd: int, position: int, offset: int, end: int, limit: int) -> tuple[list[Entry], int]:
    """Whole records from `offset`, which begins at byte `position`, below `end`, until `limit` bytes are passed.

    Gives them and the byte after the last.  Ends early, perhaps with none, where the file ends between two records.
    Raises Torn at the first record that is not whole, unless there are some before it to give.
    """
    entries: list[Entry] = []
    taken = needed = 0
    while offset < end and taken < limit:
        want = max(needed, min(limit - taken, _READ_BLOCK) + RECORD_HEADER, _READ_LEAST)
        block = os.pread(fd, want, position)
        if not block:
            break
        try:
            got, used, needed = _parse(block, position, offset, end, limit - taken)
            if not got and len(block) < want:
                raise Torn(position, f"the file ends {len(block)} bytes after it began")
        except Torn:
            if entries:
                break
            raise
        entries += got
        taken += used - RECORD_HEADER * len(got)
        offset += len(got)
        position += used
    return entries, position


def _parse(block: bytes, position: int, offset: int, end: int, limit: int) -> tuple[list[Entry], int, int]:
    """(whole records in `block`, bytes they take, bytes that the next one needs or 0 when that is not known)."""
    view = memoryview(block)
    entries: list[Entry] = []
    at = needed = 0
    while offset < end and limit > 0 and len(block) - at >= RECORD_HEADER:
        try:
            stop = at + RECORD_HEADER + announced(view, at, offset, position + at)
            if stop > len(block):
                needed = stop - at
                break
            verify(view, at, stop, position + at)
        except Torn:
            if entries:
                break
            raise
        entries.append(Entry(offset, block[at + RECORD_HEADER : stop]))
        limit -= stop - at - RECORD_HEADER
        at, offset = stop, offset + 1
    return entries, at, needed


def step(fd: int, position: int, offset: int, verified: bool) -> int:
    """The byte after record `offset`, by its header alone unless it is to be `verified`.  Raises Torn."""
    if verified:
        entries, after = take(fd, position, offset, offset + 1, 1)
        if entries:
            return after
    head = os.pread(fd, RECORD_HEADER, position)
    if len(head) < RECORD_HEADER:
        raise Torn(position, "the file ends within its header")
    return position + RECORD_HEADER + announced(memoryview(head), 0, offset, position)


def write_all(fd: int, buffers: Sequence[bytes], position: int) -> None:
    """Write `buffers` one behind the other at `position`, however often the kernel takes only a part."""
    for first in range(0, len(buffers), _IOV_MAX):
        views = [memoryview(buffer) for buffer in buffers[first : first + _IOV_MAX]]
        while views:
            written = os.pwritev(fd, views, position)
            position += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if views:
                views[0] = views[0][written:]


def sync_directory(directory: Path) -> None:
    """A new or vanished file of `directory` is durable when this returns."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
