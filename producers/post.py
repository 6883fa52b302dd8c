"""The way to the bus: events are packed, handed over in batches, and no faster than limit and window allow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from engine import envelope, ports
from producers.ear import Ear
from producers.pace import Limiter
from schemas import events, wire
from schemas.identity import Address

NAP = 0.25
"""Seconds that one wait for receipts lasts at most, so that rate, window and deadlines are looked at."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be tuned.  Bytes and seconds."""

    part: int = 8 << 20
    "Data in one epoch at most.  What a killed baseline sends twice is no more than this."
    window: int = 128 << 20
    "Bytes in flight: sent, and not yet read by the slowest replica."
    answer: float = 10.0
    "How long replicas have to answer a `Started`."
    repeat: float = 2.0
    "How often `Started` and questions are said again meanwhile."
    lease: float = 60.0
    "A replica that is silent for so long, while others wait for it, is waited for no more."
    batch: int = 4 << 20
    "Bytes handed to the bus at once."
    roots: bool = True
    "Whether seals carry Merkle roots."
    sample: int = 32
    "Blocks of each volume that are read in a pass although the source calls them clean."
    squeeze: wire.Squeeze = envelope.squeeze


_LEAST_WINDOW = 8 << 20


def beside(cap: int) -> Settings:
    """Settings of a stream of whose log `cap` bytes are kept, 0 for no cap: what is in flight to a replica that is well
    never reaches a cap of 16 MiB or more."""
    usual = Settings()
    return replace(usual, window=min(usual.window, max(cap // 2, _LEAST_WINDOW))) if cap else usual


class Post:
    """Packs and sends one stream's events, a batch at a time, while the next one fills.

    `sent` counts bytes handed to the bus.
    """

    def __init__(
        self,
        stream: bytes,
        topic: ports.Log,
        ear: Ear,
        settings: Settings,
        limiter: Limiter,
        offload: ports.Offload = ports.inline,
    ) -> None:
        self.sent = 0
        self._stream, self._log, self._ear = stream, topic, ear
        self._settings, self._limiter, self._offload = settings, limiter, offload
        self._pending: list[tuple[Address, events.Event]] = []
        self._size = 0
        self._sending: asyncio.Task[None] | None = None
        self._open = False
        "An epoch was begun, and its seal was not taken."

    @property
    def between(self) -> bool:
        """Whether the bus has taken all that we took, and no epoch is open there."""
        return not self._open and not self._pending and (self._sending is None or self._sending.done())

    async def say(self, address: Address, event: events.Started | events.Asked | events.Word) -> None:
        """Say one thing at once, durably."""
        await self._log.append([self._pack(address, event)])
        await self._log.sync()
        if isinstance(event, events.Started):
            self._open = False  # whoever reads it leaves the open epoch behind

    async def add(self, address: Address, event: events.Event) -> None:
        """Take the next event of an epoch; it goes out with its batch."""
        self._open = not isinstance(event, events.Seal)
        self._pending.append((address, event))
        self._size += wire.HEADER_SIZE + _payload(event)
        if self._size >= self._settings.batch:
            await self._push()

    async def hand_over(self) -> asyncio.Future[None]:
        """Everything is on its way; gives what ends when the bus has taken it.

        Raises Restart or Fenced when that is heard while waiting for room.
        """
        await self._push()
        return self._sending or _nothing()

    async def _push(self) -> None:
        await self._landed()
        await self._room()
        if self._pending:
            pending, self._pending, self._size = self._pending, [], 0
            self._sending = asyncio.ensure_future(self._send(pending))

    async def _send(self, pending: list[tuple[Address, events.Event]]) -> None:
        # One hop to a thread for all of them: with one each, hops were a fifth of a baseline.
        records: list[bytes] = await self._offload(self._pack_all, pending)
        for (address, _), record in zip(pending, records, strict=True):
            self._ear.window.add(address.epoch, address.seq, len(record))
        size = sum(map(len, records))
        await self._limiter.take(size)
        await self._log.append(records)
        self.sent += size

    async def _landed(self) -> None:
        """The batch that is under way was taken."""
        sending, self._sending = self._sending, None
        if sending is not None:
            await sending

    async def drop(self) -> None:
        """Forget what is pending: its epoch is left behind.  What is under way ends first."""
        self._pending, self._size = [], 0
        await self._landed()

    async def close(self) -> None:
        """Nothing is under way any more; what becomes of it does not count.  Repeatable."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.cancel()
            await asyncio.wait((sending,))
            if not sending.cancelled():
                sending.exception()

    def _pack_all(self, pending: list[tuple[Address, events.Event]]) -> list[bytes]:
        return [self._pack(address, event) for address, event in pending]

    def _pack(self, address: Address, event: events.Event) -> bytes:
        return wire.pack_event(self._stream, address, event, self._settings.squeeze)

    async def _room(self) -> None:
        """Wait while the slowest replica has more to read than the window."""
        ear, since = self._ear, asyncio.get_running_loop().time()
        if ear.window.behind(ear.waited_for()) > self._settings.window:
            await ear.hear(0)
        while ear.window.behind(ear.waited_for()) > self._settings.window:
            # What it has to read must be readable: unsynced records are not.
            await self._log.sync()
            await ear.hear(NAP)
            ear.check()
            ear.lapse(self._settings.lease, since)


def _payload(event: events.Event) -> int:
    """Bytes that it carries, but for what is small."""
    if isinstance(event, events.Written):
        return len(event.data)
    return len(event.text) + len(event.nvram) if isinstance(event, events.Defined) else 0


def _nothing() -> asyncio.Future[None]:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
