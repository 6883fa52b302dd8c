"""The client's side of the transmission phase, as a table of bytes."""

from __future__ import annotations

import errno
import struct

import pytest

from engine.nbd.constants import Chunk, Command, Flag, ProtocolError
from engine.nbd.handshake import Export
from engine.nbd.requests import Answer
from engine.nbd.transmission import SCRATCH, ClientTransmission

SIMPLE = Export("vda", 1 << 20)
STRUCTURED = Export("vda", 1 << 20, structured=True, contexts={3: "base:allocation", 4: "qemu:dirty-bitmap:b0"})


def simple(cookie: int, error: int = 0, data: bytes = b"") -> bytes:
    return struct.pack(">LLQ", 0x67446698, error, cookie) + data


def chunk(cookie: int, kind: int, payload: bytes = b"", done: bool = False) -> bytes:
    return struct.pack(">LHHQL", 0x668E33EF, done, kind, cookie, len(payload)) + payload


def data(cookie: int, start: int, content: bytes, done: bool = False) -> bytes:
    return chunk(cookie, Chunk.OFFSET_DATA, struct.pack(">Q", start) + content, done)


def hole(cookie: int, start: int, length: int, done: bool = False) -> bytes:
    return chunk(cookie, Chunk.OFFSET_HOLE, struct.pack(">QL", start, length), done)


def failure(cookie: int, error: int, words: bytes, done: bool = False, kind: int = Chunk.ERROR) -> bytes:
    return chunk(cookie, kind, struct.pack(">LH", error, len(words)) + words, done)


def extents(cookie: int, context: int, *found: tuple[int, int], done: bool = False) -> bytes:
    flat = b"".join(struct.pack(">LL", *one) for one in found)
    return chunk(cookie, Chunk.BLOCK_STATUS, struct.pack(">L", context) + flat, done)


def reading(export: Export, start: int, length: int) -> tuple[ClientTransmission, bytearray]:
    """A connection with one READ in flight, of cookie 1, and the memory it fills."""
    codec, memory = ClientTransmission(export), bytearray(b"?" * length)
    codec.request(Command.READ, start, length, into=memoryview(memory))
    return codec, memory


@pytest.mark.parametrize(
    ("command", "start", "length", "flags", "expected"),
    [
        (Command.WRITE, 512, 4096, Flag.FUA, "25609513 0001 0001 0000000000000001 0000000000000200 00001000"),
        (Command.FLUSH, 0, 0, Flag.NONE, "25609513 0000 0003 0000000000000001 0000000000000000 00000000"),
        (Command.TRIM, 1, 2, Flag.NONE, "25609513 0000 0004 0000000000000001 0000000000000001 00000002"),
        (Command.WRITE_ZEROES, 0, 1 << 31, Flag.NO_HOLE | Flag.FAST_ZERO,
         "25609513 0012 0006 0000000000000001 0000000000000000 80000000"),
        (Command.BLOCK_STATUS, 7, 9, Flag.REQ_ONE, "25609513 0008 0007 0000000000000001 0000000000000007 00000009"),
        (Command.DISC, 0, 0, Flag.NONE, "25609513 0000 0002 0000000000000001 0000000000000000 00000000"),
    ],
)  # fmt: skip
def test_requests_are_these_bytes(command: Command, start: int, length: int, flags: Flag, expected: str) -> None:
    cookie, header = ClientTransmission(SIMPLE).request(command, start, length, flags)
    assert (cookie, header.hex(" ")) == (1, bytes.fromhex(expected).hex(" "))


def test_a_read_names_its_memory() -> None:
    with pytest.raises(ValueError, match="needs memory"):
        ClientTransmission(SIMPLE).request(Command.READ, 0, 4, into=memoryview(bytearray(3)))


def test_simple_replies_come_in_any_order() -> None:
    codec, first = reading(SIMPLE, 0, 5)
    second = bytearray(3)
    codec.request(Command.READ, 9, 3, into=memoryview(second))
    codec.request(Command.FLUSH, 0, 0)
    assert codec.feed(simple(3) + simple(2, 0, b"two") + simple(1, 0, b"first")) == [Answer(3), Answer(2), Answer(1)]
    assert (bytes(first), bytes(second), codec.in_flight) == (b"first", b"two", 0)


def test_a_read_is_put_together_from_data_and_holes_in_any_order() -> None:
    codec, memory = reading(STRUCTURED, 1000, 12)
    said = data(1, 1008, b"tail") + hole(1, 1004, 4) + data(1, 1000, b"head") + chunk(1, Chunk.NONE, done=True)
    assert codec.feed(said) == [Answer(1)]
    assert memory == b"head\0\0\0\0tail"


def test_large_data_goes_straight_into_the_readers_memory() -> None:
    content = bytes(range(256)) * 4096
    codec, memory = reading(STRUCTURED, 0, len(content))
    said = data(1, 0, content, done=True)
    assert codec.feed(said[:100]) == []
    view = codec.buffer()
    assert len(view) == len(content) - 100 + 28
    assert view.obj is memory
    assert codec.feed(said[100:]) == [Answer(1)]
    assert memory == content
    assert len(codec.buffer()) == SCRATCH


def test_a_failed_request_leaves_the_connection_and_the_others() -> None:
    codec, _ = reading(STRUCTURED, 0, 4)
    codec.request(Command.WRITE, 8, 4)
    codec.request(Command.WRITE, 16, 4)
    said = data(1, 0, b"ab") + failure(1, 5, b"bad sector") + chunk(1, Chunk.NONE, done=True)
    answers = codec.feed(said + simple(2, 28) + simple(3))
    assert [answer.error and answer.error.errno for answer in answers] == [errno.EIO, errno.ENOSPC, None]
    assert str(answers[0].error) == "READ of 4 bytes at 0 failed with EIO (bad sector)"
    assert str(answers[1].error) == "WRITE of 4 bytes at 8 failed with ENOSPC"


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (failure(1, 5, b"", done=True), errno.EIO),
        (failure(1, 1, b"no", done=True), errno.EPERM),
        (failure(1, 22, b"", done=True), errno.EINVAL),
        (failure(1, 95, b"", done=True), errno.ENOTSUP),
        (failure(1, 108, b"", done=True), errno.ESHUTDOWN),
        (failure(1, 77777, b"", done=True), errno.EINVAL),
        (chunk(1, Chunk.ERROR_OFFSET, struct.pack(">LH", 5, 2) + b"at" + bytes(8), done=True), errno.EIO),
        (failure(1, 12, b"of later days", done=True, kind=0x8FFF), errno.ENOMEM),
        (failure(1, 5, b"first") + failure(1, 28, b"second", done=True), errno.EIO),
    ],
)
def test_errors_are_told_by_number(said: bytes, number: int) -> None:
    codec, _ = reading(STRUCTURED, 0, 4)
    (answer,) = codec.feed(said)
    assert answer.error is not None
    assert answer.error.errno == number


def test_block_status_gives_each_context() -> None:
    codec = ClientTransmission(STRUCTURED)
    codec.request(Command.BLOCK_STATUS, 0, 65536)
    (answer,) = codec.feed(extents(1, 3, (4096, 0), (4096, 3)) + extents(1, 4, (65536, 1), done=True))
    assert answer.status == {"base:allocation": [(4096, 0), (4096, 3)], "qemu:dirty-bitmap:b0": [(65536, 1)]}


def test_an_empty_read_is_answered() -> None:
    for export, said in ((SIMPLE, simple(1)), (STRUCTURED, chunk(1, Chunk.NONE, done=True))):
        codec, _ = reading(export, 0, 0)
        assert codec.feed(said) == [Answer(1)]


@pytest.mark.parametrize(
    "said",
    [
        b"\0\0\0\0",
        simple(1, 0, b"abcd"),
        simple(2),
        chunk(2, Chunk.NONE, done=True),
        chunk(1, Chunk.NONE, b"x", done=True),
        chunk(1, Chunk.NONE, done=True),
        chunk(1, 77, done=True),
        data(1, 0, b"abc", done=True),
        data(1, 0, b"ab") + data(1, 1, b"bcd", done=True),
        data(1, 0, b"ab") + data(1, 0, b"ab", done=True),
        data(1, 2, b"cde", done=True),
        data(1, 0, b"", done=True),
        data(1, 1 << 63, b"x"),
        hole(1, 0, 5, done=True),
        hole(1, 0, 0, done=True),
        chunk(1, Chunk.OFFSET_HOLE, b"short"),
        extents(1, 3, (4, 0), done=True),
        failure(1, 0, b"", done=True),
        chunk(1, Chunk.ERROR, struct.pack(">LH", 5, 9) + b"short", done=True),
        chunk(1, Chunk.ERROR, b"\0" * 5, done=True),
        struct.pack(">LHHQL", 0x668E33EF, 1, Chunk.ERROR, 1, 1 << 31),
    ],
)
def test_a_reply_that_cannot_be_ends_the_connection(said: bytes) -> None:
    codec, _ = reading(STRUCTURED, 0, 4)
    with pytest.raises(ProtocolError):
        codec.feed(said)
    with pytest.raises(ProtocolError):
        codec.feed(b"x")


@pytest.mark.parametrize(
    "said",
    [
        extents(1, 9, (1, 0), done=True),
        extents(1, 3, (0, 0), done=True),
        extents(1, 3, (1, 0)) + extents(1, 3, (1, 0), done=True),
        chunk(1, Chunk.BLOCK_STATUS, b"\0\0\0\3" + bytes(9), done=True),
        chunk(1, Chunk.NONE, done=True),
        data(1, 0, b"data", done=True),
        simple(1),
    ],
)
def test_extents_that_cannot_be_end_the_connection(said: bytes) -> None:
    codec = ClientTransmission(STRUCTURED)
    codec.request(Command.BLOCK_STATUS, 0, 4)
    with pytest.raises(ProtocolError):
        codec.feed(said)


def test_chunks_are_refused_where_they_were_not_agreed_on() -> None:
    codec, _ = reading(SIMPLE, 0, 4)
    with pytest.raises(ProtocolError):
        codec.feed(data(1, 0, b"abcd", done=True))
