"""The undo log of one replica: what stood in a block before an epoch first wrote to it.

One append-only file for all volumes.  A record is appended and synced before the write that it can take back; an
epoch owns a byte range of it.  Space is given back from the front by punching holes, so ranges stay where they are.

    header of the file:  "VMFYUNDO" | version u32 | zero u32                                     16 bytes
    record:  magic u32 | volume u16 | kind u8 | claimed u8 | first block u64 | blocks u32 | bytes u32 |
             its own position u64 | xxh3-64 of all this (this field zero) and of the payload     40 bytes
    payload of kind DATA: the old digests (32 bytes a block), then the old bytes.  Kind ZERO has none.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import xxhash

from engine import errors, ports

_FILE = struct.Struct(">8sII")
_MAGIC = b"VMFYUNDO"
VERSION = 1
_RECORD = struct.Struct(">IHBBQIIQQ")
_MARK = 0x756E646F
START = _FILE.size
DATA, ZERO = 1, 2


@dataclass(frozen=True, slots=True)
class PreImage:
    """`count` blocks of a volume from `first` on, as they were: `digests` and `data` are empty where they were zeros.

    `claimed`: the digests were proved ones.
    """

    volume: int
    first: int
    count: int
    claimed: bool
    digests: bytes = b""
    data: bytes = b""


class UndoLog:
    """Appends, reads back from any position, and lets go at either end.

    Raises Newer for a later version's file, Damaged for what is none, and leaves both as they are.
    """

    def __init__(self, file: ports.File, quota: int | None = None) -> None:
        self._file = file
        self.quota = quota
        self.begin = START
        if file.size() < START:
            file.truncate(0)
            file.write(0, _FILE.pack(_MAGIC, VERSION, 0))
            file.sync()
        refuse_newer(file)
        magic, version, _ = _FILE.unpack(file.read(0, START))
        if magic != _MAGIC or version != VERSION:
            raise errors.Damaged(f"undo log begins with {magic!r} version {version}; {_MAGIC!r} {VERSION} is known")
        self.end = file.size()

    @property
    def used(self) -> int:
        """Bytes between what was let go and the end."""
        return self.end - self.begin

    def append(self, images: Sequence[PreImage]) -> None:
        """Add pre-images, all or none.  Not durable before `sync`.  Raises Full when the quota would be passed."""
        parts: list[bytes] = []
        at = self.end
        for image in images:
            parts.append(_pack(image, at))
            at += len(parts[-1])
        if self.quota is not None and at - self.begin > self.quota:
            raise errors.Full(
                f"the undo log needs {at - self.begin} bytes and may use {self.quota}: give it more with --undo-quota"
            )
        try:
            self._file.write(self.end, b"".join(parts))
        except errors.FerryError:
            with contextlib.suppress(errors.FerryError):  # what is left of it is no record: recovery drops it too
                self._file.truncate(self.end)
            raise
        self.end = at

    def sync(self) -> None:
        """Everything appended is durable."""
        self._file.sync()

    def newest_first(self, start: int) -> Iterator[PreImage]:
        """The valid records from position `start` on, newest first.  What follows a torn one was never relied on."""
        places = list(self._places(start))
        for at, length in reversed(places):
            yield _unpack(self._file.read(at, length), at)

    def valid_end(self, start: int) -> int:
        """Where the valid records from `start` on end."""
        end = start
        for at, length in self._places(start):
            end = at + length
        return end

    def _places(self, start: int) -> Iterator[tuple[int, int]]:
        start = max(start, START)  # a store that never settled says 0
        while True:
            head = self._file.read(start, _RECORD.size)
            if len(head) < _RECORD.size:
                return
            mark, *_, length, position, _sum = _RECORD.unpack(head)
            if mark != _MARK or position != start:
                return
            whole = self._file.read(start, _RECORD.size + length)
            if len(whole) < _RECORD.size + length or not _holds(whole):
                return
            yield start, len(whole)
            start += len(whole)

    def truncate(self, end: int) -> None:
        """Drop everything from `end` on, durably.  Only recovery and a finished rewind may do so."""
        end = max(end, START)
        if self._file.size() != end:
            self._file.truncate(end)
        self._file.sync()
        self.end = end

    def trim(self, begin: int) -> None:
        """Give back the space before `begin`.  Repeatable; never call it with a position that is still promised."""
        if begin > self.begin:
            self._file.discard(START, begin - START)
            self.begin = begin

    def close(self) -> None:
        self._file.close()


def refuse_newer(file: ports.File) -> None:
    """Raises Newer for the log of a later version, having read and no more."""
    head = file.read(0, START)
    if len(head) == START and head.startswith(_MAGIC) and (version := _FILE.unpack(head)[1]) > VERSION:
        raise errors.Newer(file.path, version, VERSION)


def _pack(image: PreImage, at: int) -> bytes:
    payload = image.digests + image.data
    kind = DATA if payload else ZERO
    head = _RECORD.pack(_MARK, image.volume, kind, image.claimed, image.first, image.count, len(payload), at, 0)
    checksum = xxhash.xxh3_64(head)
    checksum.update(payload)
    return head[:-8] + checksum.digest() + payload


def _holds(whole: bytes) -> bool:
    checksum = xxhash.xxh3_64(whole[: _RECORD.size - 8] + bytes(8))
    checksum.update(memoryview(whole)[_RECORD.size :])
    return checksum.digest() == whole[_RECORD.size - 8 : _RECORD.size]


def _unpack(whole: bytes, at: int) -> PreImage:
    _mark, volume, kind, claimed, first, count, _length, _at, _sum = _RECORD.unpack_from(whole)
    if kind == ZERO:
        return PreImage(volume, first, count, bool(claimed))
    digests = _RECORD.size + 32 * count
    return PreImage(volume, first, count, bool(claimed), whole[_RECORD.size : digests], whole[digests:])
