"""The NBD handshake, fixed newstyle, as the client speaks it: bytes in, bytes out, no socket (proto.md, "Handshake").

The order is STRUCTURED_REPLY, SET_META_CONTEXT, GO; each may be refused, and the next goes on without it.  A server too
old for GO gets EXPORT_NAME.  The answers a client may get are the table `ANSWERS`: anything else is a ProtocolError.
The frames (`pack_option`, `pack_reply`, `Export`) are shared with the server role, server_handshake.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from engine import errors
from engine.nbd import constants
from engine.nbd.constants import Handshake, Info, Option, ProtocolError, Reply, Transmission

GREETING = struct.Struct(">QQH")
OPTION = struct.Struct(">QLL")
OPTION_REPLY = struct.Struct(">QLLL")
EXPORT = struct.Struct(">QH")
BLOCK_SIZE = struct.Struct(">LLL")

NEWSTYLE = struct.pack(">QQ", constants.NBDMAGIC, constants.IHAVEOPT)
OLDSTYLE = struct.pack(">QQ", constants.NBDMAGIC, constants.OLDSTYLE)

LONGEST_REPLY = 64 << 10
"""Bytes of an option reply's payload that we are ready to hold; all that we ask for are far shorter."""


@dataclass(frozen=True, slots=True)
class Export:
    """What was agreed on: `size` in bytes, and how it may be asked for.

    Requests are multiples of `smallest` bytes, at best of `preferred`, and carry at most `largest`.
    """

    name: str
    size: int = -1
    flags: Transmission = Transmission.NONE
    smallest: int = 1
    preferred: int = 4096
    largest: int = constants.MOST_DATA
    structured: bool = False
    contexts: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))


def pack_option(option: Option, data: bytes = b"") -> bytes:
    """A client's option."""
    return OPTION.pack(constants.IHAVEOPT, option, len(data)) + data


def pack_reply(option: Option, reply: Reply, data: bytes = b"") -> bytes:
    """A server's reply to an option."""
    return OPTION_REPLY.pack(constants.OPTION_REPLY, option, reply, len(data)) + data


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">L", len(data)) + data


class ClientHandshake:
    """Feed `receive` with what the server sends, send it what `receive` gives, until `export` is there.

    `leftover` is then what came behind the handshake: the first bytes of the transmission.  Raises ProtocolError for
    a server that speaks otherwise, NotFound for an export it does not have, Usage for one it does not give us (TLS,
    policy), Transient when it is shutting down; each is the end of the connection.
    """

    def __init__(self, name: str, contexts: Sequence[str] = (constants.ALLOCATION,)) -> None:
        self.export: Export | None = None
        self._agreed = Export(name)
        self._wanted = tuple(contexts)
        self._contexts: dict[int, str] = {}
        self._buffer = bytearray()
        self._option = Option.EXPORT_NAME
        self._state: Callable[[], bytes | None] = self._greeting
        self._trailer = 124

    @property
    def leftover(self) -> bytes:
        """Bytes that belong to the transmission phase; empty before `export` is there."""
        return bytes(self._buffer) if self.export is not None else b""

    def receive(self, data: bytes) -> bytes:
        """Take any piece of what the server sent; gives what is to be sent to it now, perhaps nothing."""
        self._buffer += data
        answers = []
        while self.export is None:
            answer = self._state()
            if answer is None:
                break
            answers.append(answer)
        return b"".join(answers)

    # Each state gives None until its bytes are all there, else what is to be sent.

    def _greeting(self) -> bytes | None:
        begin = bytes(self._buffer[: len(NEWSTYLE)])
        if begin == OLDSTYLE:
            raise ProtocolError("the NBD server is too old: it speaks the oldstyle handshake")
        if not (NEWSTYLE.startswith(begin) or OLDSTYLE.startswith(begin)):
            raise ProtocolError(f"not an NBD server: it begins with {begin!r}")
        if len(self._buffer) < GREETING.size:
            return None
        flags = Handshake(GREETING.unpack(self._take(GREETING.size))[2])
        if not flags & Handshake.FIXED_NEWSTYLE:
            raise ProtocolError("the NBD server is too old: it does not speak fixed newstyle")
        if flags & Handshake.NO_ZEROES:
            self._trailer = 0
        ours = flags & (Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES)
        self._state = self._reply
        return struct.pack(">L", ours) + self._ask(Option.STRUCTURED_REPLY)

    def _reply(self) -> bytes | None:
        if len(self._buffer) < OPTION_REPLY.size:
            return None
        magic, option, kind, length = OPTION_REPLY.unpack_from(self._buffer)
        if magic != constants.OPTION_REPLY or option != self._option or length > LONGEST_REPLY:
            raise ProtocolError(f"not a reply to {self._option.name}: {magic:#x}, option {option}, {length:,} bytes")
        if len(self._buffer) < OPTION_REPLY.size + length:
            return None
        payload = self._take(OPTION_REPLY.size + length)[OPTION_REPLY.size :]
        answer = ANSWERS.get((self._option, min(kind, Reply.ERROR)))
        if answer is None:
            raise ProtocolError(f"the NBD server answers {self._option.name} with reply type {kind:#x}")
        return answer(self, kind, payload)

    def _old_export(self) -> bytes | None:
        if len(self._buffer) < EXPORT.size + self._trailer:
            return None
        self._info_export(self._take(EXPORT.size + self._trailer)[: EXPORT.size])
        return self._finish()

    # Answers: what the reply of one kind to one option does, and what is to be sent then.

    def _structured(self, _kind: int, _payload: bytes) -> bytes:
        self._agreed = replace(self._agreed, structured=True)
        return self._ask_contexts() if self._wanted else self._ask_go()

    def _unstructured(self, _kind: int, _payload: bytes) -> bytes:
        return self._ask_go()

    def _context(self, _kind: int, payload: bytes) -> bytes:
        name = _decode(payload[4:])
        if len(payload) < 4 or name not in self._wanted or name in self._contexts.values():
            raise ProtocolError(f"the NBD server offers the context {name!r}, which was not asked for, or twice")
        self._contexts[int.from_bytes(payload[:4], "big")] = name
        return b""

    def _contexts_done(self, _kind: int, _payload: bytes) -> bytes:
        self._agreed = replace(self._agreed, contexts=MappingProxyType(self._contexts))
        return self._ask_go()

    def _info(self, _kind: int, payload: bytes) -> bytes:
        if len(payload) < 2:
            raise ProtocolError("an NBD_REP_INFO without its type")
        kind = int.from_bytes(payload[:2], "big")
        if kind == Info.EXPORT:
            self._info_export(payload[2:])
        elif kind == Info.BLOCK_SIZE:
            self._info_block_size(payload[2:])
        return b""

    def _info_export(self, payload: bytes) -> None:
        if len(payload) != EXPORT.size:
            raise ProtocolError(f"an export is described in {EXPORT.size} bytes, not {len(payload)}")
        size, flags = EXPORT.unpack(payload)
        if size >= 1 << 63:
            raise ProtocolError(f"an export of {size:,} bytes")
        self._agreed = replace(self._agreed, size=size, flags=Transmission(flags))

    def _info_block_size(self, payload: bytes) -> None:
        if len(payload) != BLOCK_SIZE.size:
            raise ProtocolError(f"block sizes are {BLOCK_SIZE.size} bytes, not {len(payload)}")
        smallest, preferred, largest = BLOCK_SIZE.unpack(payload)
        powers = smallest & (smallest - 1) == 0 and preferred & (preferred - 1) == 0
        if not (powers and 1 <= smallest <= 65536 and smallest <= preferred and smallest <= largest):
            raise ProtocolError(f"block sizes that cannot be: {smallest}, {preferred}, {largest}")
        self._agreed = replace(self._agreed, smallest=smallest, preferred=preferred, largest=largest)

    def _go_done(self, _kind: int, _payload: bytes) -> bytes:
        if self._agreed.size < 0:
            raise ProtocolError("the NBD server ended GO without saying the size of the export")
        return self._finish()

    def _go_refused(self, kind: int, payload: bytes) -> bytes:
        name = self._agreed.name
        if kind == Reply.UNSUP:
            # Structured replies stay agreed on: they do not depend on GO.
            self._option, self._state = Option.EXPORT_NAME, self._old_export
            return pack_option(Option.EXPORT_NAME, name.encode())
        said = f" ({_decode(payload)})" if payload else ""
        reason, error = REFUSALS.get(kind, (f"it refuses with {kind:#x}", errors.Usage))
        raise error(f"NBD export {name!r}: {reason}{said}")

    def _finish(self) -> bytes:
        self.export = self._agreed
        return b""

    # Questions.

    def _ask(self, option: Option, data: bytes = b"") -> bytes:
        self._option = option
        return pack_option(option, data)

    def _ask_contexts(self) -> bytes:
        queries = b"".join(_string(name) for name in self._wanted)
        count = struct.pack(">L", len(self._wanted))
        return self._ask(Option.SET_META_CONTEXT, _string(self._agreed.name) + count + queries)

    def _ask_go(self) -> bytes:
        # Asking for the block sizes binds us to them, and lets a server tell what O_DIRECT demands.
        return self._ask(Option.GO, _string(self._agreed.name) + struct.pack(">HH", 1, Info.BLOCK_SIZE))

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken


def _decode(payload: bytes) -> str:
    return payload[: constants.LONGEST_STRING].decode(errors="replace")


_Answer = Callable[[ClientHandshake, int, bytes], bytes]

ANSWERS: dict[tuple[Option, int], _Answer] = {
    (Option.STRUCTURED_REPLY, Reply.ACK): ClientHandshake._structured,
    (Option.STRUCTURED_REPLY, Reply.ERROR): ClientHandshake._unstructured,
    (Option.SET_META_CONTEXT, Reply.META_CONTEXT): ClientHandshake._context,
    (Option.SET_META_CONTEXT, Reply.ACK): ClientHandshake._contexts_done,
    (Option.SET_META_CONTEXT, Reply.ERROR): ClientHandshake._unstructured,
    (Option.GO, Reply.INFO): ClientHandshake._info,
    (Option.GO, Reply.ACK): ClientHandshake._go_done,
    (Option.GO, Reply.ERROR): ClientHandshake._go_refused,
}
"""(our option, the reply's type, every error as ERROR) -> what it does."""

REFUSALS: dict[int, tuple[str, type[errors.FerryError]]] = {
    Reply.TLS_REQD: ("the server demands TLS, which this release does not speak", errors.Usage),
    Reply.POLICY: ("the server's policy refuses us", errors.Usage),
    Reply.UNKNOWN: ("the server has no such export", errors.NotFound),
    Reply.SHUTDOWN: ("the server is shutting down", errors.Transient),
    Reply.BLOCK_SIZE_REQD: ("the server demands block sizes that we do not keep", errors.Usage),
    Reply.INVALID: ("the server finds our request invalid", ProtocolError),
    Reply.PLATFORM: ("the server's platform cannot do it", errors.Usage),
    Reply.TOO_BIG: ("the server finds the name too long", errors.Usage),
}
