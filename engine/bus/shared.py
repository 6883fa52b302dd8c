"""One connection to a bus for all streams of a daemon; each stream has a lease, and closes only what it opened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from engine import errors, ports
from engine.bus.fan import Fan, FanLog

Connect = Callable[[], Awaitable[ports.Bus]]


class SharedBus:
    """Connects when it is first needed, and again by itself where the bus does not.  `fanned` topics are read once."""

    def __init__(self, connect: Connect, fanned: frozenset[str] = frozenset()) -> None:
        self._connect, self._fanned = connect, fanned
        self._bus: ports.Bus | None = None
        self._away, self._waiting = "", 0
        self._connecting = asyncio.Lock()
        self._fans: dict[str, Fan] = {}

    async def lease(self) -> Lease:
        """A bus for one user.  Raises what connecting does."""
        await self.bus()
        return Lease(self)

    async def bus(self) -> ports.Bus:
        self._waiting += 1
        try:
            async with self._connecting:
                if self._bus is None:
                    self._bus = await self._connect()
                return self._bus
        except errors.FerryError as why:
            self._away = str(why)
            raise
        finally:
            self._waiting -= 1

    async def trouble(self) -> str:
        """As ports.Bus.trouble.  While others are at connecting, it is what was wrong the last time: they may be many,
        one after the other, each for half a minute."""
        if self._bus is None and self._waiting:
            return self._away
        return await (await self.bus()).trouble()

    def fan(self, topic: str) -> FanLog | None:
        """A reader's handle on a topic that is read once for all; None for others."""
        if topic not in self._fanned:
            return None

        async def opened() -> ports.Log:
            return await (await self.bus()).open(topic, shared=True)

        if topic not in self._fans:
            self._fans[topic] = Fan(opened)
        return FanLog(self._fans[topic], opened)

    async def close(self) -> None:
        """Repeatable."""
        for fan in list(self._fans.values()):
            await fan.close()
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()


class Lease:
    """A ports.Bus over a shared one."""

    def __init__(self, shared: SharedBus) -> None:
        self._shared = shared
        self._logs: list[ports.Log] = []

    async def open(self, topic: str, write: bool = False, shared: bool = False) -> ports.Log:
        log: ports.Log | None = None if write else self._shared.fan(topic)
        if log is None:
            log = await (await self._shared.bus()).open(topic, write, shared)
        self._logs.append(log)
        return log

    async def exists(self, topic: str) -> bool:
        return await (await self._shared.bus()).exists(topic)

    async def delete(self, topic: str) -> None:
        await (await self._shared.bus()).delete(topic)

    async def trouble(self) -> str:
        return await self._shared.trouble()

    async def close(self) -> None:
        while self._logs:
            await self._logs.pop().close()
