"""The NBD handshake, fixed newstyle, as the server speaks it: bytes in, bytes out, no socket (proto.md, "Handshake").

What each option does is the table `OPTIONS`; any other, EXTENDED_HEADERS and STARTTLS among them, is answered with
REP_ERR_UNSUP, and the client goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from engine.nbd import constants
from engine.nbd.constants import Handshake, Info, Option, ProtocolError, Reply
from engine.nbd.handshake import BLOCK_SIZE, EXPORT, GREETING, OPTION, Export, pack_reply

GREETING_BYTES = GREETING.pack(constants.NBDMAGIC, constants.IHAVEOPT, Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES)
"""What a server sends first."""

LONGEST_OPTION = 32 << 10
"""Bytes of an option's data that we hold; a name is 4,096 at most, and a client asks for a few contexts."""

CONTEXT = 1
"""The number of base:allocation, the only metadata context that we offer."""

ZEROES = bytes(124)
"""What ends the answer to EXPORT_NAME unless the client declined it."""


class ServerHandshake:
    """Send `GREETING_BYTES`, feed `receive` with what the client sends, send it what that gives, until `export` or
    `ended` is set.

    `exports` are offered by their names.  With `export`, `leftover` is what came behind the handshake; `ended` means
    that the client went away, or asked in the old way for what is not there: close.  Raises ProtocolError: drop it.
    Never holds more than one option of LONGEST_OPTION bytes and what one `receive` brought.
    """

    def __init__(self, exports: Mapping[str, Export]) -> None:
        self.export: Export | None = None
        self.ended = False
        self._exports = exports
        self._buffer = bytearray()
        self._greeted = False
        self._zeroes = ZEROES
        self._structured = False
        self._context_of: str | None = None

    @property
    def leftover(self) -> bytes:
        """Bytes that belong to the transmission phase; empty before `export` is there."""
        return bytes(self._buffer) if self.export is not None else b""

    def receive(self, data: bytes | memoryview) -> bytes:
        """Take any piece of what the client sent; gives what is to be sent to it now, perhaps nothing."""
        self._buffer += data
        answers: list[bytes] = []
        while self.export is None and not self.ended:
            answer = self._option() if self._greeted else self._flags()
            if answer is None:
                break
            answers.append(answer)
        return b"".join(answers)

    def _flags(self) -> bytes | None:
        if len(self._buffer) < 4:
            return None
        (flags,) = struct.unpack(">L", self._take(4))
        if flags & ~int(Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES):
            raise ProtocolError(f"an NBD client sets handshake flags that were not offered: {flags:#x}")
        if flags & Handshake.NO_ZEROES:
            self._zeroes = b""
        self._greeted = True
        return b""

    def _option(self) -> bytes | None:
        if len(self._buffer) < OPTION.size:
            return None
        magic, option, length = OPTION.unpack_from(self._buffer)
        if magic != constants.IHAVEOPT or length > LONGEST_OPTION:
            raise ProtocolError(f"not an NBD option: {magic:#x}, option {option}, {length:,} bytes")
        if len(self._buffer) < OPTION.size + length:
            return None
        data = self._take(OPTION.size + length)[OPTION.size :]
        handle = OPTIONS.get(option)
        return handle(self, data) if handle else _refuse(option, Reply.UNSUP)

    # Options: what one does, and what is to be sent then.

    def _export_name(self, data: bytes) -> bytes:
        export = self._exports.get(data.decode(errors="replace"))
        if export is None:
            self.ended = True  # this option has no way to say no
            return b""
        self._finish(export)
        return EXPORT.pack(export.size, export.flags) + self._zeroes

    def _abort(self, _data: bytes) -> bytes:
        self.ended = True
        return pack_reply(Option.ABORT, Reply.ACK)

    def _list(self, data: bytes) -> bytes:
        if data:
            return _refuse(Option.LIST, Reply.INVALID, "LIST carries no data")
        names = [struct.pack(">L", len(name.encode())) + name.encode() for name in self._exports]
        replies = [pack_reply(Option.LIST, Reply.SERVER, name) for name in names]
        return b"".join(replies) + pack_reply(Option.LIST, Reply.ACK)

    def _structured_reply(self, data: bytes) -> bytes:
        if data:
            return _refuse(Option.STRUCTURED_REPLY, Reply.INVALID, "STRUCTURED_REPLY carries no data")
        self._structured = True
        return pack_reply(Option.STRUCTURED_REPLY, Reply.ACK)

    def _info(self, data: bytes, option: Option = Option.INFO) -> bytes:
        try:
            name, rest = _string(data)
            (count,) = struct.unpack_from(">H", rest)
            wanted = struct.unpack(f">{count}H", rest[2:])
        except (struct.error, UnicodeDecodeError):
            return _refuse(option, Reply.INVALID, "a name and a list of types are wanted")
        export = self._exports.get(name)
        if export is None:
            return _refuse(option, Reply.UNKNOWN, f"no export {name!r} here")
        if option == Option.GO:
            self._finish(export)
        return b"".join(pack_reply(option, Reply.INFO, info) for info in _infos(export, wanted)) + pack_reply(
            option, Reply.ACK
        )

    def _go(self, data: bytes) -> bytes:
        return self._info(data, Option.GO)

    def _set_contexts(self, data: bytes) -> bytes:
        # Whatever comes of it, it takes back what an earlier one agreed on.
        self._context_of = None
        if not self._structured:
            return _refuse(Option.SET_META_CONTEXT, Reply.INVALID, "structured replies come first")
        return self._contexts(data, Option.SET_META_CONTEXT)

    def _list_contexts(self, data: bytes) -> bytes:
        return self._contexts(data, Option.LIST_META_CONTEXT)

    def _contexts(self, data: bytes, option: Option) -> bytes:
        try:
            name, queries = _queries(data)
        except (struct.error, UnicodeDecodeError):
            return _refuse(option, Reply.INVALID, "a name and a list of queries are wanted")
        if name not in self._exports:
            return _refuse(option, Reply.UNKNOWN, f"no export {name!r} here")
        listing = option == Option.LIST_META_CONTEXT
        found = constants.ALLOCATION in queries or (listing and (not queries or "base:" in queries))
        if found and not listing:
            self._context_of = name
        said = struct.pack(">L", 0 if listing else CONTEXT) + constants.ALLOCATION.encode()
        return (pack_reply(option, Reply.META_CONTEXT, said) if found else b"") + pack_reply(option, Reply.ACK)

    def _finish(self, export: Export) -> None:
        # Contexts hold for the export that they were asked for, and for no other.
        agreed = {CONTEXT: constants.ALLOCATION} if self._context_of == export.name else {}
        self.export = replace(export, structured=self._structured, contexts=MappingProxyType(agreed))

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken


def _infos(export: Export, wanted: tuple[int, ...]) -> list[bytes]:
    """Payloads of REP_INFO.  Sizes are always said: who is not told them takes the defaults, which may be others."""
    infos = [struct.pack(">H", Info.EXPORT) + EXPORT.pack(export.size, export.flags)]
    if Info.NAME in wanted:
        infos.append(struct.pack(">H", Info.NAME) + export.name.encode())
    sizes = BLOCK_SIZE.pack(export.smallest, export.preferred, export.largest)
    return [*infos, struct.pack(">H", Info.BLOCK_SIZE) + sizes]


def _string(data: bytes) -> tuple[str, bytes]:
    """A counted string at the front, and what follows.  Raises struct.error when it is cut short."""
    (length,) = struct.unpack_from(">L", data)
    if length > len(data) - 4:
        raise struct.error(f"a string of {length} bytes in {len(data) - 4}")
    return data[4 : 4 + length].decode(), data[4 + length :]


def _queries(data: bytes) -> tuple[str, list[str]]:
    """The payload of SET_ and LIST_META_CONTEXT.  Raises struct.error when it does not fit together."""
    name, rest = _string(data)
    (count,) = struct.unpack_from(">L", rest)
    rest, queries = rest[4:], []
    for _ in range(count):
        query, rest = _string(rest)
        queries.append(query)
    if rest:
        raise struct.error("data behind the last query")
    return name, queries


def _refuse(option: int, reply: Reply, why: str = "") -> bytes:
    data = why.encode()[: constants.LONGEST_STRING]
    return struct.pack(">QLLL", constants.OPTION_REPLY, option, reply, len(data)) + data


_Handle = Callable[[ServerHandshake, bytes], bytes]

OPTIONS: dict[int, _Handle] = {
    Option.EXPORT_NAME: ServerHandshake._export_name,
    Option.ABORT: ServerHandshake._abort,
    Option.LIST: ServerHandshake._list,
    Option.INFO: ServerHandshake._info,
    Option.GO: ServerHandshake._go,
    Option.STRUCTURED_REPLY: ServerHandshake._structured_reply,
    Option.LIST_META_CONTEXT: ServerHandshake._list_contexts,
    Option.SET_META_CONTEXT: ServerHandshake._set_contexts,
}
"""the client's option -> what it does."""
