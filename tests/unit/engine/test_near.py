"""Small pieces of a file, read and written together where they lie near each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.store import near
from engine.store.memory import MemoryFile

PIECES = st.lists(st.tuples(st.integers(0, 300_000), st.binary(max_size=40)), max_size=30)


class Counted(MemoryFile):
    """Counts the calls, and notes what is written."""

    def __init__(self, content: bytes = b"") -> None:
        super().__init__()
        MemoryFile.write(self, 0, content)
        self.reads = 0
        self.written: list[tuple[int, int]] = []

    def read(self, start: int, length: int) -> bytes:
        self.reads += 1
        return super().read(start, length)

    def write(self, start: int, data: bytes) -> None:
        self.written.append((start, len(data)))
        super().write(start, data)


@given(PIECES)
def test_what_is_written_is_what_one_write_after_the_other_gives(pieces: list[tuple[int, bytes]]) -> None:
    one, other = Counted(b"before" * 20_000), Counted(b"before" * 20_000)
    near.write(one, pieces)
    for start, data in pieces:
        if data:
            MemoryFile.write(other, start, data)
    length = 400_000
    assert one.read(0, length).ljust(length, b"\0") == other.read(0, length).ljust(length, b"\0")


@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 5_000)), max_size=30))
def test_what_is_read_is_what_one_read_after_the_other_gives(ranges: list[tuple[int, int]]) -> None:
    file = Counted(bytes(range(251)) * 800)
    wanted = [MemoryFile.read(file, start, length).ljust(length, b"\0") for start, length in ranges]
    assert near.read(file, ranges) == wanted


def test_neighbours_share_a_call() -> None:
    file = Counted(bytes(100_000))
    near.write(file, [(at * 96, b"x" * 32) for at in range(100)])
    assert file.written == [(0, 99 * 96 + 32)]
    file.reads = 0
    near.read(file, [(at * 96, 32) for at in range(100)])
    assert file.reads == 1


def test_what_lies_far_apart_is_not_written_between() -> None:
    file = Counted(bytes(10))
    near.write(file, [(0, b"x"), (50_000, b"x"), (40_000, b"x")])
    assert file.written == [(0, 1), (50_000, 1), (40_000, 1)]


def test_one_call_has_a_bound() -> None:
    file = Counted(bytes(1 << 20))
    near.write(file, [(at * 4096, b"x" * 16) for at in range(256)])
    assert max(length for _, length in file.written) <= 128 << 10
    assert len(file.written) < 10
