"""Where blocking and computing calls of one side run, so that its loop does not wait for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
THREADS = 4
"""Two windows that are read and hashed, a write, and a sync.  More gain nothing on the machines that were measured."""


class Pool:
    """An Offload (engine/ports.py) with threads of its own.

    A call that is cancelled goes on in its thread: `idle` waits for such, and only then may files be closed.
    """

    def __init__(self, name: str, threads: int = THREADS) -> None:
        self._executor = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._running: set[concurrent.futures.Future[Any]] = set()

    async def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        future = self._executor.submit(functools.partial(function, *arguments))
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(future)

    async def idle(self) -> None:
        """Return when nothing that was given so far runs any more."""
        await asyncio.to_thread(concurrent.futures.wait, list(self._running))

    def close(self) -> None:
        """Wait for what runs, drop what never began.  Repeatable."""
        self._executor.shutdown(wait=True, cancel_futures=True)
