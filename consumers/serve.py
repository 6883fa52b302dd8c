"""One replica in a daemon: opened, recovered, applied to, and asking for what it lacks."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

from consumers import held, site
from engine import errors, places, registry
from engine.daemon import presence, wishes
from engine.daemon.age import Age, Difference
from engine.daemon.job import Job
from engine.store import peek
from engine.store.replicas import KeptEpoch
from schemas import control
from schemas import errors as schema_errors

log = logging.getLogger("vmferry.target")
_IDLE = 30.0
"""Seconds that one wait for records lasts."""
_ASK = (5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds after which a replica that lacks something, and has read nothing since it was opened, asks once more: a
source that sends to it knows of it."""


@dataclass(slots=True)
class Replica:
    """A replica of this site: its records, its job, and what is known of its source."""

    where: places.Places
    stream: registry.Stream
    record: registry.Replica
    options: site.Options
    rule: str = ""
    present: control.Present | None = None
    heard: float = 0.0
    "When its source was last heard of, in loop time; 0: never."
    age: Age = field(default_factory=Age)
    clocks: Difference = field(default_factory=Difference)
    opened: site.Site | None = None
    job: Job = field(init=False)
    asked: wishes.Wishes = field(default_factory=wishes.Wishes)
    more: tuple[registry.Disk, ...] = ()
    "Disks that its source has by now, and that are to be added to the record before it is opened again."
    refused: str = ""
    "Why disks that its source has by now cannot be added."
    came: bool = False
    "Its source was heard, the first time or after a silence: what is lacking is asked for at once."

    def __post_init__(self) -> None:
        self.job = Job(self.stream.label, self.stream.stream, self._work)

    @property
    def directory(self) -> Any:
        return self.where.replica(self.record.stream, self.record.replica)

    def hear(self, said: control.Present, late: float | None) -> None:
        """What its source says of itself; `late` as in engine/daemon/presence.py."""
        now = asyncio.get_running_loop().time()
        self.present = said
        if late is None:
            return
        if not self.heard or now - self.heard > 2 * presence.EVERY:
            self.came = True
            self.job.wake()
        self.heard = now
        if said.epoch:
            self.age.heard(said.epoch, said.age / 1000 + late, now)
        if not late:
            self.clocks.heard(said.sent / 1e9, time.time())

    async def _work(self, job: Job) -> None:
        self.asked = wishes.load(self.directory)
        known = registry.Registry(self.where)
        self.record = next(one for one in known.replicas(self.stream.stream) if one.replica == self.record.replica)
        self._add(known)
        if self.asked.paused:
            job.note("paused", "by an operator: `vmferry resume` lets it go on")
            await job.nap(_IDLE)
            return
        if self.record.held:
            job.note("held", f"{self.record.held}: {held.way(self.record.held, self.stream.label)} ends it")
            await job.nap(_IDLE)
            return
        async with site.open_replica(self.where, self.stream, self.record, self.options) as opened:
            job.note("opening", "recovering")
            await opened.recover()
            if opened.recovered:
                opened.notes.append(_taken_back(opened))
                log.warning("%s", opened.notes[-1])
            self.opened = opened
            try:
                await self._follow(job, opened)
            finally:
                self.opened, self.record = None, opened.record

    async def _follow(self, job: Job, opened: site.Site) -> None:
        loop, replay = asyncio.get_running_loop(), opened.replay
        asked, due, read = 0, loop.time(), False
        try:
            while not (job.stopping.is_set() or self.asked.paused or self.more):
                if await replay.step(0):
                    read = True
                    job.note("running")
                    await asyncio.sleep(0)  # a busy replica lets the others in
                    continue
                lacking = _lacks(opened)
                job.note("waiting" if lacking else "running", lacking)
                if self.came:
                    self.came, asked, due = False, 0, loop.time()
                if lacking and not read and loop.time() >= due:
                    await replay.ask(lacking)
                    due, asked = loop.time() + _ASK[min(asked, len(_ASK) - 1)], asked + 1
                wait = _IDLE if read or not lacking else max(0.01, min(_IDLE, due - loop.time()))
                await job.nap(wait, replay.reader.wait(wait))
        except schema_errors.SchemaError as why:
            raise errors.Damaged(f"the log of stream {self.record.stream} cannot be read: {why}") from why

    def _add(self, known: registry.Registry) -> None:
        """Note the disks that came, durably, before an image of one is made: what is there then is ours.  A crash
        before: its source's next word says it again."""
        more, self.more = self.more, ()
        if more:
            self.record = replace(self.record, disks=(*self.record.disks, *more))
            known.save(self.record)
            self.stream = replace(
                self.stream, disks=tuple(registry.Disk(one.name, "", "", one.block_size) for one in self.record.disks)
            )
            known.save(self.stream)
            log.info("it has %s now", ", ".join(f"{one.name} ({one.path})" for one in more))

    def stored(self) -> tuple[Any, list[KeptEpoch]]:
        """(state, kept epochs), from the open store or from the file; (None, []) when there is none to read."""
        if self.opened is not None:
            replay = self.opened.replay
            return replay.state, list(replay.store.kept())
        try:
            state, kept, _ = peek.replica(self.directory / "state.sqlite")
        except errors.FerryError:
            return None, []
        return state, list(kept)


def _taken_back(opened: site.Site) -> str:
    """What recovery found and did."""
    paths = list(opened.record.paths.values())
    return (
        f"{', '.join(paths)} {'was' if len(paths) == 1 else 'were'} in the middle of an epoch when it was last left:"
        f" {opened.recovered} pre-images were put back, so that it was epoch {opened.replay.state.position.epoch} again"
    )


def _lacks(opened: site.Site) -> str:
    """Why the replica wants a new start of its source; nothing when all is well."""
    position = opened.replay.state.position
    if not position.epoch:
        return "it holds nothing that its source has said"
    if opened.replay.replica.held:
        return str(opened.replay.replica.held)
    if position.missing or not position.complete:
        return "it is not whole yet"
    return ""
