"""When a write is answered: the policy, and what becomes of it when a medium or a bus is slow.

A write's reply goes out when its record is in our memory, in the spool, on its medium, or on the bus.  A FLUSH, and a
write with FUA, waits for the medium under every policy, and fails where that failed.  The others wait `limit` seconds
at most: then the policy falls to `spool`, which is said, and comes back when what it waits for has kept up.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from engine.nbd.constants import Command
from engine.nbd.server import Connection
from producers.tap.order import Ack, Order
from producers.tap.writer import Writer

NOT_PERMITTED, IO_ERROR = 1, 5
"""Errors on the wire."""

RETRY = 10.0
"""Seconds until a policy that fell is tried again: each try may cost the guest `limit`."""

_log = logging.getLogger("vmferry.tap")


class Owed(NamedTuple):
    """`replies` to what came at `since` (monotonic), all of it numbered below `number`; or, of those that ask for
    durability, their cookies."""

    connection: Connection
    replies: bytes
    number: int
    since: float
    strict: tuple[int, ...] = ()


class Replies:
    """Of all connections of a tap."""

    def __init__(self, order: Order, writer: Writer) -> None:
        self.on_bus = writer.number
        """All below it is on the bus, as the daemon said."""
        self.fallen = ""
        """Why replies do not wait for what was ordered; empty while they do."""
        self.slowest = 0.0
        """Seconds from arrival to reply, at most so far."""
        self._order, self._writer = order, writer
        self._fell = 0.0
        self._sample = (0.0, 0)
        self._broken = False
        self._owed: list[Owed] = []

    @property
    def policy(self) -> Ack:
        """What is in force."""
        return Ack.SPOOL if self.fallen else self._order.ack

    @property
    def held(self) -> int:
        """Batches of replies that wait."""
        return len(self._owed)

    def owe(self, owed: Owed) -> None:
        self._owed.append(owed)

    def broke(self) -> None:
        """Nothing is recorded any more, so nothing is waited for."""
        self._broken = True

    def bus(self, number: int) -> None:
        """The daemon says that all below `number` is on the bus."""
        self.on_bus = max(self.on_bus, number)
        self.answer()

    def answer(self) -> None:
        """Send what need not wait any longer, in order."""
        waiting: list[Owed] = []
        for owed in self._owed:
            if not (self._broken or self._reached(bool(owed.strict)) >= owed.number):
                waiting.append(owed)
                continue
            if owed.strict:
                self._send_strict(owed)
            else:
                owed.connection.send(owed.replies)
            self.slowest = max(self.slowest, time.monotonic() - owed.since)
        self._owed = waiting

    def _reached(self, strict: bool) -> int:
        """All below it may be answered."""
        policy, writer = self.policy, self._writer
        if strict or policy is Ack.FSYNC:
            return writer.durable
        if policy is Ack.BUS:
            return min(self.on_bus, writer.durable)
        return writer.number if policy is Ack.SPOOL else 1 << 64

    def _send_strict(self, owed: Owed) -> None:
        codec = owed.connection.codec
        assert codec is not None
        durable = self._writer.durable >= owed.number
        replies = [codec.done(one) if durable else codec.failed(Command.FLUSH, one, IO_ERROR) for one in owed.strict]
        owed.connection.send(b"".join(replies))

    def tick(self, now: float) -> float | None:
        """Let go of what waits too long; seconds until the next call is due."""
        if now - self._sample[0] > self._order.limit:
            self._mend(now)
            self._sample = (now, self._writer.number)
        soft = [owed.since for owed in self._owed if not owed.strict]
        if not soft or self._broken:
            return None
        left = soft[0] + self._order.limit - now
        if left > 0:
            return left
        self._fall(now)
        return None

    def _fall(self, now: float) -> None:
        bus = self._order.ack is Ack.BUS and self._writer.durable > self.on_bus
        slow = "the bus" if bus else "the spool's medium"
        self.fallen = f"{slow} took longer than {self._order.limit:g} s"
        self._fell = now
        _log.warning("replies wait for the spool only, and not as ordered (%s): %s", self._order.ack.value, self.fallen)
        self.answer()

    def _mend(self, now: float) -> None:
        """Back to the order once all that was there one `limit` ago has come as far as it should."""
        reached = min(self.on_bus, self._writer.durable) if self._order.ack is Ack.BUS else self._writer.durable
        if self.fallen and now - self._fell >= RETRY and reached >= self._sample[1]:
            _log.warning("replies wait as ordered again (%s)", self._order.ack.value)
            self.fallen = ""
