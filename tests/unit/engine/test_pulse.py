"""How a daemon's bus is, by the daemon's own look."""

from __future__ import annotations

import asyncio

from engine import errors, ports
from engine.bus.memory import MemoryBus
from engine.bus.shared import SharedBus
from engine.daemon import pulse
from engine.daemon.pulse import Pulse
from tests.support.sim.loop import virtual


class Ill(MemoryBus):
    """One that says `words` when it is asked how it is."""

    words = ""

    async def trouble(self) -> str:
        return self.words


@virtual
async def test_a_bus_that_is_away_is_told_with_why_and_one_that_is_back_soon() -> None:
    away = True

    async def connect() -> ports.Bus:
        if away:
            raise errors.Transient("0 of 3 brokers answer")
        return MemoryBus()

    made = Pulse(SharedBus(connect))
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0.1)
    assert made.trouble == "0 of 3 brokers answer"
    away = False
    await asyncio.sleep(pulse.SOON)
    assert made.trouble == ""
    running.cancel()


@virtual
async def test_what_befalls_a_bus_that_is_connected_is_told_within_a_look() -> None:
    bus = Ill()

    async def connect() -> ports.Bus:
        return bus

    made = Pulse(SharedBus(connect))
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0.1)
    assert made.trouble == ""
    bus.words = "1 of 3 brokers answer"
    await asyncio.sleep(pulse.EVERY)
    assert made.trouble == "1 of 3 brokers answer"
    running.cancel()


@virtual
async def test_it_does_not_queue_behind_the_streams_that_wait_for_a_connection() -> None:
    async def connect() -> ports.Bus:
        await asyncio.sleep(30)
        raise errors.Transient("nothing listens")

    shared = SharedBus(connect)
    streams = [asyncio.create_task(shared.bus()) for _ in range(20)]
    made = Pulse(shared)
    running = asyncio.create_task(made.run())
    await asyncio.sleep(30 + pulse.EVERY + 1)
    assert made.trouble == "nothing listens"
    running.cancel()
    for one in streams:
        one.cancel()
    await asyncio.wait(streams)
    for one in streams:
        assert one.cancelled() or isinstance(one.exception(), errors.Transient)
