"""`replicate` at work: both sides of one stream in this process, each in its thread, watched over until the end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from engine import errors, places
from engine.cli import wings
from engine.cli.setting import Pair
from engine.cli.side import Side, until
from schemas.receipts import Position

log = logging.getLogger("vmferry.replicate")
RETRY = (errors.Transient, errors.Full, errors.InUse)
"""What passes: with --follow it is tried again, with a site that is opened anew."""
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before the next try, the last for ever."""


@dataclass(frozen=True, slots=True)
class Choices:
    """How this run goes.  `every`: seconds between cuts, None for one cut."""

    every: float | None = None
    source: Any = None
    target: Any = None
    steady: bool = True


@dataclass(slots=True)
class Numbers:
    """What can be seen of a run at any moment, from any thread.  Bytes and seconds."""

    total: int = 0
    read: int = 0
    sent: int = 0
    applied: Position = field(default_factory=Position)
    phase: str = "opening"
    passes: int = 0


class Replication:
    """One run.  `outcomes` has each pass that came to its end; `notes` what its user must hear besides."""

    def __init__(self, where: places.Places, pair: Pair, choices: Choices) -> None:
        self.where, self.pair, self.choices = where, pair, choices
        self.outcomes: list[Any] = []
        self.notes: list[str] = []
        self.began = time.monotonic()
        self.waits = ""
        "Why a side is not running at the moment."
        self._going = True
        self._sites: dict[str, Any] = {}
        self._before = [0, 0]
        self._opened, self._ready = threading.Event(), threading.Event()
        self._sides: dict[str, Side] = {}

    # -- the two sides, each in its own thread and loop -------------------------------------------------------------

    async def _source(self) -> None:
        expect = frozenset({self.pair.replica.identity})
        async with wings.producers().open_source(self.where, self.pair.stream, expect, self.choices.source) as site:
            self._enter("source", site)
            self._opened.set()
            await until(self._ready)
            pace = asyncio.ensure_future(site.obey_rate())
            try:
                await self._pump(site)
            finally:
                pace.cancel()
                self._leave(site)

    async def _pump(self, site: Any) -> None:
        passes = wings.producers("passes").Passes(site.shipper, self.pair.replica.identity)
        await site.shipper.start()
        while self._going:
            began = time.monotonic()
            self.outcomes.append(await passes.run(self.choices.steady))
            self.waits = ""
            if self.choices.every is None:
                return
            await passes.idle(max(0.0, began + self.choices.every - time.monotonic()))

    async def _target(self) -> None:
        async with wings.consumers().open_replica(
            self.where, self.pair.stream, self.pair.replica, self.choices.target
        ) as site:
            self._enter("target", site)
            await site.recover()
            self._ready.set()
            await site.run(lambda: self._going)

    def _enter(self, side: str, site: Any) -> None:
        self._sites[side] = site
        for note in site.notes:
            if note not in self.notes:
                self.notes.append(note)

    def _leave(self, site: Any) -> None:
        del self._sites["source"]
        self._before = [self._before[0] + site.source.told.read, self._before[1] + site.shipper.sent]

    # -- the watch, in the main thread ------------------------------------------------------------------------------

    def run(self, watch: Any) -> None:
        """Run to the end: of the one pass, or with `every` until `stop`.  `watch()` is called many times a second.

        Raises what ended a side; with `every`, passing trouble does not.
        """
        self._sides = {"source": Side("source", self._source)}
        self._sides["source"].start()
        try:
            while True:
                watch()
                self._sides["source"].join(0.05)
                if self._opened.is_set() and "target" not in self._sides:
                    self._begin("target", self._target)
                if not self._tend():
                    return
        finally:
            self.stop()
            for side in self._sides.values():
                while not side.join(0.1):
                    watch()

    def _begin(self, name: str, main: Any) -> None:
        self._sides[name] = Side(name, main)
        self._sides[name].start()

    def _tend(self) -> bool:
        """Look after sides that ended.  False when the run is over."""
        for side in self._sides.values():
            if side.ended and side.error is not None:
                raise side.error
        return not self._sides["source"].ended

    def stop(self) -> None:
        """End soon, in a state that the next run goes on from."""
        self._going = False
        if "source" in self._sides:
            self._sides["source"].cancel()

    def numbers(self) -> Numbers:
        """Where it stands now."""
        read, sent = self._before
        source, target = self._sites.get("source"), self._sites.get("target")
        if source is not None:
            read, sent = read + source.source.told.read, sent + source.shipper.sent
        found = Numbers(read=read, sent=sent, passes=len(self.outcomes))
        if target is not None:
            found.applied = target.replay.state.position
        return found
