"""`replicate` at work: both sides of one stream in this process, each in its thread, watched over until the end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine import errors, places, registry, tuning
from engine.cli import room, wings
from engine.cli.setting import Pair
from engine.cli.side import Side, until
from schemas.receipts import Position

log = logging.getLogger("vmferry.replicate")
PASSING = (errors.Transient, errors.Full, errors.InUse)
"""What passes: with --follow the side is opened anew, and recovers."""
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before each try in a row, the last for ever."""
UNSEEN = 3600.0
"""Seconds after which a source is read again that says it has not changed."""
_BEAT = 0.05


@dataclass(frozen=True, slots=True)
class Choices:
    """How this run goes.  `every`: seconds between cuts, None for one cut.  `steady`: a cut has to be consistent.

    `state_quota`: bytes that the state may take, 0 without bound.
    """

    source: Any
    target: Any
    every: float | None = None
    steady: bool = True
    state_quota: int = 0


@dataclass(frozen=True, slots=True)
class Numbers:
    """What can be seen of a run at any moment, from any thread.  Bytes."""

    total: int = 0
    "Data that the pass has to read."
    read: int = 0
    "Of it."
    read_ever: int = 0
    sent: int = 0
    sealed: int = 0
    "The last epoch on the bus."
    applied: Position = field(default_factory=Position)
    missing: int | None = None
    "Bytes of the volumes that a start now would have to send; None before that is known."
    phase: str = "opening"


class Replication:
    """One run.  `outcomes` has each pass that came to its end, `notes` what its user must hear besides."""

    def __init__(self, where: places.Places, pair: Pair, choices: Choices) -> None:
        self.where, self.pair, self.choices = where, pair, choices
        self.outcomes: list[Any] = []
        self.notes: list[str] = []
        self.numbers = Numbers()
        self._going = True
        self._phase = "opening"
        self._looked = -UNSEEN
        self._total = self._base = self._read = self._sent = 0
        self._source_site: Any = None
        self._target_site: Any = None
        self._opened, self._ready = threading.Event(), threading.Event()
        self._tended: list[_Tended] = []

    # -- the two sides, each in its own thread and loop -------------------------------------------------------------

    async def _source(self) -> None:
        expect = frozenset({self.pair.replica.identity})
        async with wings.producers().open_source(self.where, self.pair.stream, expect, self.choices.source) as site:
            self._note(site.notes)
            self._total, self._source_site = await site.source.data(), site
            site.shipper.bound(self._total)
            room.refuse_state(self.where, self.pair, self._total, self.choices.state_quota)
            if not (replica := self._replica()).begun and not replica.unread:
                # Of a first time it is known what travels; of later ones only that it is no more than changed.
                room.refuse(room.needs(self.where, self.pair, self._total, self._total, 0))
            self._opened.set()
            await until(self._ready)
            pace = asyncio.ensure_future(site.obey_rate())
            try:
                await self._passes(site)
            finally:
                pace.cancel()

    async def _passes(self, site: Any) -> None:
        passes = wings.producers("passes").Passes(site.shipper, self.pair.replica.identity)
        self._phase, self._looked = "comparing", -UNSEEN
        await site.shipper.start()
        while self._going:
            began, self._base = time.monotonic(), site.source.told.read
            if began - self._looked > UNSEEN or not passes.settled() or not await site.source.same():
                self._phase, self._looked = "shipping", began
                room.refuse_state(self.where, self.pair, 0, self.choices.state_quota)
                self.outcomes.append(await passes.run(self.choices.steady))
            self._phase = "following"
            if self.choices.every is None:
                return
            await passes.idle(max(0.0, began + self.choices.every - time.monotonic()))

    async def _target(self) -> None:
        opening = wings.consumers().open_replica(self.where, self.pair.stream, self._replica(), self.choices.target)
        async with opening as site:
            self._note(site.notes)
            self._target_site = site
            await site.recover()
            self._ready.set()
            await site.run(lambda: self._going)

    def _replica(self) -> registry.Replica:
        """As it was given; once this run has opened it, and perhaps made its image, as it is on record."""
        ours = self.pair.replica
        if not self._ready.is_set():
            return ours
        return next(one for one in registry.Registry(self.where).replicas(ours.stream) if one.replica == ours.replica)

    def _note(self, notes: list[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]

    # -- the watch, in the main thread ------------------------------------------------------------------------------

    def run(self, watch: Callable[[Numbers], bool]) -> bool:
        """Run to the end: of the one pass, or for ever.  `watch` is called many times a second; False ends it.

        Gives whether it came to its end by itself.  Raises what ended a side; with `every`, passing trouble does not.
        """
        tuning.bulk()
        source, target = _Tended(Side("source", self._source)), _Tended(Side("target", self._target))
        self._tended = [source, target]
        try:
            while watch(self._look()):
                source.tend(self._passing)
                if self._opened.is_set():
                    target.tend(self._passing)
                if source.done:
                    return True
                if self._opened.is_set():
                    source.wait(_BEAT)
                else:
                    self._opened.wait(_BEAT)  # the target begins the moment that the source is open
            return False
        finally:
            self._going = False
            source.side.cancel()
            if self._target_site is not None:
                target.side.call(self._target_site.wake)
            for one in self._tended:
                while one.begun and not one.wait(_BEAT):
                    watch(self._look())
            self._look()

    def _passing(self, side: str, error: BaseException, pause: float) -> bool:
        """Whether a fault of one side is waited out."""
        if self.choices.every is None or not isinstance(error, PASSING) or not (self.outcomes or self._ready.is_set()):
            return False
        log.warning("%s side: %s; trying again in %.0f s", side, error, pause)
        self._leave(side)
        return True

    def _leave(self, side: str) -> None:
        if side == "source" and self._source_site is not None:
            self._read += self._source_site.source.told.read
            self._sent += self._source_site.shipper.sent
            self._source_site = None

    def _look(self) -> Numbers:
        source, target = self._source_site, self._target_site
        told, shipper = (source.source.told.read, source.shipper) if source is not None else (0, None)
        self.numbers = Numbers(
            self._total,
            max(0, told - self._base),
            self._read + told,
            self._sent + (shipper.sent if shipper else 0),
            shipper.state.epoch if shipper else self.numbers.sealed,
            target.replay.state.position if target is not None else Position(),
            _missing(shipper) if shipper else self.numbers.missing,
            self._phase,
        )
        return self.numbers


def _missing(shipper: Any) -> int | None:
    maps = shipper.map.volumes
    if not maps:
        return None
    return sum(int(min(one.unsure.count * one.volume.block_size, one.volume.size)) for one in maps)


class _Tended:
    """A side, and when it is to be begun again."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.begun = self.done = False
        self._failures = 0
        self._again = 0.0

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after waiting so long; one that is to be begun again later has not."""
        if self.begun:
            return self.side.join(seconds)
        time.sleep(seconds)
        return False

    def tend(self, passing: Callable[[str, BaseException, float], bool]) -> None:
        """Begin it, see it end, begin it again.  Raises what ended it, when that does not pass."""
        if not self.begun:
            if time.monotonic() >= self._again:
                self.begun = True
                self._since = time.monotonic()
                self.side.start()
            return
        if not self.side.ended or self.done:
            return
        error = self.side.error
        if error is None:
            self.done = True
            return
        self._failures = 0 if time.monotonic() - self._since > 2 * PAUSES[-1] else self._failures
        pause = PAUSES[min(self._failures, len(PAUSES) - 1)]
        if not passing(self.side.name, error, pause):
            raise error
        self._failures += 1
        self._again, self.begun = time.monotonic() + pause, False
        self.side = self.side.another()
