"""How the bus of a daemon is, whatever its streams are at: one of them that has nothing to say would not notice."""

from __future__ import annotations

import asyncio
import logging

from engine import errors
from engine.bus.shared import SharedBus

log = logging.getLogger("vmferry.daemon")
EVERY = 10.0
"""Seconds between two looks.  With the 5 of a broker that does not answer, and the 5 of asking why, `status` knows
within 20."""
SOON = 2.0
"""The same while something is wrong: who mends it wants to see that."""


class Pulse:
    """`trouble` says what is wrong with the bus, in words; nothing while all is well."""

    def __init__(self, bus: SharedBus) -> None:
        self._bus = bus
        self.trouble = ""

    async def run(self) -> None:
        """For ever; each change is logged."""
        while True:
            found = await self._look()
            if bool(found) != bool(self.trouble):
                log.log(logging.WARNING if found else logging.INFO, "the bus: %s", found or "all of it answers again")
            self.trouble = found
            await asyncio.sleep(SOON if found else EVERY)

    async def _look(self) -> str:
        try:
            return await self._bus.trouble()
        except errors.FerryError as why:
            return str(why)
