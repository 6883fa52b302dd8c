"""One stream's work in a daemon: begun again after any trouble, for ever, and nobody else's trouble."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from engine import errors, litter

log = logging.getLogger("vmferry.daemon")
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before each try in a row, the last for ever."""
_WELL = 120.0
"""Seconds of work after which trouble is new trouble."""
_FENCED = 3600.0
STATES = ("opening", "waiting", "running", "paused", "held", "trouble")


class Job:
    """`work(job)` does the work until `stopping` is set, and tells its state by `note`.  What it raises is told, too.

    All of it on one loop: what blocks or computes belongs into the stream's own threads.
    """

    def __init__(self, label: str, stream: str, work: Callable[[Job], Awaitable[None]]) -> None:
        self.label, self.stream = label, stream
        self.state, self.why = "opening", ""
        self.restarts = 0
        self.since = time.time()
        self.stopping = asyncio.Event()
        self.woken = asyncio.Event()
        "Set by `wake`: something was asked of the stream.  Whoever naps on it clears it."
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._told = ""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"stream {self.label}")

    def note(self, state: str, why: str = "") -> None:
        """What the stream is at, for its operator."""
        if (state, why) != (self.state, self.why):
            self.state, self.why, self.since = state, why, time.time()

    def wake(self) -> None:
        """Look now at what was asked, not at the end of a nap or a pause."""
        self.woken.set()

    async def nap(self, seconds: float, beside: Awaitable[object] | None = None) -> None:
        """Wait so long, until woken or stopping, or until `beside` is done, which is cancelled otherwise.

        Raises what `beside` raised.
        """
        watched = [asyncio.ensure_future(event.wait()) for event in (self.woken, self.stopping)]
        other = asyncio.ensure_future(beside) if beside is not None else None
        try:
            await asyncio.wait(
                [*watched, *([other] if other else [])], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self.woken.clear()
            for one in watched:
                one.cancel()
            if other is not None and not other.done():
                other.cancel()
                await asyncio.wait([other])
        if other is not None and not other.cancelled():
            other.result()

    async def stop(self, patience: float) -> None:
        """Let the work come to an orderly end within `patience` seconds; then end it as a crash would.  Repeatable."""
        self.stopping.set()
        task = self._task
        if task is None:
            return
        await asyncio.wait([task], timeout=patience)
        if not task.done():
            log.warning(
                "it did not end within %.0f s and is cut off: the next start recovers", patience,
                extra={"stream": self.label},
            )  # fmt: skip
            self._cancelled = True
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        from engine.cli import logs  # not at the top: the command line imports the daemon, and so this

        loop, failures = asyncio.get_running_loop(), 0
        while not self.stopping.is_set():
            began = loop.time()
            try:
                self.note("opening")
                with logs.about(stream=self.label):
                    try:
                        await self._work(self)
                    finally:
                        litter.dropped()
                continue
            except asyncio.CancelledError:
                if self._cancelled:
                    raise
                # Nobody asked: a library let the cancellation of a task of its own out.
                told = "it was cancelled by something that it waited for"
            except errors.Fenced as why:
                # Two that fence each other in turn would never end: an operator says which of them goes on.
                self.note("trouble", f"{why}; `vmferry resume` lets this one go on")
                log.error("%s", self.why, extra={"stream": self.label})
                await self.nap(_FENCED)
                continue
            except errors.FerryError as why:
                told = str(why)
            except Exception as why:
                log.exception("a bug of ours", extra={"stream": self.label})
                told = f"unexpected {type(why).__name__}: {why}: please report it with the log"
            if loop.time() - began > _WELL:
                failures, self._told = 0, ""
            pause = PAUSES[min(failures, len(PAUSES) - 1)]
            failures += 1
            self._tell(told, pause)
            await self.nap(pause)

    def _tell(self, told: str, pause: float) -> None:
        """Aloud when it is new; the same trouble for the hundredth time is only counted."""
        again, self._told = self._told == told, told
        self.restarts += 1
        self.note("trouble", told)
        log.log(
            logging.DEBUG if again else logging.WARNING, "%s; trying again in %.0f s, and so on", told, pause,
            extra={"stream": self.label},
        )  # fmt: skip
