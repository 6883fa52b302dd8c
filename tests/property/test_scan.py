"""Random images against random maps: a scan gives exactly what changed, or what is unsure, and hashes it right."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import digest
from engine.device.memory import MemoryDevice
from engine.store import blockmap
from engine.store.blockmap import MapFiles, VolumeMap
from engine.store.memory import MemoryFile
from producers import scan
from schemas.extent import Extent
from schemas.identity import Volume
from tests.support.sim.loop import run

SEED = 0x1234_5678_9ABC_DEF0
KINDS = st.sampled_from(["hole", "hole", "zeros", "same", "same", "same", "other", "unknown", "spoiled"])
"""Of a block: how it stands to the map."""


class Image(MemoryDevice):
    """Tells holes in random stretches that need not end at blocks, and zeros as data now and then."""

    def __init__(self, content: bytes, chance: random.Random) -> None:
        super().__init__(len(content), 4)
        self._cache[:] = content
        self._chance = chance
        self.reads: list[tuple[int, int]] = []

    async def read(self, start: int, length: int) -> bytes:
        assert length > 0
        self.reads.append((start, length))
        return await super().read(start, length)

    async def extents(self, start: int, length: int) -> Sequence[Extent]:
        found: list[Extent] = []
        for one in await super().extents(start, length):
            at = one.start
            while at < one.end:
                size = min(self._chance.randrange(1, 200), one.end - at)
                found.append(Extent(at, size, one.zero and self._chance.random() < 0.8))
                at += size
        return found


@dataclass
class World:
    """An image, a map, and what of them differs."""

    device: Image
    known: VolumeMap
    content: list[bytes]
    changed: set[int]

    def scan(self) -> scan.Scan:
        return scan.Scan(0, self.device, self.known, SEED)


def made(kinds: list[str], block_size: int, last: int, unsure: list[bool], seed: int) -> World:
    chance = random.Random(seed)
    size = (len(kinds) - 1) * block_size + min(last, block_size)
    known = VolumeMap(Volume("vda", size, block_size), MapFiles(*(MemoryFile() for _ in range(4))))
    content, changed = list[bytes](), set[int]()
    for at, kind in enumerate(kinds):
        length = known.volume.length(at)
        data = bytes(length) if kind in ("hole", "zeros") else chance.randbytes(length - 1) + b"!"
        content.append(data)
        before = data
        if kind in ("other", "spoiled") or (kind in ("hole", "zeros") and chance.random() < 0.3):
            before = chance.choice([bytes(length), chance.randbytes(length)])
        if before != data:
            changed.add(at)
        if kind == "unknown":
            continue
        put(known, at, before)
        if kind == "spoiled":
            known.put(at, blockmap.NO_PRINT, digest.block(data), sure=True)
            changed.add(at)
    for at, value in enumerate(unsure[: len(kinds)]):
        if value:
            known.doubt(at, 1)
    return World(Image(b"".join(content), chance), known, content, changed)


def put(known: VolumeMap, at: int, data: bytes) -> None:
    if any(data):
        known.put(at, digest.fingerprint(data, SEED), digest.block(data), sure=True)
    else:
        known.put_zeros(at, 1, sure=True)


async def taken(found: AsyncIterator[scan.Found], world: World) -> list[int]:
    """The blocks that were given, each checked against the image, in the order given."""
    blocks: list[int] = []
    size = world.known.volume.block_size
    async for one in found:
        assert one.volume == 0
        if isinstance(one, scan.Zeros):
            given_ = list(range(one.first, one.first + one.count))
            assert not any(any(world.content[at]) for at in given_)
        else:
            given_ = list(range(one.first, one.first + len(one.prints) // 16))
            parts = [world.content[at] for at in given_]
            assert all(any(part) for part in parts), "a block of zeros travels as zeros"
            assert bytes(one.data) == b"".join(parts)
            assert one.prints == b"".join(digest.fingerprint(part, SEED) for part in parts)
            assert one.digests == b"".join(digest.block(part) for part in parts)
        assert given_
        assert (given_[-1] + 1) * size <= world.known.volume.size + size - 1
        blocks += given_
    return blocks


WORLD = st.builds(
    made,
    st.lists(KINDS, min_size=1, max_size=60),
    st.sampled_from([4, 16, 20, 64]),
    st.integers(1, 64),
    st.lists(st.booleans(), min_size=60, max_size=60),
    st.integers(0, 1 << 30),
)


@settings(deadline=None, max_examples=150)
@given(WORLD, st.sampled_from([64, 256, 1 << 20]), st.sampled_from([96, 1000, 1 << 30]))
def test_a_scan_gives_every_block_that_changed_or_is_unsure_once_and_no_other(
    world: World, window: int, span: int
) -> None:
    async def main() -> None:
        changed = await taken(world.scan().changed(), world)
        assert len(changed) == len(set(changed))
        assert set(changed) == world.changed
        unsure = await taken(world.scan().unsure(), world)
        assert len(unsure) == len(set(unsure))
        assert set(unsure) == {at for at in range(len(world.content)) if at in world.known.unsure}

    with mock.patch.object(scan, "WINDOW", window), mock.patch.object(scan, "_SPAN", span):
        run(main())


@settings(deadline=None, max_examples=60)
@given(WORLD)
def test_what_was_taken_into_the_map_is_not_given_again(world: World) -> None:
    async def main() -> None:
        for found in (world.scan().changed(), world.scan().unsure()):
            async for one in found:
                if isinstance(one, scan.Blocks):
                    world.known.put(one.first, one.prints, one.digests, sure=True)
                else:
                    world.known.put_zeros(one.first, one.count, sure=True)
        assert await taken(world.scan().changed(), world) == []
        assert await taken(world.scan().unsure(), world) == []

    run(main())


def test_holes_are_never_read() -> None:
    async def main() -> None:
        world = made(["same", *["hole"] * 50, "same"], 64, 64, [True] * 60, 1)
        with mock.patch.object(world.device, "_chance", mock.Mock(randrange=lambda *_: 1 << 20, random=lambda: 0)):
            await taken(world.scan().unsure(), world)
            assert world.device.reads == [(0, 64), (51 * 64, 64)]

    run(main())


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_scan_that_is_left_leaves_nothing_running(stop: int) -> None:
    async def main() -> None:
        world = made(["same"] * 40, 64, 64, [True] * 60, 1)
        found, seen = world.scan().unsure(), 0
        async for _ in found:
            seen += 1
            if seen == stop:
                break
        await found.aclose()
        reads = len(world.device.reads)
        assert reads <= stop + 3
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(world.device.reads) == reads

    with mock.patch.object(scan, "WINDOW", 64):
        run(main())
