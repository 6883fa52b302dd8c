"""How old a replica is said to be: never younger than it is, by durations alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.daemon.age import Age, Difference

WORDS = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0, 50, width=16), st.floats(0, 20, width=16), st.floats(0, 5, width=16))
)


def test_nobody_said_anything_of_an_epoch_that_is_not_reached() -> None:
    age = Age()
    assert age.of(7, 100.0) is None
    age.heard(8, 0.0, 100.0)
    assert age.of(7, 101.0) is None
    assert age.of(8, 101.0) == 1.0


def test_it_is_as_old_as_the_word_was_and_then_as_long_as_nothing_new_comes() -> None:
    age = Age()
    age.heard(5, 3.0, 100.0)
    assert [age.of(5, now) for now in (100.0, 101.0, 160.0)] == [3.0, 4.0, 63.0]


def test_a_replica_that_stays_behind_grows_older_however_fresh_the_source_says_it_is() -> None:
    age = Age()
    age.heard(1, 0.0, 0.0)
    for now in range(1, 3000):
        age.heard(1 + now, 0.0, float(now))
        assert age.of(1, float(now)) == now
    assert age.of(3000, 3000.0) == 1.0


def test_a_source_that_did_not_change_keeps_its_replica_young() -> None:
    age = Age()
    for now in (0.0, 30.0, 60.0):
        age.heard(4, 1.0, now)
    assert age.of(4, 61.0) == 2.0


def test_an_older_word_of_the_same_epoch_takes_nothing_back() -> None:
    age = Age()
    age.heard(4, 1.0, 100.0)
    age.heard(4, 50.0, 101.0)
    assert age.of(4, 101.0) == 2.0


@given(WORDS, st.integers(0, 30))
def test_it_never_says_younger_than_the_best_word_that_holds_for_the_replica(
    words: list[tuple[int, float, float, float]], at: int
) -> None:
    age, now, epoch, instants = Age(), 0.0, 0, list[float]()
    for step, old, pause, _ in words:
        now, epoch = now + pause, epoch + step
        age.heard(epoch, old, now)
        if epoch <= at:
            instants.append(now - old)
    found = age.of(at, now)
    if not instants:
        assert found is None
    else:
        assert found == pytest.approx(max(0.0, now - max(instants)))
        assert age.of(at, now + 10) == pytest.approx(max(0.0, now + 10 - max(instants)))


@given(WORDS)
def test_words_that_travelled_make_it_older_and_never_younger(words: list[tuple[int, float, float, float]]) -> None:
    told, true, now, epoch = Age(), Age(), 0.0, 0
    for step, old, pause, travelled in words:
        now, epoch = now + pause, epoch + step
        true.heard(epoch, old, now)
        told.heard(epoch, old, now + travelled)
    late = max((one[3] for one in words), default=0.0)
    held, really = told.of(epoch, now + late), true.of(epoch, now + late)
    assert (held is None) == (really is None)
    if held is not None and really is not None:
        assert really - late <= held + 1e-6


def test_a_replica_that_reports_an_older_epoch_after_a_newer_one_is_not_told_younger() -> None:
    age = Age()
    age.heard(1, 0.0, 0.0)
    age.heard(2, 0.0, 50.0)
    assert age.of(1, 60.0) == 60.0
    assert age.of(2, 60.0) == 10.0


def test_a_difference_is_the_least_of_the_last_words() -> None:
    difference = Difference()
    assert difference.seconds is None
    for travelled in (0.5, 0.1, 3.0):
        difference.heard(1000.0, 1000.0 + 60 + travelled)
    assert difference.seconds == pytest.approx(60.1)
    for _ in range(8):
        difference.heard(1000.0, 1000.2)
    assert difference.seconds == pytest.approx(0.2)


def test_a_clock_behind_has_a_difference_below_zero_to_which_travel_adds() -> None:
    difference = Difference()
    for travelled in (0.5, 0.0, 3.0):
        difference.heard(1000.0, 900.0 + travelled)
    assert difference.seconds == -100.0


@pytest.mark.parametrize(("jump", "words"), [(3600.0, 3), (-3600.0, 1)])
def test_a_clock_that_is_set_is_seen_after_a_few_words(jump: float, words: int) -> None:
    difference = Difference()
    for _ in range(10):
        difference.heard(1000.0, 1000.2)
    for _ in range(words):
        difference.heard(1000.0, 1000.2 + jump)
    assert difference.seconds == pytest.approx(jump + 0.2)
