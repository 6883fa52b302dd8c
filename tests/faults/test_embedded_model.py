"""The embedded log beside a plain list: whatever happens in what order, what was synced reads as it was appended."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine import errors
from engine.bus import index, segments
from engine.bus.embedded import EmbeddedBus, EmbeddedLog

TOPIC = "stream"
STEPS = 40


@dataclass
class World:
    """The list, and the log that must be like it.  `taken` is what was appended and not synced."""

    home: Path
    rng: random.Random
    bus: EmbeddedBus
    log: EmbeddedLog
    records: list[bytes] = field(default_factory=list)
    taken: list[bytes] = field(default_factory=list)
    begin: int = 0

    async def append(self) -> None:
        new = [self.rng.randbytes(self.rng.choice((0, 1, 100, 1500))) for _ in range(self.rng.randrange(1, 9))]
        await self.log.append(new)
        self.taken += new

    async def sync(self) -> None:
        self.records += self.taken
        self.taken = []
        assert await self.log.sync() == len(self.records)

    async def read(self) -> None:
        reader = self.log if self.rng.random() < 0.5 else await self.bus.open(TOPIC)
        assert await reader.ends() == (self.begin, len(self.records))
        offset = self.rng.randrange(self.begin, len(self.records) + 1)
        for entry in await reader.read(offset, self.rng.choice((1, 2000, 1 << 20)), 0):
            assert (entry.offset, entry.data) == (offset, self.records[offset])
            offset += 1
        if reader is not self.log:
            await reader.close()

    async def read_outside(self) -> None:
        for offset in (self.begin - 1, len(self.records) + 1):
            with pytest.raises(errors.OffsetGone):
                await self.log.read(offset, 1, 0)

    async def trim(self) -> None:
        offset = self.rng.randrange(self.begin, len(self.records) + 1)
        await self.log.trim(offset)
        self.begin = offset

    async def reopen(self) -> None:
        await self.sync()
        await self._leave()
        await self._come_back()

    async def crash(self) -> None:
        """The process dies; of what was not synced any piece may be on the disk, garbage behind it."""
        await self._leave()
        last = segments.path(self.home / TOPIC, segments.firsts(self.home / TOPIC)[-1])
        synced = self._synced_position(last)
        whole = last.read_bytes()
        cut = self.rng.randrange(synced, len(whole) + 1)
        last.write_bytes(whole[:cut] + self.rng.randbytes(self.rng.choice((0, 0, 30, 3000))))
        await self._come_back()
        _, end = await self.log.ends()
        possible = self.records + self.taken
        assert len(self.records) <= end <= len(possible), "what was synced is gone, or what never was is there"
        self.records, self.taken = possible[:end], []

    def _synced_position(self, last: Path) -> int:
        opened = index.Index(self.home / TOPIC)
        tail = opened.state().tail
        opened.close()
        return tail.position if segments.path(self.home / TOPIC, tail.segment) == last else segments.FILE_HEADER

    async def lose_index(self) -> None:
        """Without its index the log begins at its first segment: no later than before."""
        await self.sync()
        await self._leave()
        for file in (self.home / TOPIC).glob(f"{index.NAME}*"):
            file.unlink()
        await self._come_back()
        begin, end = await self.log.ends()
        assert begin <= self.begin
        assert end == len(self.records)
        await self.log.trim(self.begin)

    async def _leave(self) -> None:
        await self.bus.close()

    async def _come_back(self) -> None:
        self.bus = EmbeddedBus(self.home)
        self.log = await self.bus.open(TOPIC, write=True)


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_what_was_synced_reads_as_it_was_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_SIZE", 5000)
    monkeypatch.setattr("engine.bus.recovery.MARK_EVERY", 700)
    monkeypatch.setattr("engine.bus.embedded.BUFFER", 2000)
    bus = EmbeddedBus(tmp_path)
    world = World(tmp_path, random.Random(seed), bus, await bus.open(TOPIC, write=True))
    await world.append()
    await world.sync()
    steps = [world.append] * 4 + [world.sync] * 2 + [world.read] * 4
    steps += [world.read_outside, world.trim, world.reopen, world.crash, world.lose_index]
    for _ in range(STEPS):
        await world.rng.choice(steps)()
    await world.sync()
    await world.read()
    await world.bus.close()
