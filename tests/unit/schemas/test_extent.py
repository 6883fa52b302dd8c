from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.extent import Extent, Ranges, pieces, runs

MOST = 24
number = st.integers(0, MOST)


def numbers(ranges: Iterable[tuple[int, int]]) -> list[int]:
    return [each for start, end in ranges for each in range(start, end)]


class RangesBesideASet(RuleBasedStateMachine):
    """Whatever is added and removed, in any order, `Ranges` says what a plain set of numbers says."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges = Ranges()
        self.model: set[int] = set()

    @initialize(given=st.lists(st.tuples(number, number), max_size=6))
    def made_of(self, given: list[tuple[int, int]]) -> None:
        self.ranges = Ranges(given)
        self.model = set(numbers(given))

    @rule(start=number, end=number)
    def add(self, start: int, end: int) -> None:
        self.ranges.add(start, end)
        self.model.update(range(start, end))

    @rule(start=number, end=number)
    def remove(self, start: int, end: int) -> None:
        self.ranges.remove(start, end)
        self.model.difference_update(range(start, end))

    @rule(start=number, end=number)
    def within_and_missing_split_the_question(self, start: int, end: int) -> None:
        inside, outside = list(self.ranges.within(start, end)), list(self.ranges.missing(start, end))
        asked = set(range(start, end))
        assert numbers(inside) == sorted(asked & self.model)
        assert numbers(outside) == sorted(asked - self.model)
        assert all(left < right for left, right in inside + outside)
        assert all(before[1] < after[0] for part in (inside, outside) for before, after in pairwise(part))

    @rule(start=number, end=number)
    def a_copy_goes_its_own_way(self, start: int, end: int) -> None:
        other = self.ranges.copy()
        other.add(start, end)
        other.remove(0, MOST)
        assert not other

    @invariant()
    def holds_the_numbers_of_the_model(self) -> None:
        assert numbers(self.ranges) == sorted(self.model)
        assert self.ranges.total == len(self.model)
        assert bool(self.ranges) == bool(self.model)
        assert [each for each in range(-1, MOST + 2) if each in self.ranges] == sorted(self.model)

    @invariant()
    def ranges_are_sorted_apart_and_never_empty(self) -> None:
        found = list(self.ranges)
        assert len(self.ranges) == len(found)
        assert all(start < end for start, end in found)
        assert all(before[1] < after[0] for before, after in pairwise(found))


RangesBesideASet.TestCase.settings = settings(max_examples=300, stateful_step_count=20, deadline=None)
TestRangesBesideASet = RangesBesideASet.TestCase


def test_adjacent_ranges_melt_together() -> None:
    assert list(Ranges([(0, 4), (8, 12), (4, 8)])) == [(0, 12)]


def test_removing_the_middle_leaves_both_sides() -> None:
    ranges = Ranges([(0, 12)])
    ranges.remove(4, 8)
    assert list(ranges) == [(0, 4), (8, 12)]


def test_removing_over_several_ranges_clips_only_the_outer_ones() -> None:
    ranges = Ranges([(0, 4), (6, 8), (10, 14)])
    ranges.remove(2, 12)
    assert list(ranges) == [(0, 2), (12, 14)]


@pytest.mark.parametrize(("start", "end"), [(5, 5), (7, 3), (0, 0)])
def test_an_empty_question_has_no_answer(start: int, end: int) -> None:
    ranges = Ranges([(0, 10)])
    assert list(ranges.within(start, end)) == []
    assert list(ranges.missing(start, end)) == []
    ranges.remove(start, end)
    ranges.add(20 + start, 20 + end)
    assert list(ranges) == [(0, 10)]


def test_a_tebibyte_of_blocks_costs_one_range() -> None:
    ranges = Ranges([(0, 1 << 40)])
    assert (len(ranges), ranges.total) == (1, 1 << 40)
    assert (1 << 40) - 1 in ranges


@settings(deadline=None)
@given(st.sets(number))
def test_runs_cover_rising_numbers_and_nothing_else(chosen: set[int]) -> None:
    found = list(runs(sorted(chosen)))
    assert numbers(found) == sorted(chosen)
    assert all(before[1] < after[0] for before, after in pairwise(found))


@settings(deadline=None)
@given(st.integers(0, 1 << 40), st.integers(0, 500), st.integers(1, 64))
def test_pieces_join_to_the_whole_and_each_stays_in_one_block(start: int, length: int, block_size: int) -> None:
    at = start
    for piece, size in pieces(start, length, block_size):
        assert piece == at
        assert size > 0
        assert piece // block_size == (piece + size - 1) // block_size
        at += size
    assert at == start + length
    blocks = {byte // block_size for byte in range(start, start + length)}
    assert len(list(pieces(start, length, block_size))) == len(blocks)


def test_an_extent_ends_where_the_next_begins() -> None:
    assert Extent(4096, 8192).end == 12288
