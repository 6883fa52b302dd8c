"""The NBD transmission phase as the server speaks it: bytes in, requests out, no socket (proto.md, "Transmission").

Whoever reads asks `buffer` where the next bytes belong and tells `filled` how many came; what that gives are all whole
requests that one reading brought, with the data of a WRITE as a view of that buffer, so that many small writes cost
one call of the kernel and no copy.  A request that cannot be carried out is answered here; a client that breaks the
protocol is a ProtocolError, after which nothing is taken any more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from engine.nbd import constants
from engine.nbd.constants import Chunk, Command, Flag, ProtocolError
from engine.nbd.handshake import Export
from engine.nbd.requests import ERROR, EXTENT, Extents
from engine.nbd.transmission import CHUNK, OFFSET, REQUEST, SIMPLE

BUFFER = 512 << 10
"""Bytes read ahead of the parser; a UNIX socket holds 208 KiB as Linux comes."""

_HEADER = REQUEST.size
_EPERM, _EINVAL, _ENOSPC = 1, 22, 28
"""Numbers on the wire are Linux's (constants.ERRNO)."""

_WRITE, _NOT_FUA = int(Command.WRITE), ~int(Flag.FUA)
"""Plain numbers for the path of every write: an operation on an enum's flag costs a microsecond."""

ALLOWED: dict[int, int] = {
    Command.READ: int(Flag.FUA | Flag.DF),
    Command.WRITE: int(Flag.FUA),
    Command.FLUSH: int(Flag.FUA),
    Command.TRIM: int(Flag.FUA),
    Command.WRITE_ZEROES: int(Flag.FUA | Flag.NO_HOLE | Flag.FAST_ZERO),
    Command.BLOCK_STATUS: int(Flag.FUA | Flag.REQ_ONE),
}
"""command -> flags that a client may set; another command or flag is EINVAL.  FUA may stand with all, says proto.md."""

WRITES = frozenset({Command.WRITE, Command.WRITE_ZEROES, Command.TRIM})
"""What a read-only export refuses."""


class Request(NamedTuple):
    """`length` bytes from `start`; `data` is those of a WRITE, and ours until the next `buffer`."""

    command: int
    flags: int
    cookie: int
    start: int
    length: int
    data: memoryview


_NOTHING = memoryview(b"")


class ServerTransmission:
    """One connection's requests and replies.  `export` is what the handshake agreed on.

    Holds BUFFER bytes, and while a larger WRITE comes in as many as the export's `largest` on top.
    `refused` are replies that are to be sent; `closing` says that the client wants no more (DISC).
    """

    def __init__(self, export: Export) -> None:
        self.export = export
        self.refused: list[bytes] = []
        self.closing = False
        self._read_only = bool(export.flags & constants.Transmission.READ_ONLY)
        self._memory = bytearray(BUFFER)
        self._view = memoryview(self._memory)
        self._start = self._end = 0
        self._needed = _HEADER
        self._dead: ProtocolError | None = None

    @property
    def held(self) -> int:
        """Bytes of memory."""
        return len(self._memory)

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty.  Views that earlier requests hold are not valid from here on."""
        start, end, size = self._start, self._end, len(self._memory)
        rest = end - start
        if self._needed > size or (size > BUFFER and self._needed <= BUFFER and rest <= BUFFER):
            fresh = bytearray(max(self._needed, BUFFER))
            fresh[:rest] = self._view[start:end]
            self._memory, self._view = fresh, memoryview(fresh)
            self._start, self._end = 0, rest
        elif start and (not rest or start + self._needed > size or size - end < size // 2):
            # Less than one request is left, so this copies little.
            self._view[:rest] = bytes(self._view[start:end])
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def filled(self, count: int) -> list[Request]:
        """`count` bytes were put into `buffer`.  Raises ProtocolError: drop the connection."""
        if self._dead is not None:
            raise self._dead
        self._end += count
        try:
            return self._parse()
        except ProtocolError as error:
            self._dead = error
            raise

    def feed(self, data: bytes) -> list[Request]:
        """`data`, in whatever pieces it came, by way of `buffer`; with data of their own, which stays."""
        requests, view = [], memoryview(data)
        while view:
            into = self.buffer()
            count = min(len(into), len(view))
            into[:count] = view[:count]
            requests += [one._replace(data=memoryview(bytes(one.data))) for one in self.filled(count)]
            view = view[count:]
        return requests

    def _parse(self) -> list[Request]:
        """Whole requests, in order.  The path of every write: kept flat, a call less is 2 % of a server's speed."""
        found: list[Request] = []
        view, at, end = self._view, self._start, self._end
        unpack, size, largest = REQUEST.unpack_from, self.export.size, self.export.largest
        needed, writable = _HEADER, not self._read_only
        while end - at >= _HEADER and not self.closing:
            magic, flags, command, cookie, start, length = unpack(view, at)
            if magic != constants.REQUEST:
                raise ProtocolError(f"an NBD request begins with {magic:#010x}")
            if command == _WRITE:
                if length > largest:
                    raise ProtocolError(f"a WRITE of {length:,} bytes; at most {largest:,} were agreed on")
                needed = _HEADER + length
                if end - at < needed:
                    break
                data = view[at + _HEADER : at + needed]
                if (writable and not flags & _NOT_FUA and start + length <= size) or self._check(
                    command, flags, cookie, start, length
                ):
                    found.append(Request(command, flags, cookie, start, length, data))
                at += needed
                needed = _HEADER
                continue
            at += _HEADER
            if command == Command.DISC:
                self.closing = True
            elif self._check(command, flags, cookie, start, length):
                found.append(Request(command, flags, cookie, start, length, _NOTHING))
        self._start, self._needed = at, needed
        return found

    def _check(self, command: int, flags: int, cookie: int, start: int, length: int) -> bool:
        """Whether it can be carried out; else it is refused here."""
        number = self._trouble(command, flags, start, length)
        if number:
            self.refused.append(self.failed(command, cookie, number))
        return not number

    def _trouble(self, command: int, flags: int, start: int, length: int) -> int:
        """The wire's number of what is wrong with a request, or 0.  By proto.md: beyond the end is ENOSPC where
        something would be stored, and EINVAL elsewhere."""
        allowed = ALLOWED.get(command)
        if allowed is None or flags & ~allowed:
            return _EINVAL
        if command in WRITES and self._read_only:
            return _EPERM
        if command != Command.FLUSH and start + length > self.export.size:
            return _ENOSPC if command in (Command.WRITE, Command.WRITE_ZEROES) else _EINVAL
        if command == Command.READ and length > self.export.largest:
            return _EINVAL
        if command == Command.BLOCK_STATUS and not (length and self.export.contexts):
            return _EINVAL
        return 0

    # Replies.  All but the content of a READ and extents may be simple ones, also where structured were agreed on.

    @staticmethod
    def done(cookie: int) -> bytes:
        """The request was carried out; not for READ and BLOCK_STATUS."""
        return SIMPLE.pack(constants.SIMPLE_REPLY, 0, cookie)

    def failed(self, command: int, cookie: int, number: int, why: str = "") -> bytes:
        """It was not; `number` is one of constants.ERRNO."""
        if not self.export.structured or command not in (Command.READ, Command.BLOCK_STATUS):
            return SIMPLE.pack(constants.SIMPLE_REPLY, number, cookie)
        said = why.encode()[: constants.LONGEST_STRING]
        return _chunk(Chunk.ERROR, cookie, ERROR.size + len(said)) + ERROR.pack(number, len(said)) + said

    def content(self, request: Request, data: bytes) -> bytes:
        """What a READ wanted, its `length` bytes."""
        if not self.export.structured:
            return self.done(request.cookie) + data
        if not data:
            return _chunk(Chunk.NONE, request.cookie, 0)
        return _chunk(Chunk.OFFSET_DATA, request.cookie, OFFSET.size + len(data)) + OFFSET.pack(request.start) + data

    def extents(self, request: Request, extents: Extents) -> bytes:
        """What a BLOCK_STATUS wanted, of base:allocation: (length, flags), from its start on."""
        kept: Sequence[tuple[int, int]] = extents[:1] if request.flags & Flag.REQ_ONE else extents
        (context,) = self.export.contexts
        payload = struct.pack(">L", context) + b"".join(EXTENT.pack(*one) for one in kept)
        return _chunk(Chunk.BLOCK_STATUS, request.cookie, len(payload)) + payload


def _chunk(kind: Chunk, cookie: int, length: int) -> bytes:
    return CHUNK.pack(constants.STRUCTURED_REPLY, constants.DONE, kind, cookie, length)
