"""`vmferry source run`: the disks of one site, each a stream, followed for as long as the daemon runs."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import uuid
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine import errors, places, registry, units
from engine.cli import kept
from engine.daemon import config, wishes
from engine.daemon.config import Common, Config, StreamConfig
from engine.daemon.daemon import Answer, Daemon, Request, lease_of, text
from engine.daemon.job import Job
from engine.daemon.presence import Announcer
from producers import leave, machines, post, roster, site
from producers.follow import Follow
from producers.pace import Peer
from producers.protecting import Protecting
from producers.retain import Retain, steady
from schemas import control, topics
from schemas.identity import Volume

log = logging.getLogger("vmferry.daemon")
_GONE = "not in the config any more: its volume stays as it was"


@dataclass(slots=True)
class Served:
    """A stream of this site: what the config says of it, its record once its disk was seen, and its job."""

    daemon: SourceDaemon
    config: StreamConfig
    record: registry.Stream | None
    job: Job = field(init=False)
    asked: wishes.Wishes = field(default_factory=wishes.Wishes)
    follow: Follow | None = None

    def __post_init__(self) -> None:
        self.job = Job(self.config.name, self.record.stream if self.record else "", self._work)

    async def _work(self, job: Job) -> None:
        first = self.record is None
        self.record = await self.daemon.record_of(self.config, self.record)
        if first:
            job.stream = self.record.stream
            self.daemon.announcer.news(self.record.identity)
        self.asked = wishes.load(self.daemon.where.source(self.record.stream))
        if self.asked.paused:
            if self.config.vm:
                await self.daemon.machines.let_go(self.record.stream)
            job.note("paused", "by an operator: `vmferry resume` lets it go on")
            await job.nap(3600)
            return
        asked = self.config
        options = site.Options(
            log_quota=asked.log_quota, force_share=asked.force_share, secret_file=asked.secret_file,
            given_up=frozenset(name for name, path in asked.disks if not path), ship=post.beside(asked.cap),
            machine=self.daemon.machines.captured(asked), reach=lease_of(self.daemon.bus),
        )  # fmt: skip
        async with site.open_source(self.daemon.where, self.record, frozenset(), options) as opened:
            self.record = opened.stream
            rate = self.asked.rate if self.asked.rate is not None else asked.rate
            opened.limiter.rate = rate or 0
            opened.shipper.bound(await opened.source.data())
            retain = Retain(opened.directory, asked.keep, asked.cap, self.daemon.clock)
            news = functools.partial(self.daemon.announcer.news, self.record.identity)
            self.follow = Follow(opened, asked.every, retain, self.daemon.at_once, job, news)
            news()
            try:
                await self.follow.run()
            finally:
                self.follow = None

    def present(self, common: Common) -> control.Present | None:
        """What other sites are told of it; None before its disk was seen."""
        if self.record is None:
            return None
        epoch, age, volumes = 0, 0.0, tuple[Volume, ...]()
        if self.follow is not None:
            shipper = self.follow.site.shipper
            volumes = self.follow.site.source.volumes() or shipper.state.volumes
            if shipper.current is not None:
                epoch, age = shipper.current[0], asyncio.get_running_loop().time() - shipper.current[1]
        return control.Present(common.site, self.config.name, volumes, epoch, round(age * 1000), time.time_ns())

    def said(self, common: Common) -> Answer:
        """What `status` says of it."""
        asked, job = self.config, self.job
        found: Answer = {
            "stream": self.record.stream if self.record else "", "label": asked.name, "site": common.site,
            "disk": asked.disk, "disks": self._disks(), "state": job.state, "why": job.why, "since": job.since,
            "restarts": job.restarts, "every": asked.every, "vm": asked.vm,
        }  # fmt: skip
        follow = self.follow
        if follow is None:
            return found
        shipper, now = follow.site.shipper, asyncio.get_running_loop().time()
        missing = sum(min(one.unsure.count * one.volume.block_size, one.volume.size) for one in shipper.map.volumes)
        return found | {
            "epoch": shipper.state.epoch, "sent_bytes": shipper.sent, "missing_bytes": missing,
            "rate": follow.site.limiter.rate, "log_bytes": follow.retain.size, "log_cap_bytes": asked.cap or None,
            "warning": follow.retain.warning, "notes": follow.site.notes, **machines.said(follow.site.source),
            "current_epoch": shipper.current[0] if shipper.current else None,
            "current_seconds": round(now - shipper.current[1], 3) if shipper.current else None,
            "replicas": [
                {
                    "replica": peer.replica.hex(), "epoch": peer.applied.epoch, "proved_epoch": peer.verified.epoch,
                    "answered": peer.answered, "lapsed": peer.lapsed,
                    "heard_seconds": round(now - peer.heard, 1) if peer.heard else None,
                    "rpo_seconds": None if (rpo := follow.rpo(peer.replica)) is None else round(rpo, 3),
                }
                for peer in (shipper.peers.get(one) or Peer(one) for one in shipper.state.peers)
            ],
        }  # fmt: skip

    def _disks(self) -> list[Answer]:
        """Each disk by its number; one that is not read any more has no path, and `gone` says what that means."""
        sizes = [one.size for one in self.follow.site.source.volumes()] if self.follow is not None else []
        if self.record is None:
            return [{"name": name, "path": path, "size": None, "gone": ""} for name, path in self.config.disks if path]
        return [
            {
                "name": one.name, "path": one.path, "size": (size := sizes[at] if at < len(sizes) else None),
                "gone": "" if one.path else "given up: it is empty" if size == 0 else _GONE,
            }
            for at, one in enumerate(self.record.disks)
        ]  # fmt: skip


class SourceDaemon(Daemon):
    """As Daemon.  `at_once` streams send much at one time: the baselines of the others wait for their turn."""

    side = "source"
    fanned = staticmethod(lambda prefix: frozenset({topics.receipts(prefix)}))

    def __init__(self, found: Config, where: places.Places) -> None:
        super().__init__(found, where)
        self.at_once = asyncio.Semaphore(found.common.at_once)
        self.announcer = Announcer(self.bus, found.common.prefix, self._presents)
        self.machines = machines.Machines(found.common)
        self.clock = steady()
        self.served: dict[str, Served] = {}
        self.gone: dict[bytes, control.Present] = {}
        "Streams that were forgotten here: said for as long as we run."
        self.doing |= {"rate": self._rate, "cut": self._cut, "forget": self._forget}
        self.doing |= Protecting(self).requests()

    def read(self, file: Path) -> Config:
        return config.load(file, self.side, config.protected(self.where.root))

    async def begin(self) -> None:
        self.config = await asyncio.to_thread(self.read, self.common.file)  # with what `protect` added
        for one in self.config.streams:
            self._serve(one)

    def _serve(self, one: StreamConfig) -> None:
        served = Served(self, one, self._known(one))
        self.served[one.name] = served
        served.job.start()

    def _known(self, one: StreamConfig) -> registry.Stream | None:
        """The record of a stream that was served before: its UUID is its own, or that of its first disk, or, under its
        name, that of any."""
        known = self.known.streams()
        if one.vm and not one.id:
            return None  # its UUID is libvirt's to say
        if one.id:
            found = next((record for record in known if record.stream == one.id), None)
        else:
            ours = set(map(registry.place, one.paths))
            found = self.known.of_source(one.disk) or next(
                (each for each in known if each.label == one.name and ours & {disk.path for disk in each.disks}), None
            )
        return replace(found, label=one.name) if found is not None else None

    async def record_of(self, one: StreamConfig, known: registry.Stream | None) -> registry.Stream:
        """The record of a stream, made once, with its disks as the config has them now.

        Raises NotFound, InUse, Usage for a disk that cannot be told, and Newer where a record that we cannot read may
        be its own.
        """
        one = await self.machines.resolved(one)
        known = known or (self._known(one) if one.vm else None)
        if known is not None:
            return replace(known, disks=await roster.disks(one, known.disks))
        for name, newer in self.newer.items():
            if one.id in ("", name):
                raise newer
        disks = await roster.disks(one, ())
        common = self.common
        identity = one.id or str(uuid.uuid4())
        if not one.id:
            log.info(
                'it is stream %s now; id = "%s" in its entry keeps it that if this state is lost', identity, identity
            )
        return registry.Stream(
            identity, one.name, common.bus, disks, site=common.site, prefix=common.prefix, config=str(common.file)
        )

    async def changed(self, now: Config) -> None:
        wanted = {one.name: one for one in now.streams}
        kept = set(now.troubled)  # what cannot be used as it stands now goes on as it stood
        leaving = [name for name, one in self.served.items() if wanted.get(name) != one.config and name not in kept]
        await asyncio.gather(*(self.served[name].job.stop(self.common.drain) for name in leaving))
        for name in leaving:
            del self.served[name]
        for name, one in wanted.items():
            if name not in self.served:
                self._serve(one)
            else:
                self.served[name].config = one  # the same, and perhaps on another line

    def jobs(self) -> Iterable[Job]:
        return [one.job for one in self.served.values()]

    def streams(self) -> list[Answer]:
        return [one.said(self.common) for one in self.served.values()]

    def background(self) -> Iterable[Coroutine[Any, Any, None]]:
        return [self.announcer.run()]

    async def ended(self) -> None:
        await self.machines.close()

    def _presents(self) -> Iterator[tuple[bytes, control.Present]]:
        for one in self.served.values():
            said = one.present(self.common)
            if said is not None and one.record is not None:
                yield one.record.identity, said
        yield from self.gone.items()

    def find(self, name: str) -> Served:
        """A stream by its name, UUID, or disk.  Raises NotFound, and InUse before its disk was seen."""
        found = [
            one
            for one in self.served.values()
            if name in (one.config.name, *one.config.paths, *([one.config.vm] if one.config.vm else []))
            or (one.record is not None and len(name) > 3 and one.record.stream.startswith(name))
        ]
        if len(found) != 1:
            known = ", ".join(self.served) or "none"
            raise errors.NotFound(f"{len(found)} streams {name!r} are served here; these are: {known}")
        return found[0]

    def _wish(self, one: Served, **now: Any) -> None:
        if one.record is None:
            raise errors.InUse(f"{one.config.name}: {one.job.why or 'its disk was not seen yet'}; try again")
        directory = self.where.source(one.record.stream)
        one.asked = replace(wishes.load(directory), **now)
        wishes.save(directory, one.asked)

    async def pause(self, name: str, paused: bool) -> Answer:
        one = self.find(name)
        self._wish(one, paused=paused)
        await self.again(one)
        return {"stream": one.record.stream if one.record else "", "label": one.config.name, "paused": paused}

    async def again(self, one: Served) -> None:
        """The job from its begin, with what is wished now."""
        await one.job.stop(self.common.drain)
        self._serve(one.config)

    async def _rate(self, asked: Request) -> Answer:
        one = self.find(text(asked, "stream"))
        rate = units.rate(text(asked, "rate"))
        self._wish(one, rate=rate)
        if one.follow is not None:
            one.follow.site.limiter.rate = rate
        return {"stream": one.record.stream if one.record else "", "label": one.config.name, "rate": rate}

    async def _forget(self, asked: Request) -> Answer:
        """Give up one replica of a stream; or a stream, which must not stand in the config any more."""
        name, replica = text(asked, "stream"), str(asked.get("replica") or "")
        if replica:
            return self._forget_replica(self.find(name), replica)
        if any(name in (one.config.name, *one.config.paths) for one in self.served.values()):
            one = self.find(name)
            raise errors.Usage(
                f"{one.config.name} stands at {one.config.where}: take it out of there and `systemctl reload"
                " vmferry-source`, then forget it"
            )
        found = self.known.find(name)
        said = control.Present(self.common.site, found.label, (), 0, 0, time.time_ns(), gone=True)
        self.gone[found.identity] = said
        self.announcer.news(found.identity)
        stays = await leave.forget(self.where, found, self.bus, bool(asked.get("purge")))
        return kept.forgotten(found, stays, "", bool(asked.get("purge")))

    def _forget_replica(self, one: Served, replica: str) -> Answer:
        if one.follow is None or one.record is None:
            raise errors.InUse(f"{one.config.name} is {one.job.state}: {one.job.why}")
        known = [peer for peer in one.follow.site.shipper.state.peers if peer.hex().startswith(replica)]
        if len(known) != 1 or len(replica) < 4:
            raise errors.NotFound(
                f"{one.config.name} has {len(known)} replicas {replica!r}: `vmferry status` lists them"
            )
        one.follow.forget(known[0])
        return kept.forgotten(one.record, [], f"nothing is kept for replica {known[0].hex()[:8]} any more", False)

    async def _cut(self, asked: Request) -> Answer:
        one = self.find(text(asked, "stream"))
        if one.follow is None:
            raise errors.InUse(f"{one.config.name} is {one.job.state}: {one.job.why}")
        one.follow.cut_now()
        return {"label": one.config.name}
