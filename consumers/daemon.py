"""`vmferry target run`: the replicas of one site, of every stream that a rule of its config takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

from consumers import accept, held, site
from consumers.serve import Replica
from consumers.tend import Tend
from consumers.unclaimed import Unclaimed
from engine import errors, leftover, places, registry
from engine.cli import kept as words
from engine.daemon import wishes
from engine.daemon.config import Accept, Config
from engine.daemon.daemon import Answer, Daemon, Request, lease_of, text
from engine.daemon.job import Job
from engine.daemon.presence import Listener
from schemas import control

log = logging.getLogger("vmferry.daemon")


class TargetDaemon(Daemon):
    """As Daemon, for the streams that its rules take; `unclaimed` are the others."""

    side = "target"

    def __init__(self, found: Config, where: places.Places) -> None:
        super().__init__(found, where)
        self.served: dict[str, Replica] = {}
        self.unclaimed = Unclaimed(time.monotonic)
        self.listener = Listener(self.bus, found.common.prefix, self._heard)
        self.doing |= Tend(self, self.chores).requests() | {"take": self._take_again}

    async def begin(self) -> None:
        streams = {one.stream: one for one in self.known.streams()}
        for record in self.known.replicas():
            if (record.bus, record.prefix) == (self.common.bus, self.common.prefix) and record.stream in streams:
                self._serve(streams[record.stream], record)
        for name, why in self.newer.items():
            log.error("%s", why, extra={"stream": name})

    def _serve(self, stream: registry.Stream, record: registry.Replica, sizes: tuple[int, ...] = ()) -> Replica:
        rule = self._rule(stream)
        options = site.Options(
            sizes, rule.secret_file if rule else "", rule.undo_quota if rule else 0, reach=lease_of(self.bus)
        )
        one = Replica(self.where, stream, record, options, rule.where if rule else "")
        self.served[stream.stream] = one
        one.job.start()
        return one

    def _rule(self, stream: registry.Stream) -> Accept | None:
        """The rule that has it, as the config is now."""
        return next((one for one in self.config.accept if accept.matches(one, stream.site, stream.label)), None)

    # -- what other sites say -----------------------------------------------------------------------------------------

    def _heard(self, stream: bytes, said: control.Present, late: float | None) -> None:
        name = str(uuid.UUID(bytes=stream))
        one = self.served.get(name)
        if one is not None:
            one.hear(said, late)
            self._renamed(one, said)
            self._grown(one, said)
        elif said.gone:
            self.unclaimed.drop(name)
        else:
            self._consider(name, said)

    def _renamed(self, one: Replica, said: control.Present) -> None:
        """The label and the site are for people: they follow the source."""
        if (one.stream.label, one.stream.site) != (said.label, said.site):
            log.info("stream %s is called %s/%s now", one.stream.stream, said.site, said.label)
            one.stream = replace(one.stream, label=said.label, site=said.site)
            one.job.label = said.label
            self.known.save(one.stream)

    def _grown(self, one: Replica, said: control.Present) -> None:
        """Make room for disks that its source has by now: its job adds them, and goes on."""
        have = len(one.record.disks)
        if len(said.volumes) <= have or one.more:
            one.refused = "" if len(said.volumes) <= have else one.refused
            return
        rule, name = self._rule(one.stream), one.stream.stream
        fresh = ", ".join(volume.name for volume in said.volumes[have:])
        if rule is None:
            one.refused = f"its source has {fresh} by now, and no [[accept]] says where that is to lie"
            return
        places = [accept.path(rule, said, name, number) for number in range(have, len(said.volumes))]
        why = accept.refuse(rule, said, self._taken(rule), places, self.known, have)
        try:
            for where in () if why else places:
                accept.make_room(rule, where)
        except errors.FerryError as trouble:
            why = str(trouble)
        one.refused = f"its source has {fresh} by now, which is not taken: {why}" if why else ""
        if not why:
            one.options = replace(one.options, sizes=tuple(volume.size for volume in said.volumes))
            one.more = _disks(rule, said, places, have)
            one.job.wake()

    def _taken(self, rule: Accept) -> int:
        return sum(self._size(one) for one in self.served.values() if one.rule == rule.where)

    def _consider(self, name: str, said: control.Present) -> None:
        """Take a stream that was never heard of, or say why not."""
        rule = accept.rule_for(self.config.accept, said)
        if rule is None:
            self.unclaimed.refuse(name, said, f"no [[accept]] of {self.common.file} takes {said.site}/{said.label}")
            return
        if not said.volumes:
            self.unclaimed.refuse(name, said, "its source has not been looked at yet")
            return
        places = [accept.path(rule, said, name, number) for number in range(len(said.volumes))]
        try:
            if name in self.newer:
                raise self.newer[name]
            if wishes.load(self.where.stream(name)).forgotten:
                way = f"it was forgotten here: `vmferry target take {said.label}` takes it again"
                self.unclaimed.refuse(name, said, way, forgotten=True)
                return
            if why := accept.refuse(rule, said, self._taken(rule), places, self.known):
                self.unclaimed.refuse(name, said, why)
                return
            for where in places:
                accept.make_room(rule, where)
            self._take(name, said, rule, places)
        except errors.FerryError as why:
            self.unclaimed.refuse(name, said, str(why))

    def _take(self, name: str, said: control.Present, rule: Accept, places: Sequence[str]) -> None:
        """Records first: from then on the replica is ours, whatever happens."""
        common = self.common
        disks = tuple(registry.Disk(one.name, "", "", one.block_size) for one in said.volumes)
        stream = registry.Stream(
            name, said.label, common.bus, disks, site=said.site, prefix=common.prefix, config=str(common.file)
        )
        record = registry.Replica(
            secrets.token_hex(16), name, common.bus, _disks(rule, said, places),
            unread=rule.adopt and any(map(os.path.lexists, places)), prefix=common.prefix, config=str(common.file),
        )  # fmt: skip
        self.known.save(stream)
        self.known.save(record)
        self.unclaimed.drop(name)
        log.info("stream %s/%s (%s) is taken: its replica is %s", said.site, said.label, name, ", ".join(places))
        self._serve(stream, record, tuple(one.size for one in said.volumes)).hear(said, None)

    def _size(self, one: Replica) -> int:
        state, _ = one.stored()
        held = state.position.volumes if state is not None else ()
        said = one.present.volumes[: len(one.record.disks) + len(one.more)] if one.present else ()
        return sum(volume.size for volume in (*held, *said[len(held) :]))

    # -- as Daemon ----------------------------------------------------------------------------------------------------

    async def changed(self, now: Config) -> None:
        self.config = now
        for one in self.served.values():  # a quota counts what its rule has, wherever it stands now
            rule = self._rule(one.stream)
            one.rule = rule.where if rule else ""
        for one in self.served.values():
            if one.present is not None:
                self._grown(one, one.present)
        for name, stream in self.unclaimed.all().items():
            self._consider(name, stream.said)
        for one in list(self.served.values()):
            rule = self._rule(one.stream)
            if rule is not None and rule.undo_quota != one.options.undo_quota:
                await self._again(one)

    async def _again(self, one: Replica) -> Replica:
        await one.job.stop(self.common.drain)
        fresh = self._serve(one.stream, self._record(one), one.options.sizes)
        fresh.present, fresh.heard, fresh.age, fresh.clocks = one.present, one.heard, one.age, one.clocks
        return fresh

    @contextlib.asynccontextmanager
    async def resting(self, one: Replica, words: str) -> AsyncIterator[None]:
        """Nothing is applied to it meanwhile; then it goes on as its records say."""
        await one.job.stop(self.common.drain)
        one.job.note("held", words)
        one.record = self._record(one)
        try:
            yield
        finally:
            if self.served.get(one.stream.stream) is one and not self.ending:
                await self._again(one)

    def _record(self, one: Replica) -> registry.Replica:
        return next(two for two in self.known.replicas(one.stream.stream) if two.replica == one.record.replica)

    def dropped(self, one: Replica) -> None:
        """It was forgotten: it is no replica of this site any more."""
        del self.served[one.stream.stream]
        if one.present is not None:
            self._consider(one.stream.stream, one.present)

    async def _take_again(self, asked: Request) -> Answer:
        """Let the rules take a stream that was forgotten."""
        name = text(asked, "stream")
        found = self.unclaimed.named(name)
        if len(found) != 1:
            raise errors.NotFound(f"{len(found)} streams {name!r} are there and not taken")
        ((stream, one),) = found.items()
        wishes.save(self.where.stream(stream), wishes.Wishes())
        self._consider(stream, one.said)
        after = self.unclaimed.all().get(stream)
        return {"stream": stream, "taken": stream in self.served, "why": after.why if after else ""}

    def away(self) -> str:
        return self.listener.away

    def jobs(self) -> Iterable[Job]:
        return [one.job for one in self.served.values()]

    def background(self) -> Iterable[Coroutine[Any, Any, None]]:
        return [self.listener.run()]

    def find(self, name: str) -> Replica:
        """A replica by its stream's label, UUID, SITE/LABEL, or its path.  Raises NotFound, Usage."""
        wanted = registry.place(name)
        found = [
            one
            for one in self.served.values()
            if name in (one.stream.label, f"{one.stream.site}/{one.stream.label}")
            or (len(name) > 3 and one.stream.stream.startswith(name))
            or any(disk.path == wanted for disk in one.record.disks)
        ]
        if not found:
            known = ", ".join(sorted(one.stream.label for one in self.served.values())) or "none"
            raise errors.NotFound(f"no stream {name!r} is served here; these are: {known}")
        if len(found) > 1:
            raise errors.Usage(f"{name!r} names {len(found)} streams: {', '.join(one.stream.stream for one in found)}")
        return found[0]

    async def pause(self, name: str, paused: bool) -> Answer:
        one = self.find(name)
        one.asked = replace(wishes.load(one.directory), paused=paused)
        wishes.save(one.directory, one.asked)
        one.job.wake()
        return {"stream": one.stream.stream, "label": one.stream.label, "paused": paused}

    def streams(self) -> list[Answer]:
        return [*(self._said(one) for one in self.served.values()), *self.unclaimed.told()]

    def _said(self, one: Replica) -> Answer:
        now, (state, kept) = asyncio.get_running_loop().time(), one.stored()
        usable = [epoch.position for epoch in kept if epoch.position.usable]
        position = state.position if state is not None else None
        if position is not None and position.usable and position not in usable:
            usable.append(position)
        best = usable[-1] if usable else None
        rpo, by = self._rpo(one, best, now)
        why = one.record.held or (state.held if state is not None else "")
        difference = one.clocks.seconds
        return {
            "stream": one.stream.stream, "label": one.stream.label, "site": one.stream.site,
            "path": one.record.disks[0].path, "disks": words.disks(one.record, position), "replica": one.record.replica,
            "state": one.job.state, "why": one.job.why, "since": one.job.since, "restarts": one.job.restarts,
            "held": why, "epoch": position.epoch if position else None, "usable_epoch": best.epoch if best else None,
            "proved_epoch": max((one.epoch for one in usable if one.roots), default=None),
            "source_epoch": one.present.epoch if one.present else None,
            "source_heard_seconds": round(now - one.heard, 1) if one.heard else None,
            "source_gone": bool(one.present and one.present.gone),
            "rpo_seconds": None if rpo is None else round(rpo, 3), "rpo_by": by,
            "clock_difference_seconds": None if difference is None else round(difference, 3),
            "undo_bytes": one.opened.replay.target.undo.used if one.opened else None,
            "undo_quota_bytes": one.options.undo_quota or None,
            "way": held.way(why, one.stream.label) if why else "",
            "notes": one.opened.notes if one.opened else [],
            "warning": one.refused or leftover.words(one.directory, one.record.paths, one.stream.label),
        }  # fmt: skip

    def _rpo(self, one: Replica, best: Any, now: float) -> tuple[float | None, str]:
        """Seconds since the source was what can be used here, and how that is known."""
        if best is None:
            return None, "no usable epoch yet"
        seconds = one.age.of(best.epoch, now)
        if seconds is not None:
            return seconds, "its source's own word"
        difference = one.clocks.seconds
        seconds = time.time() - (difference or 0.0) - best.instant / 1e9
        by = (
            "both sites' clocks: its source was not heard since we began"
            if difference is None
            else "its source's clock"
        )
        return max(0.0, seconds), by


def _disks(rule: Accept, said: control.Present, places: Sequence[str], number: int = 0) -> tuple[registry.Disk, ...]:
    """The records of the disks from that number on."""
    pairs = zip(said.volumes[number:], places, strict=True)
    return tuple(registry.Disk(one.name, where, rule.format, one.block_size) for one, where in pairs)
