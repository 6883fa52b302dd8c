"""The NBD transmission phase as the client speaks it: bytes in, answers out, no socket (proto.md, "Transmission").

Data is not passed through: the reader asks `buffer` where the next bytes belong, which for the payload of a large READ
is the memory that the request named, and tells `filled` how many came.  What a reply may be made of are the tables
`STATES` and `CHUNKS`; all else is a ProtocolError, after which nothing is taken any more.  Requests in flight are
matched by cookie, in any order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from engine.nbd import constants
from engine.nbd.constants import Chunk, Command, Flag, ProtocolError
from engine.nbd.handshake import Export
from engine.nbd.requests import ERROR, EXTENT, Answer, Pending

REQUEST = struct.Struct(">LHHQQL")
SIMPLE = struct.Struct(">LLQ")
CHUNK = struct.Struct(">LHHQL")
OFFSET = struct.Struct(">Q")
OFFSET_HOLE = struct.Struct(">QL")
SCRATCH = 64 << 10
"""Bytes read ahead of the parser: many small replies in one call, and no more than this of a large one is copied."""

MOST_EXTENTS = 1 << 20
"""In one answer to BLOCK_STATUS, by proto.md."""


class ClientTransmission:
    """One connection's requests and replies.  `export` is what the handshake agreed on."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._pending: dict[int, Pending] = {}
        self._cookies = 0
        self._scratch = memoryview(bytearray(SCRATCH))
        self._start = self._end = 0
        self._sink: memoryview | None = None
        self._then: Callable[[], None] = self._begin
        self._state = "reply"
        self._current = Pending(0, Command.DISC, 0, 0)
        self._done = False
        self._payload = 0
        self._answers: list[Answer] = []
        self._dead: ProtocolError | None = None

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def request(
        self, command: Command, start: int, length: int, flags: Flag = Flag.NONE, into: memoryview | None = None
    ) -> tuple[int, bytes]:
        """(cookie, bytes to send); for a WRITE its data follows them.  A READ fills `into`, of `length` bytes, which
        is ours until the Answer of that cookie came."""
        self._cookies += 1
        if command == Command.READ and (into is None or into.nbytes != length):
            raise ValueError(f"a READ of {length} bytes needs memory of that size")
        if command != Command.DISC:
            self._pending[self._cookies] = Pending(self._cookies, command, start, length, into)
        return self._cookies, REQUEST.pack(constants.REQUEST, flags, command, self._cookies, start, length)

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty.  Ask anew after each `filled`."""
        if self._sink is not None:
            return self._sink
        if self._start:  # less than a header is left: moving it costs nothing
            rest = bytes(self._scratch[self._start : self._end])
            self._scratch[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._scratch[self._end :]

    def filled(self, count: int) -> list[Answer]:
        """`count` bytes were put into `buffer`.  Raises ProtocolError: drop the connection."""
        if self._dead is not None:
            raise self._dead
        if self._sink is None:
            self._end += count
        else:
            self._sink = self._sink[count:]
        try:
            while self._step():
                pass
        except ProtocolError as error:
            self._dead = error
            raise
        answers, self._answers = self._answers, []
        return answers

    def feed(self, data: bytes) -> list[Answer]:
        """`data`, in whatever pieces it came, by way of `buffer`."""
        answers, view = [], memoryview(data)
        while view:
            into = self.buffer()
            count = min(len(into), len(view))
            into[:count] = view[:count]
            answers += self.filled(count)
            view = view[count:]
        return answers

    def _step(self) -> bool:
        """One state; False when it needs bytes that have not come."""
        if self._sink is not None:
            count = min(len(self._sink), self._end - self._start)
            self._sink[:count] = self._scratch[self._start : self._start + count]
            self._start, self._sink = self._start + count, self._sink[count:]
            if self._sink:
                return False
            self._sink = None
            self._then()
            return True
        need, handle = STATES[self._state]
        if self._end - self._start < need:
            return False
        handle(self)
        return True

    def _unpack(self, form: struct.Struct) -> tuple[int, ...]:
        found = form.unpack_from(self._scratch, self._start)
        self._start += form.size
        return found

    def _into(self, sink: memoryview, then: Callable[[], None]) -> None:
        self._sink, self._then = sink, then

    def _into_payload(self, handle: Callable[[ClientTransmission, bytes], None]) -> None:
        payload = bytearray(self._payload)

        def then() -> None:
            handle(self, bytes(payload))
            self._end_chunk()

        self._into(memoryview(payload), then)

    # States.

    def _begin(self) -> None:
        magic = int.from_bytes(self._scratch[self._start : self._start + 4], "big")
        state = MAGICS.get(magic)
        if state is None or (state == "chunk" and not self._export.structured):
            raise ProtocolError(f"an NBD reply begins with {magic:#010x}")
        self._state = state

    def _simple(self) -> None:
        _, error, cookie = self._unpack(SIMPLE)
        request = self._current = self._find(cookie)
        data = request.command == Command.READ
        if (data and self._export.structured) or (request.command == Command.BLOCK_STATUS and not error):
            raise ProtocolError(f"{request.what()} was answered without structure")
        self._done = True
        if error:
            request.fail(error)
        elif data and request.length:
            self._into(request.piece(request.start, request.length), self._end_chunk)
            return
        self._end_chunk()

    def _chunk(self) -> None:
        _, flags, kind, cookie, length = self._unpack(CHUNK)
        self._done, self._payload = bool(flags & constants.DONE), length
        request = self._current = self._find(cookie)
        rule = CHUNKS.get(kind) or (UNKNOWN_ERROR if kind & constants.CHUNK_ERROR else None)
        if rule is None or rule.command not in (None, request.command):
            raise ProtocolError(f"{request.what()} was answered by a chunk of type {kind:#x}")
        if not rule.least <= length <= rule.most:
            raise ProtocolError(f"{request.what()} was answered by a chunk of type {kind:#x} and {length:,} bytes")
        if rule.handle is None:
            self._end_chunk()
        else:
            rule.handle(self)

    def _offset(self) -> None:
        (start,) = self._unpack(OFFSET)
        self._into(self._current.piece(start, self._payload - OFFSET.size), self._end_chunk)

    # Chunks.

    def _data(self) -> None:
        self._state = "offset"

    def _hole(self, payload: bytes) -> None:
        start, length = OFFSET_HOLE.unpack(payload)
        self._current.piece(start, length)[:] = bytes(length)

    def _block_status(self, payload: bytes) -> None:
        context = self._export.contexts.get(int.from_bytes(payload[:4], "big"))
        self._current.take_status(context, payload[4:])

    def _error(self, payload: bytes) -> None:
        self._current.take_error(payload)

    # What the states share.

    def _find(self, cookie: int) -> Pending:
        request = self._pending.get(cookie)
        if request is None:
            raise ProtocolError(f"an NBD reply names the request {cookie:#x}, which is not in flight")
        return request

    def _end_chunk(self) -> None:
        self._state = "reply"
        if self._done:
            self._answers.append(self._current.answer())
            del self._pending[self._current.cookie]


_State = Callable[[ClientTransmission], None]

STATES: dict[str, tuple[int, _State]] = {
    "reply": (4, ClientTransmission._begin),
    "simple": (SIMPLE.size, ClientTransmission._simple),
    "chunk": (CHUNK.size, ClientTransmission._chunk),
    "offset": (OFFSET.size, ClientTransmission._offset),
}
"""state -> (bytes it needs, what it does with them)."""

MAGICS = {constants.SIMPLE_REPLY: "simple", constants.STRUCTURED_REPLY: "chunk"}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a chunk may be: of which command's reply (None: any), with `least` to `most` bytes, and what it does."""

    command: Command | None
    least: int
    most: int
    handle: _State | None = None


def _whole(handle: Callable[[ClientTransmission, bytes], None]) -> _State:
    """For a chunk whose payload is small, and handled when all of it is there."""
    return lambda codec: codec._into_payload(handle)


_LONGEST_ERROR = ERROR.size + OFFSET.size + constants.LONGEST_STRING
_LONGEST_STATUS = 4 + EXTENT.size * MOST_EXTENTS

UNKNOWN_ERROR = Rule(None, ERROR.size, _LONGEST_ERROR, _whole(ClientTransmission._error))

CHUNKS: dict[int, Rule] = {
    Chunk.NONE: Rule(None, 0, 0),
    Chunk.OFFSET_DATA: Rule(Command.READ, OFFSET.size + 1, constants.MOST_LENGTH, ClientTransmission._data),
    Chunk.OFFSET_HOLE: Rule(Command.READ, OFFSET_HOLE.size, OFFSET_HOLE.size, _whole(ClientTransmission._hole)),
    Chunk.BLOCK_STATUS: Rule(
        Command.BLOCK_STATUS, 4 + EXTENT.size, _LONGEST_STATUS, _whole(ClientTransmission._block_status)
    ),
    Chunk.ERROR: Rule(None, ERROR.size, _LONGEST_ERROR, _whole(ClientTransmission._error)),
    Chunk.ERROR_OFFSET: Rule(None, ERROR.size + OFFSET.size, _LONGEST_ERROR, _whole(ClientTransmission._error)),
}
