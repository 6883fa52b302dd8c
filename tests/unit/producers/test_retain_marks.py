"""How many bytes lie where on a topic, remembered from sending them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from producers.retain import Mark, Marks


def marks(*found: tuple[int, int, float]) -> Marks:
    made = Marks()
    for one in found:
        made.add(*one)
    return made


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 3), st.booleans()), max_size=60))
def test_no_byte_is_lost_from_the_count_however_close_or_backwards_in_time_they_were_sent(
    steps: list[tuple[int, float, bool]],
) -> None:
    made, at, total = Marks(), 100.0, 0
    for offset, (size, step, back) in enumerate(steps, 1):
        at += -step * 1000 if back else step
        made.add(offset, size, at)
        total += size
    assert made.sent == made.between(0, 1 << 62) == total


def test_an_offset_that_was_seen_is_not_counted_again() -> None:
    assert marks((5, 100, 0), (5, 100, 9), (4, 100, 18)).marks == marks((5, 100, 0)).marks


def test_marks_of_one_second_are_one_mark_and_later_ones_are_not() -> None:
    made = marks(*((offset, 10, offset / 10) for offset in range(1, 101)))
    assert 10 <= len(made.marks) <= 21
    assert made.marks[-1] == Mark(100, 1000, 10.0)


def test_a_clock_that_was_set_back_does_not_melt_what_follows_into_one_mark() -> None:
    made = marks((1, 10, 5000), (2, 10, 5010), *((offset, 10, offset * 10.0) for offset in range(3, 10)))
    assert len(made.marks) == 9


def test_marks_are_bounded_and_what_they_count_stays_right() -> None:
    made = marks(*((offset, 10, offset * 2.0) for offset in range(1, 10_001)))
    assert len(made.marks) <= 4096
    assert made.sent == 100_000
    assert made.between(1, 1 << 62) == 100_000 - 10
    assert abs(made.between(5000, 1 << 62) - 50_000) < 200


def test_between_counts_what_was_sent_behind_the_lower_and_up_to_the_upper_offset() -> None:
    made = marks((10, 100, 0), (20, 200, 10), (30, 400, 20))
    assert [made.between(*one) for one in ((0, 30), (10, 30), (20, 99), (10, 20), (30, 10))] == [700, 600, 400, 200, 0]


def test_trimming_forgets_marks_and_not_the_sum() -> None:
    made = marks((10, 100, 0), (20, 200, 10), (30, 400, 20))
    made.trimmed(29)
    assert [one.offset for one in made.marks] == [20, 30]
    assert made.between(20, 30) == 400
    made.trimmed(1000)
    assert made.sent == 700


def test_older_than_gives_what_lies_behind_the_last_that_is_old() -> None:
    made = marks((10, 100, 0), (20, 200, 10), (30, 400, 20))
    assert [made.older_than(at) for at in (-1, 0, 9.9, 10, 99)] == [0, 10, 10, 20, 30]


def test_within_never_leaves_more_than_the_cap_and_lets_nothing_go_below_it() -> None:
    made = marks((10, 100, 0), (20, 200, 10), (30, 400, 20))
    assert [made.within(cap) for cap in (0, 399, 400, 599, 600, 699, 700, 9999)] == [30, 30, 20, 20, 10, 10, 0, 0]
