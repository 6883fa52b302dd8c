"""How fast a producer may go: a rate limit that can be changed while it runs, and a bound on what is in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from schemas.identity import Attempt
from schemas.receipts import Position, Progress

_BURST = 0.25
"""Seconds of sending that an idle time saves up."""
_NAP = 0.2


class Limiter:
    """A token bucket over bytes per second; `rate` 0 is no limit and may be set at any time."""

    def __init__(self, rate: int = 0) -> None:
        self.rate = rate
        self._debt = 0.0
        "Bytes let through before their time; below zero, what an idle time saved up."
        self._paid_at = 0.0

    async def take(self, size: int) -> None:
        """Wait until `size` more bytes may be sent; bursts of a quarter of a second are let through."""
        self._pay()
        self._debt += size
        while self.rate and self._debt > 0:
            # Short naps, so that a changed rate is felt at once.
            await asyncio.sleep(min(_NAP, max(0.001, self._debt / self.rate)))
            self._pay()
        if not self.rate:
            self._debt = 0.0

    def _pay(self) -> None:
        now = asyncio.get_running_loop().time()
        paid = (now - self._paid_at) * self.rate
        self._debt, self._paid_at = max(self._debt - paid, -_BURST * self.rate), now


@dataclass(slots=True)
class Peer:
    """One replica, as its receipts tell of it."""

    replica: bytes
    nonce: bytes = bytes(8)
    answered: bool = False
    applied: Position = field(default_factory=Position)
    verified: Position = field(default_factory=Position)
    read: tuple[int, int] = (0, 0)
    "(epoch, seq) of the last record that it says it has read, of this attempt."
    heard: float = 0.0
    "Loop time of its last word."
    lapsed: bool = False
    "Its lease has ended: nothing waits for it any more."

    def passed(self, attempt: Attempt) -> int:
        """The bus offset behind what it has applied of `attempt`; 0: nothing of it.  That of an earlier one says
        nothing: the log may have been lost since, and begun anew."""
        return self.applied.offset if self.applied.attempt == attempt else 0


class Window:
    """Bytes sent in this attempt that the slowest replica has not read yet."""

    def __init__(self) -> None:
        self.sent = 0
        self._marks: deque[tuple[tuple[int, int], int]] = deque()
        self._floor: dict[bytes, int] = {}

    def add(self, epoch: int, seq: int, size: int) -> None:
        """A record went out."""
        self._marks.append(((epoch, seq), self.sent))
        self.sent += size

    def note(self, peer: Peer, attempt: Attempt, progress: Progress) -> None:
        """A replica said how far it has read."""
        if progress.attempt == attempt and (progress.epoch, progress.seq) > peer.read:
            peer.read = (progress.epoch, progress.seq)

    def behind(self, peers: list[Peer]) -> int:
        """Bytes that the slowest of `peers` has still to read; 0 without peers."""
        if not peers:
            self._marks.clear()
            return 0
        slowest = min(peer.read for peer in peers)
        while self._marks and self._marks[0][0] <= slowest:
            self._marks.popleft()
        return self.sent - self._before() if self._marks else 0

    def _before(self) -> int:
        """Bytes sent before the oldest record that is not read: its own size is counted as in flight."""
        return self._marks[0][1]
