"""What takes a while and was asked of a daemon: begun at once, looked at at will, done without a caller."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from engine import errors

log = logging.getLogger("vmferry.daemon")
KEEP = 100
Told = Callable[[int], None]
Step = Callable[[Told], Awaitable[dict[str, Any]]]


@dataclass(slots=True)
class Chore:
    """`done` of `total` bytes; `said` is its answer, `error` and `message` why there is none."""

    number: int
    stream: str
    words: str
    total: int = 0
    done: int = 0
    ended: bool = False
    said: dict[str, Any] | None = None
    error: str = ""
    message: str = ""


class Chores:
    """One at a time for each stream."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._all: dict[int, Chore] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, stream: str, words: str, total: int, step: Step) -> Chore:
        """Raises InUse while another one is at the stream."""
        if (other := self.of(stream)) is not None:
            raise errors.InUse(f"{other.words} is under way for this stream: wait for its end")
        chore = Chore(next(self._numbers), stream, words, total)
        self._all[chore.number] = chore
        while len(self._all) > KEEP and (oldest := next(iter(self._all.values()))).ended:
            del self._all[oldest.number]
        task = asyncio.create_task(self._do(chore, step), name=words)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return chore

    def of(self, stream: str) -> Chore | None:
        """What is under way for a stream."""
        return next((one for one in self._all.values() if one.stream == stream and not one.ended), None)

    def __getitem__(self, number: object) -> Chore:
        if not isinstance(number, int) or number not in self._all:
            raise errors.NotFound(f"there is no chore {number!r} (any more): `vmferry status` tells how things are")
        return self._all[number]

    async def _do(self, chore: Chore, step: Step) -> None:
        def told(amount: int) -> None:
            chore.done += amount

        try:
            chore.said = await step(told)
        except errors.FerryError as why:
            chore.error, chore.message = type(why).__name__, str(why)
            log.warning("%s: %s", chore.words, why)
        except asyncio.CancelledError:
            chore.error, chore.message = "Transient", "the daemon ended before it was done"
            raise
        except Exception as why:
            log.exception("%s: a bug of ours", chore.words)
            chore.error, chore.message = "FerryError", f"unexpected {type(why).__name__}: {why}"
        finally:
            chore.ended = True

    async def close(self) -> None:
        """Give up what is under way: each of them may be stopped anywhere and asked for again."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
