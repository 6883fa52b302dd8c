from __future__ import annotations

import itertools

import pytest

from tests.support.soak import plan
from tests.support.soak.meter import Sample, Stall, flat
from tests.support.soak.plan import Plan

LONG = [Plan(50, 1800.0, seed=seed) for seed in range(20)]


def test_a_seed_tells_the_whole_plan() -> None:
    assert Plan(5, 60.0, seed=3).faults() == Plan(5, 60.0, seed=3).faults()
    assert Plan(5, 60.0, seed=3).good() == Plan(5, 60.0, seed=3).good()
    assert Plan(5, 60.0, seed=3).faults() != Plan(5, 60.0, seed=4).faults()


@pytest.mark.parametrize("seed", range(20))
def test_a_minute_has_daemons_brokers_and_links_fail(seed: int) -> None:
    kinds = [one.kind for one in Plan(5, 60.0, seed=seed).faults()]
    assert {plan.SOURCE, plan.TARGET} <= set(kinds)
    assert len({*kinds} - {plan.SOURCE, plan.TARGET}) >= 4


@pytest.mark.parametrize("planned", LONG, ids=lambda one: str(one.seed))
def test_all_faults_end_in_time_and_one_broker_at_a_time_fails(planned: Plan) -> None:
    found = planned.faults()
    assert {one.kind for one in found} == set(plan.KINDS)
    assert all(one.lasts >= 0 and one.end <= planned.seconds for one in found)
    brokers = [one for one in found if one.kind in (plan.BROKER, plan.HANGS)]
    assert all(before.end < after.at for before, after in itertools.pairwise(brokers))


@pytest.mark.parametrize("planned", LONG, ids=lambda one: str(one.seed))
def test_daemons_are_killed_often_and_yet_live_one_long_life(planned: Plan) -> None:
    for kind in (plan.SOURCE, plan.TARGET):
        times = [0.0, *(one.at for one in planned.faults() if one.kind == kind), planned.seconds]
        assert len(times) > 10
        assert max(after - before for before, after in itertools.pairwise(times)) > planned.seconds / 2


def test_a_fifth_of_the_streams_is_busy_and_one_is_restless() -> None:
    manners = [one.manner for one in LONG[0].good()]
    assert (manners.count(plan.RESTLESS), manners.count(plan.BUSY), manners.count(plan.CALM)) == (1, 10, 20)


def _samples(*resident: int, every: float = 10.0) -> list[Sample]:
    return [Sample(at * every, mebi << 20, 0.0) for at, mebi in enumerate(resident)]


def test_memory_that_rises_all_the_time_is_not_flat() -> None:
    assert flat(_samples(*range(80, 120)))[2] is False
    assert flat(_samples(*range(80, 120), every=1.0))[2] is True, "it is young"
    assert flat(_samples(*range(80, 240, 4), every=1.0))[2] is False
    assert flat(_samples(*[60] * 20, *[90, 91, 89, 90] * 20)) == (89 << 20, 89 << 20, True)
    with pytest.raises(ValueError, match="too few"):
        flat(_samples(1, 2, 3))


def test_what_comes_and_goes_with_faults_is_flat_and_what_leaks_below_it_is_not() -> None:
    bursts = [98, 250, 240] * 10 + [98, 180, 150] * 30 + [98, 250, 250] * 10
    assert flat(_samples(*bursts))[2] is True
    leaking = [one + at // 2 for at, one in enumerate(bursts)]
    assert flat(_samples(*leaking))[2] is False


def test_a_stall_is_the_longest_time_without_anything_new() -> None:
    stall = Stall()
    for at, proved in ((1.0, 3), (2.0, 4), (7.5, 4), (8.0, 5), (9.0, 5)):
        stall.look({"web": {"proved_epoch": proved}}, at)
    assert (stall.longest, stall.ended) == (5.5, 7.5)
