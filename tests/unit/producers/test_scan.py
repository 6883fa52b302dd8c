"""What a scan reads, and what it gives."""

from __future__ import annotations

import random

from engine.device.memory import MemoryDevice
from engine.store.blockmap import MapFiles, VolumeMap
from engine.store.memory import MemoryFile
from producers import scan
from schemas.extent import Ranges
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


async def test_with_a_hint_only_what_it_names_is_read() -> None:
    device, known = await filled(2)
    await know(known, device, range(2 * WINDOW))
    for block in (3, 9, 70):
        await device.write(block * BLOCK, b"x")
    hint = Ranges([(3 * BLOCK + 5, 4 * BLOCK + 1), (70 * BLOCK, 70 * BLOCK + 1), (device.size, device.size + 9)])
    found = [one async for one in scan.Scan(0, device, known, 7).changed(hint)]
    assert [(one.first, len(one.prints) // 16) for one in found if isinstance(one, scan.Blocks)] == [(3, 1), (70, 1)]
    assert device.reads == [(3 * BLOCK, 2 * BLOCK), (70 * BLOCK, BLOCK)]


async def test_with_an_empty_hint_nothing_is_read() -> None:
    device, known = await filled(1)
    await know(known, device, range(WINDOW))
    assert [one async for one in scan.Scan(0, device, known, 7).changed(Ranges())] == []
    assert device.reads == []


async def test_a_hint_that_lies_is_caught_by_a_block_that_was_looked_at() -> None:
    device, known = await filled(1)
    await know(known, device, range(20))
    await device.write(7 * BLOCK, b"x")
    one = scan.Scan(0, device, known, 7)
    assert await one.unhinted(Ranges(), range(WINDOW)) == 7
    assert await one.unhinted(Ranges([(7 * BLOCK, 7 * BLOCK + 1)]), range(WINDOW)) is None, "it is named"
    assert await one.unhinted(Ranges(), [1, 2, 3, 30]) is None, "it was not looked at; 30 was never sent"
