"""Requests as a server takes them, and its replies, as bytes."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from engine.nbd.constants import Command, Flag, ProtocolError, Transmission
from engine.nbd.handshake import Export
from engine.nbd.server_transmission import BUFFER, Request, ServerTransmission
from tests.support import nbd_memory

SIZE = 64 << 20
PLAIN = nbd_memory.exports(vda=SIZE)["vda"]
EXPORT = replace(PLAIN, structured=True, contexts={1: "base:allocation"})
EINVAL, ENOSPC, EPERM = 22, 28, 1


def ask(command: int, start: int = 0, length: int = 0, flags: int = 0, cookie: int = 7) -> bytes:
    return struct.pack(">LHHQQL", 0x25609513, flags, command, cookie, start, length)


def simple(number: int, cookie: int = 7) -> bytes:
    return struct.pack(">LLQ", 0x67446698, number, cookie)


def taken(data: bytes, export: Export = EXPORT) -> tuple[list[Request], list[bytes]]:
    codec = ServerTransmission(export)
    return codec.feed(data), codec.refused


def test_what_one_reading_brought_is_given_at_once_in_order_with_its_data() -> None:
    codec = ServerTransmission(EXPORT)
    said = ask(1, 8, 3) + b"abc" + ask(6, 0, 4096, Flag.NO_HOLE) + ask(3) + ask(1, 11, 2, Flag.FUA, 9) + b"de"
    codec.buffer()[: len(said)] = said
    got = codec.filled(len(said))
    assert [(one.command, one.start, one.length, bytes(one.data)) for one in got] == [
        (1, 8, 3, b"abc"),
        (6, 0, 4096, b""),
        (3, 0, 0, b""),
        (1, 11, 2, b"de"),
    ]
    assert (got[3].flags, got[3].cookie) == (Flag.FUA, 9)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (ask(1, SIZE - 2, 3) + b"abc", ENOSPC),
        (ask(1, (1 << 64) - 1, 3) + b"abc", ENOSPC),
        (ask(6, SIZE, 1), ENOSPC),
        (ask(6, 0, 0xFFFFFFFF), ENOSPC),
        (ask(4, SIZE - 1, 2), EINVAL),
        (ask(5, 0, 512), EINVAL),
        (ask(99, 0, 512), EINVAL),
        (ask(3, 0, 0, Flag.NO_HOLE), EINVAL),
        (ask(1, 0, 1, 0x8000) + b"x", EINVAL),
        (ask(4, 0, 1, Flag.FAST_ZERO), EINVAL),
    ],
)
def test_what_cannot_be_carried_out_is_refused_and_the_next_is_taken(said: bytes, number: int) -> None:
    got, refused = taken(said + ask(1, 0, 2, cookie=8) + b"ok")
    assert refused == [simple(number)]
    assert [(one.cookie, bytes(one.data)) for one in got] == [(8, b"ok")]


@pytest.mark.parametrize(
    "said", [ask(0, SIZE, 1), ask(0, 0, (32 << 20) + 1), ask(7, 0, 0), ask(7, SIZE - 1, 2), ask(0, 0, 1, Flag.REQ_ONE)]
)
def test_a_refused_read_or_status_is_answered_with_structure(said: bytes) -> None:
    chunk = struct.pack(">LHHQLLH", 0x668E33EF, 1, 0x8001, 7, 6, EINVAL, 0)
    assert taken(said) == ([], [chunk])
    assert taken(said, PLAIN) == ([], [simple(EINVAL)])


def test_status_without_its_context_is_refused() -> None:
    assert taken(ask(7, 0, 512), replace(EXPORT, contexts={}))[0] == []


def test_the_last_bytes_may_be_written() -> None:
    got, refused = taken(ask(1, SIZE - 3, 3) + b"abc" + ask(6, 0, SIZE) + ask(4, SIZE, 0))
    assert (len(got), refused) == (3, [])


def test_a_read_only_export_refuses_what_writes() -> None:
    sealed = replace(EXPORT, flags=EXPORT.flags | Transmission.READ_ONLY)
    got, refused = taken(ask(1, 0, 1) + b"x" + ask(4, 0, 1) + ask(6, 0, 1) + ask(0, 0, 1), sealed)
    assert refused == [simple(EPERM)] * 3
    assert [one.command for one in got] == [Command.READ]


def test_nothing_behind_a_goodbye_is_taken() -> None:
    codec = ServerTransmission(EXPORT)
    assert [one.command for one in codec.feed(ask(3) + ask(2) + ask(1, 0, 1) + b"x")] == [Command.FLUSH]
    assert codec.closing


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n..", ask(1, 0, (32 << 20) + 1)])
def test_who_breaks_the_protocol_is_dropped_for_good(said: bytes) -> None:
    codec = ServerTransmission(EXPORT)
    with pytest.raises(ProtocolError):
        codec.feed(said)
    with pytest.raises(ProtocolError):
        codec.feed(ask(3))


def test_the_largest_write_comes_whole_and_its_memory_is_given_back() -> None:
    codec, data = ServerTransmission(EXPORT), bytes(range(256)) * (1 << 17)
    got = codec.feed(ask(1, 4096, len(data)) + data + ask(1, 0, 2, cookie=8) + b"ok" + ask(3, cookie=9))
    assert [(one.cookie, bytes(one.data)) for one in got] == [(7, data), (8, b"ok"), (9, b"")]
    codec.buffer()
    assert codec.held == BUFFER


def test_replies_are_those_of_the_protocol() -> None:
    structured, plain = ServerTransmission(EXPORT), ServerTransmission(PLAIN)
    read = Request(Command.READ, 0, 7, 4096, 3, memoryview(b""))
    assert plain.content(read, b"abc") == simple(0) + b"abc"
    assert structured.content(read, b"abc") == struct.pack(">LHHQLQ", 0x668E33EF, 1, 1, 7, 11, 4096) + b"abc"
    assert structured.content(read._replace(length=0), b"") == struct.pack(">LHHQL", 0x668E33EF, 1, 0, 7, 0)
    status = Request(Command.BLOCK_STATUS, 0, 7, 0, 512, memoryview(b""))
    head = struct.pack(">LHHQL", 0x668E33EF, 1, 5, 7, 20)
    assert structured.extents(status, [(5, 0), (6, 3)]) == head + struct.pack(">LLLLL", 1, 5, 0, 6, 3)
    one = structured.extents(status._replace(flags=Flag.REQ_ONE), [(5, 0), (6, 3)])
    assert one == struct.pack(">LHHQLLLL", 0x668E33EF, 1, 5, 7, 12, 1, 5, 0)
    failed = structured.failed(Command.READ, 7, EPERM, "no")
    assert failed == struct.pack(">LHHQLLH", 0x668E33EF, 1, 0x8001, 7, 8, EPERM, 2) + b"no"
