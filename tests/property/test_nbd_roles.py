"""Our NBD client against our NBD server, in memory: any split of the bytes, any order of replies, any garbage."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from engine import errors
from engine.nbd.constants import Command, Flag, ProtocolError
from engine.nbd.handshake import ClientHandshake, Export
from engine.nbd.requests import Answer
from engine.nbd.server_handshake import GREETING_BYTES, LONGEST_OPTION, ServerHandshake
from engine.nbd.server_transmission import BUFFER, ServerTransmission
from engine.nbd.transmission import ClientTransmission
from tests.support.nbd_memory import Memory, exports, extents

SIZE = 1 << 20
OFFERED = exports(vda=SIZE)


def pieces(dice: random.Random, data: bytes) -> list[bytes]:
    cuts = sorted({0, len(data), *(dice.randrange(len(data) + 1) for _ in range(dice.randrange(6)))})
    return [data[first:past] for first, past in itertools.pairwise(cuts)]


def agree(dice: random.Random, contexts: tuple[str, ...]) -> tuple[Export, Export, bytes]:
    """What both sides agreed on, and all that the client sent meanwhile."""
    client, server = ClientHandshake("vda", contexts), ServerHandshake(OFFERED)
    sent, answer = b"", GREETING_BYTES
    while client.export is None:
        asked = b"".join(client.receive(piece) for piece in pieces(dice, answer))
        sent += asked
        answer = b"".join(server.receive(piece) for piece in pieces(dice, asked))
    assert server.export is not None
    return client.export, server.export, sent


@dataclass
class Talk:
    """Both roles of one connection, and what the disk should hold."""

    dice: random.Random
    client: ClientTransmission
    server: ServerTransmission
    memory: Memory
    model: bytearray = field(default_factory=lambda: bytearray(SIZE))
    wanted: dict[int, tuple[bytearray, bytes]] = field(default_factory=dict)
    status: dict[int, object] = field(default_factory=dict)
    sent: bytes = b""

    def ask(self) -> bytes:
        """One request, and what the disk holds once it was carried out."""
        command = self.dice.choice([Command.READ, Command.WRITE, Command.WRITE_ZEROES, Command.TRIM, Command.FLUSH,
                                    Command.BLOCK_STATUS])  # fmt: skip
        start = self.dice.randrange(SIZE)
        length = min(self.dice.choice([1, 511, 4096, 70_000, 300_000]), SIZE - start)
        memory, data = bytearray(b"?" * length), b""
        into = memoryview(memory) if command == Command.READ else None
        flags = self.dice.choice([Flag.NONE, Flag.FUA])
        cookie, asked = self.client.request(command, start, length if command != Command.FLUSH else 0, flags, into)
        if command == Command.READ:
            self.wanted[cookie] = memory, bytes(self.model[start : start + length])
        elif command == Command.WRITE:
            data = self.dice.randbytes(length)
            self.model[start : start + length] = data
        elif command in (Command.WRITE_ZEROES, Command.TRIM):
            self.model[start : start + length] = bytes(length)
        elif command == Command.BLOCK_STATUS:
            self.status[cookie] = extents(self.model, start, start + length)
        return asked + data

    def round(self) -> list[Answer]:
        """Some requests at once, carried out in order and answered in another."""
        asked = b"".join(self.ask() for _ in range(self.dice.randrange(1, 8)))
        self.sent += asked
        taken = [one for piece in pieces(self.dice, asked) for one in self.server.feed(piece)]
        replies = [self.memory.answer(self.server, one) for one in taken]
        self.dice.shuffle(replies)
        return [one for piece in pieces(self.dice, b"".join(replies)) for one in self.client.feed(piece)]

    def check(self, answers: list[Answer]) -> None:
        assert self.client.in_flight == 0
        assert self.server.refused == []
        for answer in answers:
            assert answer.error is None
            if answer.cookie in self.wanted:
                memory, expected = self.wanted[answer.cookie]
                assert memory == expected
            if answer.cookie in self.status:
                assert answer.status == {"base:allocation": self.status[answer.cookie]}
        assert self.memory.content["vda"] == self.model


def talk(seed: int) -> Talk:
    dice = random.Random(seed)
    ours, theirs, _ = agree(dice, ("base:allocation",))
    return Talk(dice, ClientTransmission(ours), ServerTransmission(theirs), Memory(OFFERED))


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_both_roles_agree_on_the_export_however_the_bytes_come(seed: int) -> None:
    for contexts in ((), ("base:allocation",), ("other:one", "base:allocation")):
        ours, theirs, _ = agree(random.Random(seed), contexts)
        assert ours == theirs
        assert ours.contexts == ({1: "base:allocation"} if "base:allocation" in contexts else {})


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_a_disk_holds_what_the_client_wrote_and_says_what_it_holds(seed: int) -> None:
    one = talk(seed)
    for _ in range(5):
        one.check(one.round())


def mutated(dice: random.Random, data: bytes) -> bytes:
    """Bits flipped, pieces cut out, doubled or made up."""
    found = bytearray(data)
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(found) + 1)
        what = dice.randrange(4)
        if what == 0 and at < len(found):
            found[at] ^= 1 << dice.randrange(8)
        elif what == 1:
            del found[at : at + dice.randrange(40)]
        elif what == 2:
            found[at:at] = found[at : at + dice.randrange(60)]
        else:
            found[at:at] = dice.randbytes(dice.randrange(30))
    return bytes(found)


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_a_mutated_client_never_brings_the_server_further_than_a_protocol_error(seed: int) -> None:
    dice = random.Random(seed)
    _, theirs, sent = agree(dice, ("base:allocation",))
    server = ServerHandshake(OFFERED)
    with contextlib.suppress(ProtocolError):
        for piece in pieces(dice, mutated(dice, sent)):
            server.receive(piece)
            assert len(server._buffer) <= LONGEST_OPTION + len(piece) + 16
    one = talk(seed)
    one.round()
    codec, memory = ServerTransmission(theirs), Memory(OFFERED)
    with contextlib.suppress(ProtocolError):
        for piece in pieces(dice, mutated(dice, one.sent)):
            for request in codec.feed(piece):
                assert request.start + request.length <= SIZE or request.command == Command.FLUSH
                memory.answer(codec, request)
            assert codec.held <= BUFFER + theirs.largest
            assert len(memory.content["vda"]) == SIZE


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_a_mutated_server_never_brings_the_client_further_than_an_error_of_ours(seed: int) -> None:
    dice = random.Random(seed)
    client, server = ClientHandshake("vda"), ServerHandshake(OFFERED)
    with contextlib.suppress(errors.FerryError):
        answer = GREETING_BYTES
        while client.export is None and answer:
            asked = client.receive(mutated(dice, answer) if dice.random() < 0.3 else answer)
            answer = server.receive(asked)
    one = talk(seed)
    replies = b"".join(one.memory.answer(one.server, request) for request in one.server.feed(one.ask() + one.ask()))
    with contextlib.suppress(ProtocolError):
        for answered in one.client.feed(mutated(dice, replies)):
            assert answered.cookie in (1, 2)


@settings(deadline=None)
@given(garbage=st.binary(max_size=3000), known=st.sampled_from([b"", b"\0\0\0\3", b"\0\0\0\3IHAVEOPT"]))
def test_garbage_at_the_server_is_a_protocol_error_or_waits(garbage: bytes, known: bytes) -> None:
    server = ServerHandshake(OFFERED)
    with contextlib.suppress(ProtocolError):
        server.receive(known + garbage)
    codec = ServerTransmission(OFFERED["vda"])
    with contextlib.suppress(ProtocolError):
        codec.feed((struct.pack(">L", 0x25609513) if known else b"") + garbage)
    assert codec.held <= BUFFER + OFFERED["vda"].largest
