"""The loop of an opened replica: it rests until there is more, and ends the moment that it is told to look."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from consumers import site
from consumers.replay import Replay
from engine import registry


class Reader:
    """Nothing comes, and nobody's time is ever over: only a wake ends a rest."""

    def __init__(self) -> None:
        self.resting = asyncio.Event()
        self.left = 0

    async def wait(self, seconds: float) -> None:
        self.resting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left += 1


class Steps:
    """A Replay that has nothing to do."""

    def __init__(self) -> None:
        self.reader = Reader()
        self.steps = 0

    async def step(self, wait: float) -> int:
        assert wait == 0
        self.steps += 1
        return 0


def made(steps: Steps) -> site.Site:
    return site.Site(cast(registry.Replica, None), cast(Replay, steps), cast(Any, None), [])


async def test_a_wake_ends_a_rest() -> None:
    steps, going = Steps(), True
    opened = made(steps)
    running = asyncio.ensure_future(opened.run(lambda: going))
    await steps.reader.resting.wait()
    going = False
    opened.wake()
    await running
    assert (steps.steps, steps.reader.left) == (1, 1)


async def test_a_wake_that_comes_before_the_rest_is_not_lost() -> None:
    steps, asked = Steps(), 0

    def going() -> bool:
        nonlocal asked
        asked += 1
        opened.wake()  # as if the end came between the question and the rest
        return asked < 3

    opened = made(steps)
    await opened.run(going)
    assert (asked, steps.steps) == (3, 2)
