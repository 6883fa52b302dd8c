"""A daemon of either side: one bus, one control socket, many jobs.  What the sides do with their streams is theirs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from engine import errors, linux, litter, metrics, places, ports, registry, tuning
from engine.bus.reach import reach_config
from engine.bus.shared import SharedBus
from engine.daemon import config
from engine.daemon.chores import Chores
from engine.daemon.control import Server
from engine.daemon.job import Job
from engine.daemon.pulse import Pulse
from engine.device import direct
from engine.notify import Notifier

log = logging.getLogger("vmferry.daemon")
_TIDY = 30.0
Request = dict[str, Any]
Answer = dict[str, Any]


def socket_of(where: places.Places, side: str) -> Path:
    """Where the control socket of a side is found, be it there or elsewhere."""
    return where.root / f"{side}.sock"


class Daemon(ABC):
    """`run` it once.  `side` is "source" or "target"."""

    side = ""
    fanned: Callable[[str], frozenset[str]] = staticmethod(lambda _prefix: frozenset())

    def __init__(self, found: config.Config, where: places.Places) -> None:
        self.config, self.where = found, where
        self.bus = SharedBus(lambda: reach_config(self.common.bus, self.common.file), self.fanned(found.common.prefix))
        self.pulse = Pulse(self.bus)
        self.chores = Chores()
        self.newer: dict[str, errors.Newer] = {}
        "Streams of which a newer vmferry keeps the records: left alone, and no reason to end for the others."
        self.known = registry.Registry(where, newer=lambda stream, why: self.newer.update({stream: why}))
        self.started = time.time()
        self.doing: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "status": self._status, "pause": self._pause, "resume": self._resume, "reload": self._reload,
        }  # fmt: skip
        self._manager = Notifier()
        self._stop = asyncio.Event()
        self._deciding = asyncio.Lock()

    @property
    def common(self) -> config.Common:
        return self.config.common

    # -- what a side does -----------------------------------------------------------------------------------------

    @abstractmethod
    async def begin(self) -> None:
        """Take up what the config and the state name."""

    @abstractmethod
    async def changed(self, now: config.Config) -> None:
        """Go over to another config: what is the same goes on undisturbed."""

    @abstractmethod
    def jobs(self) -> Iterable[Job]:
        """The jobs of all streams."""

    @abstractmethod
    def streams(self) -> list[Answer]:
        """What `status` says of each stream."""

    @abstractmethod
    def background(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What runs beside the jobs, for ever."""

    async def ended(self) -> None:  # noqa: B027  # a side may share nothing but the bus
        """All streams have come to their end: let go of what they shared."""

    def away(self) -> str:
        """Why other sites cannot be heard, where that is this side's to do."""
        return ""

    @abstractmethod
    async def pause(self, name: str, paused: bool) -> Answer:
        """Stop or let go on one stream, now and over restarts."""

    # -- the run ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until SIGTERM or SIGINT.  Its manager is told when the control socket answers, and when it ends.

        Raises InUse when another daemon has this state, Usage for a control socket that cannot be made.
        """
        tuning.bulk()
        places.make(self.where.root / self.side)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(
                places.Hold(self.where.root / self.side, f"the {self.side} daemon of {self.where.root}").close
            )
            server = Server(self.socket, self._handle, self.common.control_group)
            await server.start()
            stack.push_async_callback(server.close)
            self._link()
            stack.push_async_callback(self.bus.close)
            self._heed()
            await self.begin()
            if self.common.metrics:
                exporter = metrics.Exporter()
                stack.callback(exporter.close)
                exporter.start(self.common.metrics, metrics.on_loop(asyncio.get_running_loop(), self.status))
            own = (self.pulse.run(), self._alive(), self._tidy())
            beside = [asyncio.create_task(one) for one in (*self.background(), *own)]
            stack.push_async_callback(_cancel, beside)
            self._manager.ready(self._words())
            for problem in self.config.problems:
                log.error("%s", problem)
            await self._until_stopped(beside)
            self._manager.stopping()
            # What operators have begun may be stopped anywhere, and asked for again.
            await self.chores.close()
            log.info("ending: %d streams come to a good end within %.0f s", len(list(self.jobs())), self.common.drain)
            await asyncio.gather(*(job.stop(self.common.drain) for job in self.jobs()))
            await self.ended()

    def _words(self) -> str:
        states = [job.state for job in self.jobs()]
        told = ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))
        return f"{len(states)} streams{f': {told}' if told else ''}"

    async def _alive(self) -> None:
        """Tell whoever watches us that this loop turns."""
        while True:
            self._manager.watchdog()
            self._manager.status(self._words())
            await asyncio.sleep(min(self._manager.watchdog_seconds or 60.0, 60.0) / 2)

    @staticmethod
    async def _tidy() -> None:
        """Give memory back now and then.  20 streams had 97 MiB of their heap in use and 88 free, all of it resident as
        time went by (measured; tests/support/soak): what one stream has freed lies between what others hold."""
        while True:
            await asyncio.sleep(_TIDY)
            litter.collect()
            direct.SHARED.tidy()
            await asyncio.to_thread(linux.give_back_memory)

    async def _until_stopped(self, beside: Sequence[asyncio.Task[None]]) -> None:
        """Raises what ended something that should run for ever: systemd begins us again."""
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({stop, *beside}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for one in beside:
            if one.done():
                one.result()

    @property
    def ending(self) -> bool:
        """Nothing new is begun."""
        return self._stop.is_set()

    @property
    def socket(self) -> Path:
        """Where its config says; else where systemd gives us a directory for it, whose group may enter; else beside
        the state."""
        if self.common.control:
            return Path(self.common.control)
        given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        return Path(given) / f"{self.side}.sock" if given else socket_of(self.where, self.side)

    def _link(self) -> None:
        """Commands look beside the state: a socket that is elsewhere is found from there."""
        usual = socket_of(self.where, self.side)
        if self.socket != usual:
            usual.unlink(missing_ok=True)
            usual.symlink_to(self.socket)

    def _heed(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._soon(self._reload({})))

    def _end(self) -> None:
        """The first signal asks for a good end; after a second one the next start recovers."""
        if self._stop.is_set():
            os._exit(130)
        self._stop.set()

    def _soon(self, step: Awaitable[Answer]) -> None:
        async def quietly() -> None:
            try:
                await step
            except errors.FerryError as why:
                log.error("the config is not taken, and the one before stays: %s", why)

        self._reloading = asyncio.ensure_future(quietly())

    # -- requests ---------------------------------------------------------------------------------------------------

    async def _handle(self, asked: Request) -> Answer:
        do = self.doing.get(asked["do"])
        if do is None:
            raise errors.Usage(f"{asked['do']!r} is nothing that a {self.side} daemon does: {', '.join(self.doing)}")
        return await do(asked)

    async def _status(self, _asked: Request) -> Answer:
        return self.status()

    def status(self) -> Answer:
        """How everything is, from what is in memory."""
        return {
            "daemon": self.side, "site": self.common.site, "pid": os.getpid(), "started": self.started,
            "version": importlib.metadata.version("vmferry"), "config": str(self.common.file),
            "state": str(self.where.root), "bus": self.common.bus, "prefix": self.common.prefix,
            "problems": [*self.config.problems, *map(str, self.newer.values())], "away": self.away(),
            "bus_trouble": self.pulse.trouble, "streams": self.streams(),
        }  # fmt: skip

    async def _pause(self, asked: Request) -> Answer:
        return await self.pause(text(asked, "stream"), True)

    async def _resume(self, asked: Request) -> Answer:
        return await self.pause(text(asked, "stream"), False)

    def read(self, file: Path) -> config.Config:
        """The config as it is now.  Raises as config.load."""
        return config.load(file, self.side)

    async def reload(self) -> Answer:
        """As SIGHUP does."""
        return await self._reload({})

    async def _reload(self, _asked: Request) -> Answer:
        """Read the config again.  One that nobody can run with is refused; what is wrong with a stream stays there."""
        async with self._deciding:
            self._manager.reloading()
            try:
                now = await asyncio.to_thread(self.read, self.common.file)
            except errors.FerryError:
                self._manager.ready(self._words())
                raise
            fixed = ("site", "bus", "prefix", "state", "control", "control_group", "kafka", "metrics")
            differs = [name for name in fixed if getattr(now.common, name) != getattr(self.common, name)]
            await self.changed(now)
            self.config = now
            for problem in now.problems:
                log.error("%s", problem)
            log.info("the config was read again: %d streams", len(list(self.jobs())))
            restart = f"{', '.join(differs)}: changed only by a restart of the daemon" if differs else ""
            if restart:
                log.warning("%s", restart)
            self._manager.ready(self._words())
            return {"problems": list(now.problems), "restart": restart}


def text(asked: Request, name: str) -> str:
    """A text of a request.  Raises Usage."""
    value = asked.get(name)
    if not isinstance(value, str) or not value:
        raise errors.Usage(f"a text is wanted in {name!r}")
    return value


def lease_of(bus: SharedBus) -> Callable[[registry.Stream | registry.Replica, int | None], Awaitable[ports.Bus]]:
    """The `reach` of an opened side that shares one connection."""

    async def reach(_record: registry.Stream | registry.Replica, _quota: int | None = None) -> ports.Bus:
        return await bus.lease()

    return reach


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
