"""What ended is freed, also where it holds on to itself."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from engine import errors, litter
from engine.daemon import daemon
from engine.daemon.job import Job
from tests.support.ferry import until


class Held:
    """Something that holds on to itself, as connections of a library do."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _by_us_alone() -> Iterator[None]:
    litter.dropped()
    litter.collect()
    gc.disable()
    yield
    gc.enable()


def test_only_when_something_ended_everything_is_looked_at() -> None:
    left = weakref.ref(Held())
    litter.collect()
    assert left() is not None
    litter.dropped()
    litter.collect()
    assert left() is None


def test_once_in_a_while_everything_is_looked_at_though_nothing_was_seen_to_end() -> None:
    left = weakref.ref(Held())
    for _ in range(litter._SELDOM - 1):
        litter.collect()
        assert left() is not None
    litter.collect()
    assert left() is None


async def test_what_the_work_of_a_stream_left_behind_is_found() -> None:
    left: list[weakref.ref[Held]] = []

    async def work(_job: Job) -> None:
        left.append(weakref.ref(Held()))
        raise errors.Transient("away")

    job = Job("web", "uuid", work)
    job.start()
    await asyncio.to_thread(until, lambda: left)
    await job.stop(60)
    assert left[0]() is not None
    litter.collect()
    assert [one() for one in left] == [None] * len(left)


async def test_a_daemon_looks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "_TIDY", 0.01)
    left = weakref.ref(Held())
    litter.dropped()
    tidying = asyncio.create_task(daemon.Daemon._tidy())
    await asyncio.to_thread(until, lambda: left() is None)
    tidying.cancel()
    await asyncio.wait([tidying])
    assert tidying.cancelled()
