"""A bitmap beside a set of numbers, and what its file gives back."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.store.bitmap import Bitmap
from engine.store.memory import MemoryFile
from schemas import extent

SIZES = st.integers(0, 90) | st.sampled_from([4095, 32768, 32769, 70001])
PUT = st.tuples(st.just("put"), st.integers(0, 70000), st.integers(0, 40000), st.booleans())
RESIZE = st.tuples(st.just("resize"), SIZES, st.just(0), st.just(False))
RELOAD = st.tuples(st.just("reload"), st.just(0), st.just(0), st.just(False))


def check(bits: Bitmap, model: set[int], first: int, count: int) -> None:
    wanted = [(start, end) for start, end in extent.runs(at for at in range(first, first + count) if at in model)]
    assert list(bits.set_runs(first, count)) == wanted
    runs = list(bits.runs(first, count))
    assert [(start, end) for start, end, bit in runs if bit] == wanted
    assert all(left[1] == right[0] and left[2] is not right[2] for left, right in itertools.pairwise(runs))
    assert (runs[0][0], runs[-1][1]) == (first, first + count) if count else runs == []
    assert bits.any(first, count) == bool(wanted)
    assert bits.all(first, count) == (not count or wanted == [(first, first + count)])


@settings(deadline=None, max_examples=150)
@given(SIZES, st.lists(PUT | RESIZE | RELOAD, max_size=12), st.integers(0, 70000), st.integers(0, 70000))
def test_it_is_a_set_of_numbers(size: int, steps: list[tuple[str, int, int, bool]], first: int, count: int) -> None:
    file = MemoryFile()
    bits, model = Bitmap(file, size), set[int]()
    for what, one, other, value in steps:
        if what == "put":
            start = one % (bits.size + 1)
            numbers = range(start, start + min(other, bits.size - start))
            bits.put(start, len(numbers), value)
            model = model | set(numbers) if value else model - set(numbers)
        elif what == "resize":
            bits.resize(one)
            model = {at for at in model if at < one}
        else:
            bits.sync()
            bits = Bitmap(file, bits.size)
        assert bits.count == len(model)
    first %= bits.size + 1
    count = min(count, bits.size - first)
    check(bits, model, first, count)
    check(Bitmap(file, bits.size), model, 0, bits.size)
    assert all((at in bits) == (at in model) for at in range(0, bits.size, 7))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64])
def test_its_file_has_a_bit_for_each_block_and_no_more(size: int) -> None:
    file = MemoryFile()
    bits = Bitmap(file, size)
    bits.put(0, size, True)
    assert file.size() == -(-size // 8)
    assert int.from_bytes(file.read(0, 99), "little") == (1 << size) - 1


def test_bits_that_an_attempt_left_beyond_the_size_never_come_back() -> None:
    # A growing epoch was taken back: its bits may be in the file, and not in the size that is loaded.
    file = MemoryFile()
    Bitmap(file, 16).put(0, 16, True)
    bits = Bitmap(file, 10)
    bits.resize(16)
    bits.sync()
    assert bits.count == 10
    assert list(Bitmap(file, 16).set_runs(0, 16)) == [(0, 10)]


def test_whole_bytes_beyond_the_size_are_cut_off_at_once() -> None:
    file = MemoryFile()
    Bitmap(file, 80).put(0, 80, True)
    bits = Bitmap(file, 16)
    assert (bits.count, file.size()) == (16, 2)


def test_setting_what_is_set_writes_nothing() -> None:
    file = MemoryFile()
    bits = Bitmap(file, 64)
    bits.put(3, 40, True)
    bits.sync()
    bits.put(5, 7, True)
    bits.put(3, 1, True)
    bits.put(50, 9, False)
    before = file.read(0, 8)
    file.lose(random.Random(1))
    assert file.read(0, 8) == before
    assert file._unsynced == []


def test_an_empty_range_is_all_set_and_has_none_set() -> None:
    bits = Bitmap(MemoryFile(), 0)
    assert bits.all(0, 0)
    assert not bits.any(0, 0)
    bits.put(0, 0, True)
    assert bits.count == 0
