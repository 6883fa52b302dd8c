"""The server's side of the handshake, as a table of bytes."""

from __future__ import annotations

import struct

import pytest

from engine.nbd import constants, server_handshake
from engine.nbd.constants import Option, ProtocolError, Reply
from engine.nbd.handshake import Export, pack_option
from engine.nbd.server_handshake import GREETING_BYTES, ServerHandshake
from tests.support import nbd_memory

EXPORTS = nbd_memory.exports(vda=1 << 30, vdb=4097)
FLAGS = b"\0\0\0\x03"
CONTEXTS = b"\0\0\0\x03vda\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x04qemu"


def ask(option: int, data: bytes = b"") -> bytes:
    return struct.pack(">QLL", constants.IHAVEOPT, option, len(data)) + data


def said(option: int, reply: int, data: bytes = b"") -> bytes:
    return struct.pack(">QLLL", constants.OPTION_REPLY, option, reply, len(data)) + data


def kinds(answer: bytes) -> list[tuple[int, int]]:
    """(option, type) of each reply."""
    found = []
    while answer:
        magic, option, kind, length = struct.unpack_from(">QLLL", answer)
        assert magic == constants.OPTION_REPLY
        found.append((option, kind))
        answer = answer[20 + length :]
    return found


def talk(*asked: bytes) -> tuple[list[bytes], ServerHandshake]:
    shake = ServerHandshake(EXPORTS)
    return [shake.receive(one) for one in (FLAGS, *asked)][1:], shake


def agreed(shake: ServerHandshake) -> Export:
    assert shake.export is not None
    return shake.export


def test_the_greeting_is_fixed_newstyle_without_zeroes() -> None:
    assert GREETING_BYTES == b"NBDMAGICIHAVEOPT\0\x03"


def test_what_qemu_7_sends_gives_an_export_with_structured_replies_and_its_context() -> None:
    go = b"\0\0\0\x03vda\0\x01\0\x03"
    answers, shake = talk(ask(Option.STRUCTURED_REPLY), ask(Option.SET_META_CONTEXT, CONTEXTS), ask(Option.GO, go))
    assert answers[0] == said(Option.STRUCTURED_REPLY, Reply.ACK)
    context = said(Option.SET_META_CONTEXT, Reply.META_CONTEXT, b"\0\0\0\1base:allocation")
    assert answers[1] == context + said(Option.SET_META_CONTEXT, Reply.ACK)
    size = said(Option.GO, Reply.INFO, struct.pack(">HQH", 0, 1 << 30, 0x86D))
    blocks = said(Option.GO, Reply.INFO, struct.pack(">HLLL", 3, 1, 4096, 1 << 25))
    assert answers[2] == size + blocks + said(Option.GO, Reply.ACK)
    export = agreed(shake)
    assert (export.name, export.size, export.structured) == ("vda", 1 << 30, True)
    assert export.contexts == {1: "base:allocation"}
    assert not export.flags & constants.Transmission.CAN_MULTI_CONN


@pytest.mark.parametrize("option", [Option.EXTENDED_HEADERS, Option.STARTTLS, 4, 99, 0xFFFFFFFF])
def test_an_unknown_option_is_refused_and_the_client_goes_on(option: int) -> None:
    answers, shake = talk(ask(option, b"x" * 100), ask(Option.GO, b"\0\0\0\x03vdb\0\0"))
    assert answers[0] == said(option, Reply.UNSUP)
    assert agreed(shake).size == 4097
    assert not agreed(shake).structured


def test_exports_are_listed_in_order_and_described_without_being_taken() -> None:
    answers, shake = talk(ask(Option.LIST), ask(Option.INFO, b"\0\0\0\x03vda\0\x01\0\x01"), ask(Option.LIST, b"?"))
    names = [said(Option.LIST, Reply.SERVER, b"\0\0\0\x03" + name) for name in (b"vda", b"vdb")]
    assert answers[0] == b"".join(names) + said(Option.LIST, Reply.ACK)
    assert kinds(answers[1]) == [*[(Option.INFO, Reply.INFO)] * 3, (Option.INFO, Reply.ACK)]
    assert kinds(answers[2]) == [(Option.LIST, Reply.INVALID)]
    assert shake.export is None
    assert not shake.ended


def test_an_old_client_gets_the_export_by_its_name() -> None:
    answers, shake = talk(ask(Option.EXPORT_NAME, b"vdb") + b"more")
    assert answers == [struct.pack(">QH", 4097, 0x86D)]
    assert agreed(shake).size == 4097
    assert shake.leftover == b"more"


def test_who_did_not_decline_the_zeroes_gets_them() -> None:
    shake = ServerHandshake(EXPORTS)
    assert shake.receive(b"\0\0\0\1" + ask(Option.EXPORT_NAME, b"vdb")) == struct.pack(">QH", 4097, 0x86D) + bytes(124)


def test_an_old_client_that_wants_what_is_not_there_is_closed() -> None:
    answers, shake = talk(ask(Option.EXPORT_NAME, b"vdc"))
    assert (answers, shake.ended, shake.export) == ([b""], True, None)


def test_abort_is_acknowledged_and_ends_it() -> None:
    answers, shake = talk(ask(Option.ABORT))
    assert (answers, shake.ended) == ([said(Option.ABORT, Reply.ACK)], True)


def test_an_unknown_export_is_refused_and_another_may_be_asked_for() -> None:
    answers, shake = talk(ask(Option.GO, b"\0\0\0\x03vdc\0\0"), ask(Option.GO, b"\0\0\0\x03vda\0\0"))
    assert kinds(answers[0]) == [(Option.GO, Reply.UNKNOWN)]
    assert agreed(shake).name == "vda"


def test_contexts_need_structured_replies_and_hold_for_their_export_only() -> None:
    go = ask(Option.GO, b"\0\0\0\x03vdb\0\0")
    answers, shake = talk(ask(Option.SET_META_CONTEXT, CONTEXTS), go)
    assert kinds(answers[0]) == [(Option.SET_META_CONTEXT, Reply.INVALID)]
    answers, shake = talk(ask(Option.STRUCTURED_REPLY), ask(Option.SET_META_CONTEXT, CONTEXTS), go)
    assert agreed(shake).contexts == {}


def test_a_later_choice_of_contexts_takes_an_earlier_one_back() -> None:
    none = b"\0\0\0\x03vda\0\0\0\0"
    _, shake = talk(
        ask(Option.STRUCTURED_REPLY),
        ask(Option.SET_META_CONTEXT, CONTEXTS),
        ask(Option.SET_META_CONTEXT, none),
        ask(Option.GO, b"\0\0\0\x03vda\0\0"),
    )
    assert agreed(shake).contexts == {}


@pytest.mark.parametrize("query", [b"\0\0\0\0", b"\0\0\0\1\0\0\0\5base:"])
def test_contexts_are_listed(query: bytes) -> None:
    answers, _ = talk(ask(Option.LIST_META_CONTEXT, b"\0\0\0\x03vda" + query))
    listed = said(Option.LIST_META_CONTEXT, Reply.META_CONTEXT, b"\0\0\0\0base:allocation")
    assert answers == [listed + said(Option.LIST_META_CONTEXT, Reply.ACK)]


@pytest.mark.parametrize("option", [Option.GO, Option.INFO, Option.SET_META_CONTEXT, Option.LIST_META_CONTEXT])
@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\0\0\x03vd", b"\0\0\0\x03vda", b"\xff\xff\xff\xffvda\0\0", b"\0\0\0\x02\xff\xff\0\0",
     b"\0\0\0\x03vda\xff\xff\xff\xff", b"\0\0\0\x03vda\0\x02\0\1", b"\0\0\0\x03vda\0\0\0\0?"],
)  # fmt: skip
def test_an_option_that_does_not_fit_together_is_invalid_and_the_client_goes_on(option: Option, data: bytes) -> None:
    answers, shake = talk(ask(Option.STRUCTURED_REPLY), ask(option, data), ask(Option.GO, b"\0\0\0\x03vda\0\0"))
    assert kinds(answers[1]) == [(option, Reply.INVALID)]
    assert shake.export is not None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x07",
        FLAGS + b"IHAVEOPS" + bytes(8),
        FLAGS + struct.pack(">QLL", constants.IHAVEOPT, Option.GO, server_handshake.LONGEST_OPTION + 1),
    ],
)
def test_who_does_not_speak_nbd_is_dropped(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ServerHandshake(EXPORTS).receive(data)


def test_our_own_options_are_what_the_client_role_packs() -> None:
    assert pack_option(Option.ABORT) == ask(Option.ABORT)
