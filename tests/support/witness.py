"""Reads a stream's log beside everybody else, applies it by the plainest means, and says what a replica must hold."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from engine import envelope, errors, ports
from engine.bus import connect
from schemas import events, receipts, topics, wire
from schemas.identity import Address, SealId

PATIENCE = 40.0


class Witness:
    """Follows one stream and one replica of it in a thread of its own, before records are trimmed.

    `wrong` are the promises that were broken, in words.  `blind` counts the checks for which it came too late to read
    every event; then only usable states are compared, with those that the source has been in.
    """

    def __init__(self, url: str, stream: bytes, replica: bytes) -> None:
        self.wrong: list[str] = []
        self.applied: dict[int, receipts.Position] = {}
        "What the replica said that it applied, by epoch."
        self.bytes = self.blind = 0
        self._url, self._replica = url, replica
        self._read = {topics.stream(stream): 0, topics.receipts(): 0}
        self._takers = dict(zip(self._read, (self._event, self._receipt), strict=True))
        self._epochs: dict[SealId, dict[int, events.Event]] = {}
        self._content = bytearray()
        self._at = receipts.Position()
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), name="witness")
        self._thread.start()

    def stop(self) -> None:
        """Read no more.  Repeatable."""
        self._stop.set()
        self._thread.join()

    async def _follow(self) -> None:
        await asyncio.gather(*(self._follow_one(topic, take) for topic, take in self._takers.items()))

    async def _follow_one(self, topic: str, take: Callable[[bytes], None]) -> None:
        """A topic, for ever: over brokers that go away, and over what was trimmed before it was read."""
        while not self._stop.is_set():
            try:
                bus = await connect.connect(self._url)
                try:
                    await self._read_on(await bus.open(topic), topic, take)
                finally:
                    await bus.close()
            except errors.OffsetGone as gone:
                self._read[topic] = gone.begin
            except errors.Transient:
                await asyncio.sleep(0.1)

    async def _read_on(self, log: ports.Log, topic: str, take: Callable[[bytes], None]) -> None:
        while not self._stop.is_set():
            for entry in await log.read(self._read[topic], 8 << 20, 0.2):
                with self._guard:
                    take(entry.data)
                self._read[topic] = entry.offset + 1

    def _event(self, data: bytes) -> None:
        self.bytes += len(data)
        frame, event = envelope.event(data)
        self.event(frame.address, event)

    def event(self, address: Address, event: events.Event) -> None:
        """A record of the stream."""
        epoch = self._epochs.setdefault(address.seal, {})
        known = epoch.setdefault(address.seq, event)
        if isinstance(event, events.Open | events.Change | events.Seal) and known != event:
            self.wrong.append(f"{address} is twice on the log, with different content")

    def _receipt(self, data: bytes) -> None:
        frame = wire.unpack(data)
        sender, said = wire.receipt(frame.kind, envelope.body(frame))
        if sender.replica == self._replica and isinstance(said, receipts.Applied):
            self.applied[said.position.epoch] = said.position

    async def catch_up(self) -> None:
        """Everything that is on the log now has been read.  Raises TimeoutError."""
        bus = await connect.connect(self._url)
        try:
            async with asyncio.timeout(PATIENCE):
                for topic in self._read:
                    await self._past(topic, (await (await bus.open(topic)).ends())[1])
        finally:
            await bus.close()

    async def _past(self, topic: str, end: int) -> None:
        while True:
            if self._read[topic] >= end:
                return
            await asyncio.sleep(0.02)

    def check(
        self, position: receipts.Position, kept: Iterable[receipts.Position], image: Path, cuts: set[bytes]
    ) -> None:
        """The recovered `image` is what `position` names, has all that was acknowledged, and is usable only as a cut.

        `kept` are the epochs that the replica's own store speaks of, `cuts` the SHA-256 of all states of the source.
        """
        with self._guard:
            self.applied.update({one.epoch: one for one in (*kept, position) if one.epoch > self._at.epoch})
            if position.epoch < max(self.applied, default=0):
                self.wrong.append(f"acknowledged epoch {max(self.applied)} is lost: the replica is at {position.epoch}")
            if not position.epoch:
                return  # nothing was ever promised
            content = image.read_bytes()
            path = [self.applied[number] for number in sorted(self.applied) if number > self._at.epoch]
            if all(self._apply(one) for one in path):
                if content != self._content:
                    self.wrong.append(f"{position.seal}: the replica is torn at {_first(content, self._content)}")
            else:
                self.blind += 1
            self._content, self._at = bytearray(content), position
            if position.usable and hashlib.sha256(content).digest() not in cuts:
                self.wrong.append(f"{position.seal} is called usable, and the source was never so")
            self._epochs = {seal: one for seal, one in self._epochs.items() if seal.epoch > position.epoch}

    def _apply(self, position: receipts.Position) -> bool:
        """Whether all events of the epoch were seen."""
        epoch = sorted(self._epochs.pop(position.seal, {}).items())
        for _, event in epoch:
            if isinstance(event, events.Open):
                size = event.volumes[0].size
                del self._content[size:]
                self._content.extend(bytes(size - len(self._content)))
            elif isinstance(event, events.Written):
                self._content[event.start : event.start + len(event.data)] = event.data
            elif isinstance(event, events.Zeroed):
                self._content[event.start : event.start + event.length] = bytes(event.length)
        last = epoch[-1][1] if epoch else None
        return isinstance(last, events.Seal) and last.count == len(epoch) - 1


def _first(one: bytes, other: bytes | bytearray) -> str:
    pairs = enumerate(zip(one, other, strict=False))
    return next(
        (f"byte {at}" for at, (left, right) in pairs if left != right), f"its size {len(one)}, not {len(other)}"
    )
