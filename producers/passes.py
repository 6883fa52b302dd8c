"""One pass over a source: a cut brought to the bus, applied by its replica and, where both sides know roots, proved."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from engine import errors
from producers import lease
from producers.ship import Shipper
from schemas import receipts
from schemas.identity import Cut
from schemas.receipts import Position

log = logging.getLogger("vmferry.ship")
TRIES = 3
"""Passes in a row that the source may change under before its user is told."""
REFUSALS = 5
"""Refusals in a row by the replica, each followed by a new start, before its user is told."""
SILENCE = 10.0
"""Seconds without a word of the replica after which an empty epoch asks for one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass came to.  `position` is the replica's; `proved`: both sides' Merkle roots are equal there."""

    epochs: int
    position: Position
    proved: bool


class Passes:
    """The passes of one Shipper towards one replica."""

    def __init__(self, shipper: Shipper, replica: bytes) -> None:
        self._shipper = shipper
        self._replica = replica
        self._refused = ""
        self._asked = 0.0
        shipper.on_receipt(self._heard)
        lease.while_shipping(shipper, lambda: lease.trim_applied(shipper))

    def _heard(self, replica: bytes, receipt: receipts.Receipt) -> None:
        if replica == self._replica and isinstance(receipt, receipts.Gap | receipts.Diverged):
            self._refused = receipt.reason

    async def run(self, steady: bool = True) -> Outcome:
        """Ship one cut and wait until the replica has it; for how long is the caller's to bound.

        With `steady` the cut has to be consistent: a source that changes under TRIES passes is InUse.  Raises what
        `ship` does, and Divergence when the replica refuses again and again.
        """
        epochs = 0
        for left in range(TRIES - 1, -1, -1):
            epochs += await self._shipper.ship()
            position = await self._applied()
            if position.cut is not Cut.NONE or not steady:
                break
            if not left:
                raise errors.InUse(
                    f"stream {self._shipper.state.label}: its source changed under each of {TRIES} passes; stop what "
                    "writes to it, or give --force-share for a copy that is not consistent"
                )
            log.warning("the source changed while it was read: reading it again")
        proved = await self._proved(position)
        await lease.trim_applied(self._shipper)
        return Outcome(epochs, position, proved)

    async def _applied(self) -> Position:
        loop, refusals = asyncio.get_running_loop(), 0
        while not self._there():
            since = loop.time()
            if await self._shipper.drain(1.0) and self._there():
                break
            refused = loop.time() - since < 0.9
            refusals += refused
            if refusals > REFUSALS:
                raise errors.Divergence(f"the replica refused {REFUSALS} times in a row: {self._refused}")
            if refused:
                await self._shipper.nudge()
            await self._ask_if_silent()
        return self._shipper.peers[self._replica].applied

    async def _ask_if_silent(self) -> None:
        """An empty epoch, when there was no word for long: at most one in that time."""
        peer, now = self._shipper.peers.get(self._replica), asyncio.get_running_loop().time()
        if now - max(peer.heard if peer else 0.0, self._asked) > SILENCE:
            self._asked = now
            await self._shipper.nudge()

    def settled(self) -> bool:
        """Whether the replica has the last epoch and asks for nothing."""
        ear = self._shipper.ear
        return self._there() and not ear.wants_start and ear.fenced is None

    def _there(self) -> bool:
        peer, state = self._shipper.peers.get(self._replica), self._shipper.state
        return peer is not None and (peer.applied.epoch, peer.applied.chain) == (state.epoch, state.chain)

    async def _proved(self, position: Position) -> bool:
        """Whether the replica said so: that word comes in one breath with the one that it has applied the epoch."""
        for _ in range(20 if position.roots else 0):
            if self._shipper.peers[self._replica].verified.chain == position.chain:
                return True
            await self._shipper.hear(0.1)
        return False

    async def idle(self, seconds: float) -> None:
        """Hear receipts until the next pass, and ask again when a word is missing.  Raises Fenced."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            await self._shipper.hear(min(0.5, left))
            if not self._there():
                await self._ask_if_silent()
