"""The NBD codec under any split of the stream, any interleaving a server may choose, and any garbage."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from engine import errors
from engine.nbd.constants import Chunk, Command, Info, Option, ProtocolError, Reply
from engine.nbd.handshake import ClientHandshake, Export, pack_reply
from engine.nbd.requests import Answer
from engine.nbd.transmission import ClientTransmission

EXPORT = Export("vda", 1 << 20, structured=True, contexts={1: "base:allocation"})

GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
REPLIES = (
    pack_reply(Option.STRUCTURED_REPLY, Reply.ACK),
    pack_reply(Option.SET_META_CONTEXT, Reply.META_CONTEXT, b"\0\0\0\1base:allocation")
    + pack_reply(Option.SET_META_CONTEXT, Reply.ACK),
    pack_reply(Option.GO, Reply.INFO, struct.pack(">HLLL", Info.BLOCK_SIZE, 1, 4096, 1 << 25))
    + pack_reply(Option.GO, Reply.INFO, struct.pack(">HQH", Info.EXPORT, 1 << 20, 0x4D))
    + pack_reply(Option.GO, Reply.ACK),
)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def chunk(cookie: int, kind: int, payload: bytes, done: bool) -> bytes:
    return struct.pack(">LHHQL", 0x668E33EF, done, kind, cookie, len(payload)) + payload


class Conversation:
    """Requests, and one way in which a server may answer them all: what it says, and what must come of it."""

    def __init__(self, dice: random.Random) -> None:
        self.codec = ClientTransmission(EXPORT)
        self.memories: dict[int, bytearray] = {}
        self.expected: dict[int, bytes] = {}
        self.status: dict[int, list[tuple[int, int]]] = {}
        self.failed: set[int] = set()
        replies = [self.request(dice) for _ in range(dice.randrange(1, 8))]
        said = []
        while any(replies):
            said.append(dice.choice([one for one in replies if one]).pop(0))
        self.said = b"".join(said)

    def request(self, dice: random.Random) -> list[bytes]:
        """Send one, and give the pieces of its reply, which may be mixed with others'."""
        command = dice.choice([Command.READ, Command.READ, Command.WRITE, Command.FLUSH, Command.BLOCK_STATUS])
        start, length = dice.randrange(1 << 20), dice.choice([1, 7, 512, 4096, 100_000])
        memory = bytearray(b"?" * length)
        into = memoryview(memory) if command == Command.READ else None
        cookie, _ = self.codec.request(command, start, length, into=into)
        if dice.random() < 0.2:
            self.failed.add(cookie)
            return [chunk(cookie, Chunk.ERROR, struct.pack(">LH", 5, 3) + b"why", True)]
        if command == Command.READ:
            return self.content(dice, cookie, start, memory)
        if command == Command.BLOCK_STATUS:
            self.status[cookie] = [(dice.randrange(1, 9000), dice.randrange(4)) for _ in range(dice.randrange(1, 9))]
            flat = b"".join(struct.pack(">LL", *one) for one in self.status[cookie])
            return [chunk(cookie, Chunk.BLOCK_STATUS, b"\0\0\0\1" + flat, True)]
        return [dice.choice([struct.pack(">LLQ", 0x67446698, 0, cookie), chunk(cookie, Chunk.NONE, b"", True)])]

    def content(self, dice: random.Random, cookie: int, start: int, memory: bytearray) -> list[bytes]:
        cuts = sorted({0, len(memory), *(dice.randrange(len(memory)) for _ in range(dice.randrange(5)))})
        expected, pieces = bytearray(), []
        for first, past in itertools.pairwise(cuts):
            if dice.random() < 0.4:
                expected += bytes(past - first)
                pieces.append((Chunk.OFFSET_HOLE, struct.pack(">QL", start + first, past - first)))
            else:
                expected += dice.randbytes(past - first)
                pieces.append((Chunk.OFFSET_DATA, struct.pack(">Q", start + first) + expected[first:past]))
        dice.shuffle(pieces)
        if dice.random() < 0.3:
            pieces.append((Chunk.NONE, b""))
        self.memories[cookie], self.expected[cookie] = memory, bytes(expected)
        return [chunk(cookie, kind, bytes(load), at == len(pieces)) for at, (kind, load) in enumerate(pieces, 1)]

    def check(self, answers: list[Answer]) -> None:
        assert self.codec.in_flight == 0
        assert {answer.cookie for answer in answers if answer.error} == self.failed
        for answer in answers:
            if answer.cookie in self.expected:
                assert self.memories[answer.cookie] == self.expected[answer.cookie]
            if answer.cookie in self.status:
                assert answer.status == {"base:allocation": self.status[answer.cookie]}


@settings(deadline=None)  # a shared machine has slow moments
@given(seed=st.integers(0, 1 << 32), cuts=st.lists(st.integers(0, 200_000), max_size=30))
def test_any_split_of_any_order_of_replies_gives_the_same_answers(seed: int, cuts: list[int]) -> None:
    conversation = Conversation(random.Random(seed))
    answers = [answer for piece in split(conversation.said, cuts) for answer in conversation.codec.feed(piece)]
    conversation.check(answers)


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 16))
def test_replies_that_come_byte_by_byte_give_the_same_answers(seed: int) -> None:
    conversation = Conversation(random.Random(seed))
    said = conversation.said[:6_000]
    for at in range(len(said)):
        conversation.codec.feed(said[at : at + 1])
    rest = conversation.codec.feed(conversation.said[6_000:])
    assert conversation.codec.in_flight == 0
    assert all(answer.cookie for answer in rest)


@settings(deadline=None)
@given(cuts=st.lists(st.lists(st.integers(0, 130), max_size=12), min_size=4, max_size=4))
def test_any_split_of_the_handshake_ends_in_the_same_export(cuts: list[list[int]]) -> None:
    shake = ClientHandshake("vda")
    asked = [
        b"".join(shake.receive(piece) for piece in split(said, at))
        for said, at in zip((GREETING, *REPLIES), cuts, strict=True)
    ]
    whole = ClientHandshake("vda")
    assert asked == [whole.receive(said) for said in (GREETING, *REPLIES)]
    assert shake.export == whole.export
    assert shake.export is not None


@settings(deadline=None)
@given(before=st.integers(0, 3), garbage=st.binary(max_size=300), flip=st.integers(0, 400))
def test_garbage_in_the_handshake_is_an_error_of_ours(before: int, garbage: bytes, flip: int) -> None:
    for said in ((*(GREETING, *REPLIES)[:before], garbage), (*(GREETING, *REPLIES)[:before], flipped(before, flip))):
        shake = ClientHandshake("vda")
        with contextlib.suppress(errors.FerryError):
            for one in said:
                shake.receive(one)


def flipped(which: int, bit: int) -> bytes:
    data = bytearray((GREETING, *REPLIES)[which])
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(data)


@settings(deadline=None)
@given(garbage=st.binary(max_size=2000), known=st.booleans())
def test_garbage_in_the_transmission_is_a_protocol_error_or_waits(garbage: bytes, known: bool) -> None:
    codec, memory = ClientTransmission(EXPORT), bytearray(64)
    codec.request(Command.READ, 0, 64, into=memoryview(memory))
    with contextlib.suppress(ProtocolError):
        codec.feed(struct.pack(">L", 0x668E33EF) + garbage if known else garbage)


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32), at=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_a_flipped_bit_never_fills_more_than_was_asked_for(seed: int, at: int, bit: int) -> None:
    conversation = Conversation(random.Random(seed))
    said = bytearray(conversation.said)
    said[at % len(said)] ^= 1 << bit
    with contextlib.suppress(ProtocolError):
        answers = conversation.codec.feed(bytes(said))
        assert len({answer.cookie for answer in answers}) == len(answers)
