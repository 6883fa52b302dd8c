"""One NBD request in flight: where its data belongs, and whether what came is a whole answer to it."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, field

from engine.nbd import constants
from engine.nbd.constants import Command, ProtocolError, RequestError

EXTENT = struct.Struct(">LL")
ERROR = struct.Struct(">LH")

Extents = list[tuple[int, int]]
"""(length, flags) in order, from where the request began."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of one request: `error`, or else the memory it named is filled, or `status` holds each context's."""

    cookie: int
    error: RequestError | None = None
    status: dict[str, Extents] = field(default_factory=dict)


@dataclass(slots=True)
class Pending:
    """Every method raises ProtocolError for what no server may answer to this request."""

    cookie: int
    command: Command
    start: int
    length: int
    into: memoryview | None = None
    pieces: list[tuple[int, int]] = field(default_factory=list)
    status: dict[str, Extents] = field(default_factory=dict)
    error: RequestError | None = None
    got: int = 0

    def what(self) -> str:
        if self.command in (Command.FLUSH, Command.DISC):
            return self.command.name
        return f"{self.command.name} of {self.length:,} bytes at {self.start:,}"

    def piece(self, start: int, length: int) -> memoryview:
        """The part of the request's memory that `length` bytes from `start` belong to."""
        first = start - self.start
        self.got += length
        if self.into is None or length < 1 or first < 0 or first + length > self.length or self.got > self.length:
            raise ProtocolError(f"{self.what()} was answered with {length:,} bytes at {start:,}")
        self.pieces.append((start, length))
        return self.into[first : first + length]

    def take_status(self, context: str | None, payload: bytes) -> None:
        """The extents of one metadata context, which may come once."""
        extents = list(EXTENT.iter_unpack(payload)) if len(payload) % EXTENT.size == 0 else []
        if context is None or context in self.status or not extents or not all(length for length, _ in extents):
            raise ProtocolError(f"{self.what()} was answered with extents that cannot be")
        self.status[context] = extents

    def take_error(self, payload: bytes) -> None:
        """The payload of an error chunk: a number, and words for people."""
        number, length = ERROR.unpack_from(payload)
        message = payload[ERROR.size : ERROR.size + length]
        if not number or len(message) != length:
            raise ProtocolError(f"{self.what()} was answered with an error that cannot be")
        self.fail(number, message.decode(errors="replace"))

    def fail(self, number: int, message: str = "") -> None:
        """The request failed; the first error of several is told."""
        code = constants.ERRNO.get(number, errno.EINVAL)
        said = f" ({message})" if message else ""
        if self.error is None:
            self.error = RequestError(code, f"{self.what()} failed with {errno.errorcode[code]}{said}")

    def answer(self) -> Answer:
        """The reply is over: a READ without an error has filled all of its memory, once."""
        if self.error is None and self.command == Command.READ:
            self._check_filled()
        if self.error is None and self.command == Command.BLOCK_STATUS and not self.status:
            raise ProtocolError(f"{self.what()} was answered without an extent")
        return Answer(self.cookie, self.error, self.status)

    def _check_filled(self) -> None:
        at = self.start
        for start, length in sorted(self.pieces):
            if start != at:
                raise ProtocolError(f"{self.what()} was answered with a gap, or twice, at {min(start, at):,}")
            at += length
        if self.got != self.length:
            raise ProtocolError(f"{self.what()} was answered up to {at:,} only")
