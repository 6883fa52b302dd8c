"""What an epoch will change in the source's map, durable before its seal is on the bus.

An append-only file of entries; each is applied once its seal is found in the log, and void when it is not.  Emptied
when all of them are one or the other.

    entry:  "stg" and the version, a digit | bytes u32 | xxh3-128 of the rest | msgpack of Staged
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import xxhash

from engine import errors, ports
from schemas import errors as schema_errors
from schemas import wire
from schemas.identity import Chain, SealId, Volume

VERSION = 1
_ENTRY = struct.Struct(">4sI16s")
_KIND = b"stg"
_MARK = b"%b%d" % (_KIND, VERSION)


@dataclass(frozen=True, slots=True)
class StagedBlocks:
    """Blocks from `first` on: their prints and digests, joined."""

    volume: int
    first: int
    prints: bytes
    digests: bytes


@dataclass(frozen=True, slots=True)
class StagedZeros:
    """`count` blocks of zeros from `first` on."""

    volume: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Staged:
    """One epoch: the seal it belongs to, the chain that makes, the sizes it has, and the blocks in it."""

    seal: SealId
    chain: Chain
    volumes: tuple[Volume, ...]
    written: tuple[StagedBlocks, ...] = field(default=())
    zeroed: tuple[StagedZeros, ...] = field(default=())


class Stage:
    """The staged epochs, oldest first.  Raises Newer for those of a later version, which are not for us to cut off."""

    def __init__(self, file: ports.File) -> None:
        self._file = file
        self._end = 0
        self._refuse_newer(0)

    def _refuse_newer(self, at: int) -> None:
        kind, version = self._file.read(at, len(_KIND)), self._file.read(at + len(_KIND), 1)
        if kind == _KIND and version.isdigit() and int(version) > VERSION:
            raise errors.Newer(self._file.path, int(version), VERSION)

    def load(self) -> list[Staged]:
        """All whole entries; what follows a torn one never had a seal on the bus, and is cut off.  Raises Newer."""
        found: list[Staged] = []
        self._end = 0
        while (entry := self._one(self._end)) is not None:
            staged, length = entry
            found.append(staged)
            self._end += length
        if self._file.size() != self._end:
            self._file.truncate(self._end)
        return found

    def _one(self, at: int) -> tuple[Staged, int] | None:
        self._refuse_newer(at)
        head = self._file.read(at, _ENTRY.size)
        if len(head) < _ENTRY.size:
            return None
        mark, length, checksum = _ENTRY.unpack(head)
        body = self._file.read(at + _ENTRY.size, length) if mark == _MARK else b""
        if mark != _MARK or len(body) < length or xxhash.xxh3_128_digest(body) != checksum:
            return None
        try:
            return wire.unpack_value(Staged, body), _ENTRY.size + length
        except schema_errors.SchemaError:
            return None

    @property
    def size(self) -> int:
        """Bytes of what was appended since it was emptied."""
        return self._end

    def append(self, staged: Staged) -> None:
        """Add an entry, durably: only now may its seal go to the bus."""
        body = wire.pack_value(staged)
        self._file.write(self._end, _ENTRY.pack(_MARK, len(body), xxhash.xxh3_128_digest(body)) + body)
        self._file.sync()
        self._end += _ENTRY.size + len(body)

    def clear(self) -> None:
        """Every entry is applied, or void."""
        if self._file.size():
            self._file.truncate(0)
            self._file.sync()
        self._end = 0
