"""One side of a stream in a thread of its own, with its own loop: the two share nothing but the bus."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from engine import errors


class Side:
    """Runs `main` to its end.  Then `error` says what ended it, if anything did."""

    def __init__(self, name: str, main: Callable[[], Awaitable[None]]) -> None:
        self.error: BaseException | None = None
        self.name = name
        self._main = main
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def another(self) -> Side:
        """The same once more: a side runs once."""
        return Side(self.name, self._main)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._whole())
        except asyncio.CancelledError as why:
            if not self._cancelled:
                # Nobody asked: a library let the cancellation of a task of its own out.
                self.error = errors.Transient(f"the {self.name} side was cancelled by something that it waited for")
                self.error.__cause__ = why
        except BaseException as why:  # handed to whoever looks at `error`
            self.error = why

    async def _whole(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        if self._cancelled:
            return
        await self._main()

    def cancel(self) -> None:
        """End it soon, by cancelling what it awaits.  Repeatable, from any thread."""
        self._cancelled = True
        if self._task is not None:
            self.call(self._task.cancel)

    def call(self, function: Callable[[], object]) -> None:
        """Have `function` called in its loop, unless that has ended.  From any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(function)

    def join(self, seconds: float | None = None) -> bool:
        """Whether it has ended, after waiting so long."""
        self._thread.join(seconds)
        return self.ended

    @property
    def ended(self) -> bool:
        return self._thread.ident is not None and not self._thread.is_alive()


async def until(event: threading.Event) -> None:
    """Wait for an event that another thread sets."""
    while not await asyncio.to_thread(event.wait, 0.2):
        continue
