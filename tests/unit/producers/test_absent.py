"""A disk that is not read any more: how large its volume stays, and when it is given up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine import errors
from engine.device.memory import MemoryDevice
from engine.store.blockmap import BlockMap, MapFiles, VolumeMap
from engine.store.memory import MemoryFile
from producers.absent import Absent
from producers.image import Image, ImageSource
from producers.scan import Scan
from schemas.identity import Cut, Volume

BLOCK = 64
VDB = Volume("vdb", 3 * BLOCK, BLOCK)


def whole() -> VolumeMap:
    """A map of a disk that has travelled."""
    found = VolumeMap(VDB, MapFiles(*(MemoryFile() for _ in range(4))))
    found.baseline()
    found.put(0, b"p" * 48, b"d" * 96, sure=True)
    return found


def grown() -> VolumeMap:
    found = whole()
    found.mark_edge(5 * BLOCK)
    found.resize(5 * BLOCK)
    return found


def unknown() -> VolumeMap:
    found = whole()
    found.baseline()
    return found


def doubted() -> VolumeMap:
    found = whole()
    found.doubt(0, 3)
    return found


def absent(known: VolumeMap | None, given_up: bool = False) -> Absent:
    found = Absent("vdb", 0, given_up)
    volumes = (known.volume,) if known is not None else (VDB,)
    found.know(lambda: (volumes, BlockMap([known] if known is not None else [])))
    return found


@pytest.mark.parametrize(
    ("known", "size"),
    [(whole(), VDB.size), (doubted(), VDB.size), (None, VDB.size), (grown(), 0), (unknown(), 0)],
    ids=["whole", "some replica may lack it", "its map is not loaded yet", "it grew", "it never travelled"],
)
def test_it_is_as_large_as_it_was_left_unless_a_part_of_it_has_never_travelled(
    known: VolumeMap | None, size: int
) -> None:
    assert absent(known).size == size


def test_what_is_given_up_or_was_never_counted_holds_nothing() -> None:
    assert absent(whole(), given_up=True).size == 0
    assert Absent("vdb", 0, False).size == 0


async def test_nothing_is_found_on_it_whatever_its_map_says() -> None:
    for known in (whole(), doubted(), grown(), unknown()):
        scan = Scan(0, absent(known), known, 1)
        assert [found async for found in scan.changed()] == []
        assert [found async for found in scan.unsure()] == []


async def test_it_is_read_and_written_by_nobody() -> None:
    one = absent(whole())
    assert await one.extents(0, 64) == []
    with pytest.raises(errors.NotFound):
        await one.read(0, 1)
    with pytest.raises(errors.Usage):
        await one.zero(0, 1)
    with pytest.raises(errors.Usage):
        await one.resize(0)


async def test_a_source_is_consistent_and_unchanged_beside_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a" * BLOCK)
    images = [Image("vda", BLOCK, str(path), MemoryDevice(BLOCK)), Image("vdb", BLOCK, "", absent(whole()))]
    source = ImageSource(images, offload=asyncio.to_thread)
    assert await source.begin() == (Volume("vda", BLOCK, BLOCK), VDB)
    assert await source.cut() is Cut.CRASH
    assert await source.same()
    path.write_bytes(b"b" * BLOCK * 2)
    assert await source.cut() is Cut.NONE
    assert not await source.same()
    await source.end()
