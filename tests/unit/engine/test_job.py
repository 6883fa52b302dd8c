"""One stream's work in a daemon: begun again after any trouble, and ended when asked."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

import pytest

from engine import errors
from engine.daemon import job
from engine.daemon.job import Job
from tests.support.sim.loop import virtual

Step = Callable[[Job], Awaitable[None]]


def clock() -> float:
    return asyncio.get_running_loop().time()


def failing(times: list[float], why: Callable[[int], BaseException], lasts: float = 0.0) -> Step:
    async def work(_job: Job) -> None:
        times.append(clock())
        await asyncio.sleep(lasts)
        raise why(len(times))

    return work


async def ran(work: Step, seconds: float) -> Job:
    made = Job("web", "uuid", work)
    made.start()
    await asyncio.sleep(seconds)
    await made.stop(1)
    return made


def pauses(times: list[float]) -> list[float]:
    return [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)]


@virtual
async def test_pauses_grow_and_are_capped() -> None:
    times: list[float] = []
    made = await ran(failing(times, lambda _: errors.Transient("away")), 170)
    assert pauses(times) == [1, 2, 5, 10, 30, 30, 30, 30, 30]
    assert made.restarts == len(times)


@virtual
async def test_after_long_work_that_was_well_pauses_begin_anew() -> None:
    times: list[float] = []
    await ran(failing(times, lambda _: errors.Transient("away"), 121.0), 1000)
    assert set(pauses(times)) == {122.0}


@virtual
async def test_the_same_trouble_is_told_aloud_once_and_other_trouble_again() -> None:
    times, told = list[float](), list[str]()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    job.log.addHandler(handler)
    try:
        await ran(failing(times, lambda at: errors.Transient("away" if at < 6 else "full")), 200)
    finally:
        job.log.removeHandler(handler)
    assert len(times) > 8
    told = [one for one in told if "trying again" in one]
    assert [("away" in one, "full" in one) for one in told] == [(True, False), (False, True)]


@pytest.mark.parametrize("why", [asyncio.CancelledError(), ZeroDivisionError("odd"), errors.Divergence("not equal")])
@virtual
async def test_whatever_it_raises_is_trouble_and_not_the_end(why: BaseException) -> None:
    states: list[str] = []

    async def work(made: Job) -> None:
        states.append(made.state)
        if len(states) == 1:
            raise why
        made.note("running")
        await made.stopping.wait()

    made = Job("web", "uuid", work)
    made.start()
    await asyncio.sleep(0.5)
    words = {asyncio.CancelledError: "cancelled by something", ZeroDivisionError: "report it"}.get(type(why), "not eq")
    assert (made.state, words in made.why) == ("trouble", True)
    await asyncio.sleep(1)
    assert (made.state, made.why, states) == ("running", "", ["opening", "opening"])
    await made.stop(5)


@virtual
async def test_a_stop_lets_the_work_end_and_waits_no_longer_than_that() -> None:
    ended: list[float] = []

    async def work(made: Job) -> None:
        await made.stopping.wait()
        await asyncio.sleep(3)
        ended.append(clock())

    made = Job("web", "uuid", work)
    made.start()
    await asyncio.sleep(1)
    await made.stop(10)
    assert (ended, clock()) == ([4.0], 4.0)
    await made.stop(10)
    assert clock() == 4.0


@virtual
async def test_work_that_does_not_end_is_cut_off_once_patience_is_over() -> None:
    began: list[float] = []

    async def work(_made: Job) -> None:
        began.append(clock())
        await asyncio.sleep(1e6)

    made = Job("web", "uuid", work)
    made.start()
    await asyncio.sleep(1)
    await made.stop(10)
    await asyncio.sleep(100)
    assert began == [0.0]
    assert [task for task in asyncio.all_tasks() if task.get_name() == "stream web"] == []


@virtual
async def test_a_stop_ends_a_pause_and_one_that_never_began_is_stopped_at_once() -> None:
    times: list[float] = []
    made = Job("web", "uuid", failing(times, lambda _: errors.Transient("away")))
    await made.stop(10)
    made = Job("web", "uuid", failing(times, lambda _: errors.Transient("away")))
    made.start()
    await asyncio.sleep(10)
    await made.stop(100)
    assert (clock(), times) == (10.0, [0, 1, 3, 8])


@virtual
async def test_a_wake_ends_a_pause_and_a_nap_and_one_before_it_counts_once() -> None:
    times: list[float] = []
    made = Job("web", "uuid", failing(times, lambda _: errors.Transient("away")))
    made.start()
    await asyncio.sleep(0.25)
    made.wake()
    await asyncio.sleep(0.1)
    assert times == [0, 0.25]
    await made.stop(0)
    other = Job("db", "uuid", failing([], lambda _: errors.Transient("")))
    other.wake()
    before = clock()
    await other.nap(5)
    assert clock() == before
    await other.nap(5)
    assert clock() == before + 5


@virtual
async def test_a_nap_ends_with_what_stands_beside_it_raises_its_trouble_and_leaves_nothing_running() -> None:
    made = Job("web", "uuid", failing([], lambda _: errors.Transient("")))
    await made.nap(50, asyncio.sleep(2))
    assert clock() == 2

    async def fails() -> None:
        raise errors.Transient("away")

    with pytest.raises(errors.Transient, match="away"):
        await made.nap(50, fails())
    await made.nap(3, asyncio.sleep(1000))
    await asyncio.sleep(0)
    assert clock() == 5
    assert len(asyncio.all_tasks()) == 1
