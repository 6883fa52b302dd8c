"""The client's side of the handshake, as a table of bytes."""

from __future__ import annotations

import struct

import pytest

from engine import errors
from engine.nbd import constants
from engine.nbd.constants import Info, Option, ProtocolError, Reply, Transmission
from engine.nbd.handshake import ClientHandshake, Export, pack_reply

GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
PLAIN_GREETING = b"NBDMAGICIHAVEOPT\x00\x01"
STRUCTURED = pack_reply(Option.STRUCTURED_REPLY, Reply.ACK)
CONTEXT = pack_reply(Option.SET_META_CONTEXT, Reply.META_CONTEXT, b"\0\0\0\x07base:allocation")
CONTEXTS = CONTEXT + pack_reply(Option.SET_META_CONTEXT, Reply.ACK)
SIZE = pack_reply(Option.GO, Reply.INFO, struct.pack(">HQH", Info.EXPORT, 1 << 40, 0x4D))
BLOCKS = pack_reply(Option.GO, Reply.INFO, struct.pack(">HLLL", Info.BLOCK_SIZE, 512, 65536, 1 << 25))
NAMED = pack_reply(Option.GO, Reply.INFO, struct.pack(">H", Info.NAME) + b"disk")
GO = pack_reply(Option.GO, Reply.ACK)

ASK_STRUCTURED = b"\0\0\0\x03IHAVEOPT\0\0\0\x08\0\0\0\0"
ASK_CONTEXTS = b"IHAVEOPT\0\0\0\x0a\0\0\0\x1e\0\0\0\x03vda\0\0\0\x01\0\0\0\x0fbase:allocation"
ASK_GO = b"IHAVEOPT\0\0\0\x07\0\0\0\x0b\0\0\0\x03vda\0\x01\0\x03"
ASK_NAME = b"IHAVEOPT\0\0\0\x01\0\0\0\x03vda"


def talk(*said: bytes) -> tuple[list[bytes], Export | None]:
    shake = ClientHandshake("vda")
    return [shake.receive(one) for one in said], shake.export


def refusal(option: Option, reply: int, text: bytes = b"") -> bytes:
    return struct.pack(">QLLL", constants.OPTION_REPLY, option, reply, len(text)) + text


def test_everything_is_asked_for_in_order() -> None:
    sent, export = talk(GREETING, STRUCTURED, CONTEXTS, BLOCKS + NAMED + SIZE + GO)
    assert sent == [ASK_STRUCTURED, ASK_CONTEXTS, ASK_GO, b""]
    assert export is not None
    assert (export.name, export.size, export.structured) == ("vda", 1 << 40, True)
    assert (export.smallest, export.preferred, export.largest) == (512, 65536, 1 << 25)
    assert export.flags == Transmission(0x4D)
    assert export.contexts == {7: "base:allocation"}


def test_a_server_that_knows_nothing_new_gives_the_export_by_its_name() -> None:
    refused = (refusal(Option.STRUCTURED_REPLY, Reply.UNSUP), refusal(Option.GO, Reply.UNSUP))
    sent, export = talk(GREETING, *refused, struct.pack(">QH", 512, 1))
    assert sent == [ASK_STRUCTURED, ASK_GO, ASK_NAME, b""]
    assert export is not None
    assert (export.size, export.structured, export.smallest, export.largest) == (512, False, 1, 1 << 25)
    assert export.contexts == {}


def test_the_old_answer_ends_with_zeroes_when_they_were_not_declined() -> None:
    refused = (refusal(Option.STRUCTURED_REPLY, Reply.UNSUP), refusal(Option.GO, Reply.UNSUP))
    sent, export = talk(PLAIN_GREETING, *refused, struct.pack(">QH", 512, 1) + bytes(123))
    assert (sent[0][:4], export) == (b"\0\0\0\x01", None)
    assert talk(PLAIN_GREETING, *refused, struct.pack(">QH", 512, 1) + bytes(124))[1] is not None


def test_contexts_may_be_refused() -> None:
    sent, export = talk(GREETING, STRUCTURED, refusal(Option.SET_META_CONTEXT, Reply.UNSUP), SIZE + GO)
    assert sent[2] == ASK_GO
    assert export is not None
    assert (export.structured, dict(export.contexts)) == (True, {})


def test_other_contexts_can_be_asked_for() -> None:
    shake = ClientHandshake("", ("base:allocation", "qemu:dirty-bitmap:b0"))
    shake.receive(GREETING)
    asked = shake.receive(STRUCTURED)
    assert asked.endswith(b"\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x14qemu:dirty-bitmap:b0")
    none = ClientHandshake("vda", ())
    none.receive(GREETING)
    assert none.receive(STRUCTURED) == ASK_GO


def test_what_comes_behind_the_handshake_is_kept() -> None:
    shake = ClientHandshake("vda")
    for said in (GREETING, STRUCTURED, CONTEXTS):
        shake.receive(said)
        assert shake.leftover == b""
    shake.receive(SIZE + GO + b"early")
    assert shake.leftover == b"early"


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (Reply.TLS_REQD, errors.Usage, "demands TLS"),
        (Reply.POLICY, errors.Usage, "policy refuses us"),
        (Reply.UNKNOWN, errors.NotFound, "no such export"),
        (Reply.SHUTDOWN, errors.Transient, "shutting down"),
        (Reply.BLOCK_SIZE_REQD, errors.Usage, "block sizes"),
        (Reply.INVALID, ProtocolError, "invalid"),
        (0x80001234, errors.Usage, "0x80001234"),
    ],
)
def test_a_refused_export_is_named_with_what_the_server_says(
    reply: int, kind: type[errors.FerryError], text: str
) -> None:
    with pytest.raises(kind, match=rf"NBD export 'vda': .*{text}.*\(because\)"):
        talk(GREETING, STRUCTURED, CONTEXTS, refusal(Option.GO, reply, b"because"))


@pytest.mark.parametrize(
    "said",
    [
        (b"HTTP/1.1",),
        (b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53",),
        (b"NBDMAGICIHAVEOPT\x00\x00",),
        (GREETING, b"\0" * 20),
        (GREETING, pack_reply(Option.GO, Reply.ACK)),
        (GREETING, pack_reply(Option.STRUCTURED_REPLY, Reply.INFO)),
        (GREETING, struct.pack(">QLLL", constants.OPTION_REPLY, Option.STRUCTURED_REPLY, Reply.ACK, 1 << 30)),
        (GREETING, STRUCTURED, pack_reply(Option.SET_META_CONTEXT, Reply.META_CONTEXT, b"\0\0\0\x01base:other")),
        (GREETING, STRUCTURED, pack_reply(Option.SET_META_CONTEXT, Reply.META_CONTEXT, b"\0")),
        (GREETING, STRUCTURED, CONTEXT + CONTEXT),
        (GREETING, STRUCTURED, CONTEXTS, GO),
        (GREETING, STRUCTURED, CONTEXTS, pack_reply(Option.GO, Reply.INFO, b"\0")),
        (GREETING, STRUCTURED, CONTEXTS, pack_reply(Option.GO, Reply.INFO, b"\0\0\0")),
        (GREETING, STRUCTURED, CONTEXTS, pack_reply(Option.GO, Reply.INFO, struct.pack(">HQH", 0, 1 << 63, 1))),
        (GREETING, STRUCTURED, CONTEXTS, pack_reply(Option.GO, Reply.INFO, struct.pack(">HLLL", 3, 3, 4096, 9))),
        (GREETING, STRUCTURED, CONTEXTS, pack_reply(Option.GO, Reply.INFO, struct.pack(">HLLL", 3, 0, 4096, 9))),
        (GREETING, STRUCTURED, CONTEXTS, pack_reply(Option.GO, Reply.INFO, struct.pack(">HLL", 3, 1, 4096))),
    ],
)
def test_a_server_that_speaks_otherwise_is_refused(said: tuple[bytes, ...]) -> None:
    with pytest.raises(ProtocolError):
        talk(*said)
