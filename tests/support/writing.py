"""A guest that writes: blocks whose content says which write they are of, and how long each was waited for."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import DeviceFailed
from engine.nbd.client import Client, Place
from engine.nbd.constants import RequestError


@dataclass
class Writer:
    """Writes `size` bytes at a time to one export, round and round its first `room` bytes, `depth` writes in flight.

    `answered` has (number, start) of every write that was answered without an error; `longest` seconds were waited.
    """

    socket: Path
    export: str = "vda"
    size: int = 4096
    depth: int = 1
    room: int = 4 << 20
    answered: list[tuple[int, int]] = field(default_factory=list)
    failed: list[RequestError] = field(default_factory=list)
    longest: float = 0.0
    asked: int = 0
    going: bool = True
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until `going` is False, or the server is gone."""
        client = await Client.connect(Place(socket=str(self.socket)), self.export)
        try:
            await asyncio.gather(*(self._lane(client) for _ in range(self.depth)))
        finally:
            await client.close()

    async def _lane(self, client: Client) -> None:
        with contextlib.suppress(DeviceFailed):  # the server was killed: that is some tests' very point
            while self.going:
                number, self.asked = self.asked, self.asked + 1
                start = number * self.size % self.room
                began = time.monotonic()
                try:
                    await client.write(start, content(number, self.size))
                except RequestError as why:
                    self.failed.append(why)
                else:
                    self.answered.append((number, start))
                    self._more.set()
                self.longest = max(self.longest, time.monotonic() - began)

    async def until(self, count: int) -> None:
        """Wait until so many writes were answered."""
        while len(self.answered) < count:
            self._more.clear()
            await self._more.wait()


def content(number: int, size: int) -> bytes:
    """What write `number` writes."""
    return struct.pack(">Q", number + 1) * (size // 8)


def number_of(data: bytes) -> int:
    """Which write wrote it."""
    number = int.from_bytes(data[:8], "big") - 1
    assert data == content(number, len(data)), "a block of two writes"
    return number
