"""What a scan reads, and what it gives."""

from __future__ import annotations

import random

from engine.device.memory import MemoryDevice
from engine.store.blockmap import MapFiles, VolumeMap
from engine.store.memory import MemoryFile
from producers import scan
from schemas.identity import Volume

BLOCK = 65536
WINDOW = scan.WINDOW // BLOCK


class Counting(MemoryDevice):
    """A device that remembers which ranges were read."""

    def __init__(self, size: int) -> None:
        super().__init__(size, BLOCK)
        self.reads: list[tuple[int, int]] = []

    async def read(self, start: int, length: int) -> bytes:
        self.reads.append((start, length))
        return await super().read(start, length)


async def filled(windows: int) -> tuple[Counting, VolumeMap]:
    device = Counting(windows * scan.WINDOW)
    await device.write(0, random.Random(1).randbytes(device.size))
    known = VolumeMap(Volume("vda", device.size, BLOCK), MapFiles(*(MemoryFile() for _ in range(4))))
    known.baseline()
    return device, known


async def know(known: VolumeMap, device: Counting, blocks: range) -> None:
    """Take these blocks into the map as they are."""
    async for found in scan.Scan(0, device, known, 7).unsure():
        assert isinstance(found, scan.Blocks)
        for at in range(len(found.prints) // 16):
            if found.first + at in blocks:
                known.put(found.first + at, found.prints[at * 16 :][:16], found.digests[at * 32 :][:32], sure=True)
    device.reads.clear()


async def test_where_nothing_is_known_nothing_is_read_for_changes() -> None:
    device, known = await filled(2)
    assert [found async for found in scan.Scan(0, device, known, 7).changed()] == []
    assert device.reads == []


async def test_what_was_not_sent_yet_is_not_read_for_changes() -> None:
    device, known = await filled(4)
    await know(known, device, range(WINDOW + 3))
    assert [found async for found in scan.Scan(0, device, known, 7).changed()] == []
    assert device.reads == [(0, scan.WINDOW), (scan.WINDOW, scan.WINDOW)]


async def test_a_known_block_that_changed_is_found_and_an_unknown_one_beside_it_is_not() -> None:
    device, known = await filled(2)
    await know(known, device, range(0, 2 * WINDOW, 2))
    await device.write(4 * BLOCK, b"x" * (2 * BLOCK))
    found = [one async for one in scan.Scan(0, device, known, 7).changed()]
    assert [(one.first, len(one.prints) // 16) for one in found if isinstance(one, scan.Blocks)] == [(4, 1)]
