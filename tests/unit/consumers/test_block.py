"""The bytes of a replica: what is kept before a write, what it costs, and what a look at the medium finds."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from consumers.block import Target
from engine import digest, errors
from engine.device.memory import MemoryDevice
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from engine.store.undo import PreImage, UndoLog
from schemas import events
from schemas.extent import Extent
from schemas.identity import Volume
from tests.support.targets import BLOCK, Bench, Change, Noted, block, written, zeroed

# -- pre-images --------------------------------------------------------------------------------------------------------


async def test_pre_images_are_durable_before_the_first_byte_is_written() -> None:
    bench = Bench((640, 640))
    await bench.settled(written(0, block(b"a", 4)), written(0, block(b"b", 4), 1))
    await bench.apply(written(0, block(b"c", 2)), zeroed(64, 128, 1))
    media = [one for one in bench.order if "digests" not in one and "claims" not in one]
    assert media == ["write undo", "sync undo", "write device0", "write device1"]


async def test_nothing_is_written_when_the_pre_images_find_no_room() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 4)))
    before = bench.device.content()
    bench.target.undo.quota = 100
    with pytest.raises(errors.Full, match="undo log needs"):
        await bench.apply(written(0, block(b"c", 2)))
    assert bench.device.content() == before
    assert not [one for one in bench.order if one.startswith("write device")]


async def test_a_block_is_kept_once_in_an_epoch_and_again_in_the_next() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 4)))
    touched = await bench.apply(written(64, block(b"b")))
    await bench.target.apply([written(64, block(b"c")), written(0, block(b"d", 3))], touched)
    assert [(one.first, one.data) for one in bench.images()] == [
        (1, block(b"a")), (0, block(b"a")), (2, block(b"a")),
    ]  # fmt: skip
    await bench.apply(written(64, block(b"e")))
    assert bench.images()[-1].data == block(b"d")


async def test_what_stands_in_one_batch_is_kept_once() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 4)))
    await bench.apply(written(0, block(b"b", 2)), written(64, block(b"c", 2)), zeroed(0, 256))
    assert [(one.first, one.count) for one in bench.images()] == [(0, 4)]


async def test_the_pre_image_of_holes_costs_a_few_bytes_however_many_there_are() -> None:
    bench = Bench((1 << 20,))
    touched = await bench.apply(written(0, block(b"a", 1 << 14)))
    assert bench.target.undo.used == 40
    assert bench.images() == [PreImage(0, 0, 1 << 14, False)]
    assert bench.device.reads == []
    assert touched.size == 1 << 20


async def test_holes_beside_data_are_kept_apart_in_whole_blocks() -> None:
    bench = Bench()
    await bench.settled(zeroed(0, 640), written(2 * BLOCK, block(b"a")), written(5 * BLOCK + 16, b"x" * 16))
    await bench.apply(zeroed(0, 640))
    assert [(one.first, one.count, one.data) for one in bench.images()] == [
        (0, 2, b""), (2, 1, block(b"a")), (3, 2, b""), (5, 1, bytes(16) + b"x" * 16 + bytes(32)), (6, 4, b""),
    ]  # fmt: skip


async def test_claimed_and_unclaimed_neighbours_are_kept_apart_with_their_digests() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 2)), written(2 * BLOCK + 16, b"x" * 16))
    await bench.apply(zeroed(0, 4 * BLOCK))
    a = digest.block(block(b"a"))
    assert [(one.first, one.count, one.claimed, one.digests) for one in bench.images()] == [
        (0, 2, True, a + a), (2, 1, False, bytes(32)), (3, 1, False, b""),
    ]  # fmt: skip


async def test_content_that_is_there_already_needs_no_pre_image() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 4)), zeroed(4 * BLOCK, 2 * BLOCK))
    await bench.apply(written(0, block(b"a", 2) + block(b"b") + block(b"a")), written(4 * BLOCK, bytes(BLOCK)))
    assert [(one.first, one.count) for one in bench.images()] == [(2, 1)]
    assert bench.device.content() == block(b"a", 2) + block(b"b") + block(b"a") + bytes(6 * BLOCK)


async def test_content_that_nobody_proved_needs_its_pre_image() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a")))
    bench.leaves.unclaim(0, 1)
    await bench.apply(written(0, block(b"a")))
    assert [(one.first, one.data, one.claimed) for one in bench.images()] == [(0, block(b"a"), False)]


async def test_a_part_of_a_block_needs_a_pre_image_whatever_its_digest() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a")))
    await bench.apply(events.Written(0, 0, digest.block(block(b"a")), b"x" * 16))
    assert [one.data for one in bench.images()] == [block(b"a")]


async def test_data_that_lies_about_being_what_is_there_is_found_and_taken_back() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a")))
    touched = await bench.apply(events.Written(0, 0, digest.block(block(b"a")), block(b"b")))
    await bench.target.flush()
    with pytest.raises(errors.Divergence):
        await bench.target.read_back([touched])
    await bench.target.restore(touched.undo_start, bench.target.volumes)
    assert bench.device.content()[:BLOCK] == block(b"a")
    assert bench.leaves.matches(0, digest.block(block(b"a")))


# -- claims ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "claimed"),
    [
        (written(64, block(b"a", 2)), [1, 2]),
        (written(600, b"x" * 20), []),
        (written(576, b"x" * 44), [9]),
        (written(576, b"x" * 43), []),
        (written(65, block(b"a", 2)), []),
        (zeroed(64, 128), [1, 2]),
        (zeroed(65, 190), [2]),
        (zeroed(0, 63), []),
        (zeroed(1, 63), []),
        (zeroed(570, 50), [9]),
        (zeroed(0, 620), list(range(10))),
    ],
    ids=str,
)
async def test_only_blocks_that_are_covered_whole_are_claimed(change: Change, claimed: list[int]) -> None:
    bench = Bench((620,))
    await bench.apply(change)
    assert bench.claimed() == claimed


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (written(70, b"x"), [1]),
        (written(127, b"xx"), [1, 2]),
        (written(65, block(b"b", 2)), [1, 2, 3]),
        (zeroed(70, 1), [1]),
        (zeroed(100, 100), [1, 3]),
        (zeroed(619, 1), [9]),
    ],
    ids=str,
)
async def test_a_write_to_a_part_of_a_block_ends_its_claim(change: Change, lost: list[int]) -> None:
    bench = Bench((620,))
    await bench.settled(written(0, b"a" * 620))
    await bench.apply(change)
    assert [at for at in range(10) if at not in bench.claimed()] == lost


async def test_taking_back_a_ragged_write_over_an_equal_block_may_cost_a_claim_and_never_a_byte() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 2)))
    touched = await bench.apply(written(0, block(b"a") + b"b"))
    await bench.target.restore(touched.undo_start, bench.target.volumes)
    assert bench.device.content()[:128] == block(b"a", 2)
    assert bench.claimed() == [1]


async def test_a_volume_that_is_new_claims_nothing_whatever_its_files_say() -> None:
    bench = Bench()
    files: list[MemoryFile] = [MemoryFile(), MemoryFile()]
    Leaves(Volume("vd0", 640, BLOCK), files[0], files[1]).zero(0, 10)
    bench.target = Target(bench.devices, UndoLog(bench.undo), lambda _, volume: Leaves(volume, files[0], files[1]))
    await bench.begin()
    assert bench.claimed() == []


async def test_another_number_of_volumes_is_refused() -> None:
    bench = Bench()
    with pytest.raises(errors.Usage, match="its source has 2 disks by now, this replica 1: vd1 not yet"):
        await bench.begin(64, 64)


# -- the medium --------------------------------------------------------------------------------------------------------


async def test_every_device_and_all_digests_are_flushed() -> None:
    bench = Bench((640, 640, 640))
    await bench.settled(*(written(0, block(b"a"), at) for at in range(3)))
    await bench.target.flush()
    assert bench.order == [
        "flush device0", "flush device1", "flush device2",
        "sync digests0", "sync claims0", "sync digests1", "sync claims1", "sync digests2", "sync claims2",
    ]  # fmt: skip


async def test_what_is_read_back_comes_from_the_medium_and_not_from_a_cache() -> None:
    bench = Bench()
    touched = await bench.apply(written(0, block(b"a", 3)), written(5 * BLOCK, block(b"b")))
    bench.order.clear()
    bench.device.reads.clear()
    await bench.target.read_back([touched])
    assert bench.order == ["evict device0", "evict device0"]
    assert bench.device.reads == [(0, 3 * BLOCK), (5 * BLOCK, BLOCK)]


@pytest.mark.parametrize("dropped", [0, 128, 320])
async def test_a_write_that_the_medium_dropped_is_found_and_named(dropped: int) -> None:
    bench = Bench()
    bench.device.drops = lambda start: start == dropped
    changes = [written(0, block(b"a")), written(128, b"x" * 20), written(320, block(b"c", 2))]
    touched = await bench.apply(*changes)
    said = rf"volume vd0: bytes {dropped} to \d+ read back from the medium are not what was written \(BLAKE3 "
    with pytest.raises(errors.Divergence, match=said):
        await bench.target.read_back([touched])


async def test_zeros_that_are_not_are_found_and_named() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 10)))
    bench.device.drops = lambda start: start == 64
    touched = await bench.apply(zeroed(64, 200))
    said = "volume vd0: bytes 64 to 264 read back from the medium are not what was written (zeros wanted)"
    with pytest.raises(errors.Divergence, match=re.escape(said)):
        await bench.target.read_back([touched])


async def test_zeros_that_the_medium_stores_as_data_are_zeros() -> None:
    class Thick(Noted):
        async def extents(self, start: int, length: int) -> Sequence[Extent]:
            return [Extent(start, length)]

    bench = Bench()
    bench.devices[0] = Thick("device0", 0, bench.order)
    touched = await bench.apply(zeroed(64, 200))
    await bench.target.read_back([touched])


async def test_of_several_writers_of_a_byte_the_last_one_counts() -> None:
    bench = Bench()
    first = await bench.apply(written(0, block(b"a", 4)), zeroed(0, 128), written(0, block(b"b")))
    second = await bench.apply(zeroed(128, 128), written(128, block(b"c")), written(192, b"d" * 16))
    await bench.target.read_back([first, second])
    assert bench.device.content()[:256] == block(b"b") + bytes(64) + block(b"c") + b"d" * 16 + bytes(48)
    bench.device._cache[64] = 1
    with pytest.raises(errors.Divergence, match="bytes 64 to 128"):
        await bench.target.read_back([first, second])


async def test_what_the_open_epoch_wrote_since_is_not_held_against_the_sealed_one() -> None:
    bench = Bench()
    sealed = await bench.apply(written(0, block(b"a", 4)), zeroed(256, 256))
    opened = await bench.apply(written(64, block(b"b")), written(300, b"x"))
    await bench.target.read_back([sealed], opened)
    with pytest.raises(errors.Divergence):
        await bench.target.read_back([sealed])


async def test_what_was_restored_is_read_back_too() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 2)))
    touched = await bench.apply(written(0, block(b"b")), zeroed(64, 64), written(256, block(b"c")))
    bench.device.drops = lambda start: start == 0
    await bench.target.restore(touched.undo_start, bench.target.volumes)
    with pytest.raises(errors.Divergence, match="bytes 0 to 64"):
        await bench.target.read_back([])


async def test_what_was_read_back_is_not_looked_for_again() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 2)))
    touched = await bench.apply(written(0, block(b"b")))
    await bench.target.restore(touched.undo_start, bench.target.volumes)
    await bench.target.read_back([])
    bench.device.reads.clear()
    await bench.target.read_back([])
    assert bench.device.reads == []


async def test_a_device_that_is_smaller_than_its_volume_is_found() -> None:
    bench = Bench()
    touched = await bench.apply(written(0, block(b"a")))
    await MemoryDevice.resize(bench.device, 600)
    with pytest.raises(errors.Divergence, match="volume vd0: 600 bytes, 640 were to be there"):
        await bench.target.read_back([touched])


# -- sizes -------------------------------------------------------------------------------------------------------------


async def test_it_grows_when_an_epoch_opens_and_shrinks_only_when_it_is_told() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a", 10)))
    await bench.begin(700)
    assert bench.device.size == 700
    touched = await bench.begin(100)
    assert bench.device.size == 700
    assert bench.target.volumes[0].size == 100
    await bench.target.apply([written(64, b"b" * 36)], touched)
    await bench.target.fit()
    assert bench.device.content() == block(b"a") + b"b" * 36


async def test_what_a_smaller_size_cuts_off_is_kept_first_and_comes_back() -> None:
    bench = Bench((620,))
    await bench.settled(written(0, b"a" * 620))
    volumes, before = bench.target.volumes, bench.device.content()
    touched = await bench.begin(100)
    assert [(one.first, one.count) for one in bench.images()] == [(1, 9)]
    assert bench.order[:2] == ["write undo", "sync undo"]
    await bench.target.apply([zeroed(64, 36)], touched)
    assert len(bench.images()) == 1, "the edge was kept already"
    await bench.target.fit()
    assert bench.device.size == 100
    await bench.target.restore(touched.undo_start, volumes)
    assert bench.device.content() == before
    assert bench.claimed() == list(range(10))


async def test_a_device_of_fixed_size_is_left_as_it_is() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a")))
    bench.device.fixed = True
    await bench.begin(100)
    await bench.target.fit()
    assert bench.device.size == 640


async def test_a_fixed_device_that_is_too_small_is_refused() -> None:
    bench = Bench()
    await bench.settled(written(0, block(b"a")))
    bench.device.fixed = True
    with pytest.raises(errors.Usage, match="a device of 640 bytes cannot become one of 641"):
        await bench.begin(641)
