"""Volumes that come to a replica: what is taken back of them, and what stands in their way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.store.undo import PreImage
from tests.support.targets import BLOCK, Bench, block, written


async def test_an_epoch_from_before_a_disk_came_is_applied_beside_it() -> None:
    bench = Bench((640, 640))
    bench.sizes = (640,)
    await bench.settled(written(0, block(b"a")))
    assert [one.name for one in bench.target.volumes] == ["vd0"]
    assert bench.devices[1].content() == b""
    assert len(bench.target.roots()) == 1


async def test_a_disk_whose_coming_is_taken_back_is_no_volume_and_has_no_root() -> None:
    bench = Bench((640, 640))
    bench.sizes = (640,)
    await bench.settled(written(0, block(b"a")))
    before = bench.target.volumes
    touched = await bench.begin(640, 320)
    await bench.target.apply([written(0, block(b"x"), 1), written(BLOCK, block(b"b"))], touched)
    await bench.target.restore(touched.undo_start, before)
    assert bench.target.volumes == before
    assert bench.devices[0].content()[: 2 * BLOCK] == block(b"a") + bytes(BLOCK)
    assert len(bench.target.roots()) == 1, "what is not there has no root, and must not be compared with one"


async def test_a_disk_that_comes_again_claims_nothing_of_its_first_coming() -> None:
    bench = Bench((640, 640))
    bench.sizes = (640,)
    await bench.settled(written(0, block(b"a")))
    before = bench.target.volumes
    touched = await bench.begin(640, 320)
    await bench.target.apply([written(0, block(b"x", 5), 1)], touched)
    await bench.target.restore(touched.undo_start, before)
    await bench.begin(640, 640)
    assert bench.target.leaves[1].claims.count == 0
    assert bench.target.leaves[1].volume.size == 640


async def test_what_a_volume_loses_is_kept_a_piece_at_a_time_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.block._KEPT", 3 * BLOCK)
    bench = Bench((20 * BLOCK,))
    await bench.settled(written(0, bytes(range(64)) * 20))
    before, volumes, saved = bench.device.content(), bench.target.volumes, list[int]()
    save = bench.target._save

    def noted(images: Sequence[PreImage]) -> None:
        saved.append(sum(len(one.data) for one in images))
        save(images)

    monkeypatch.setattr(bench.target, "_save", noted)
    touched = await bench.begin(0)
    assert (len(saved), sum(saved), max(saved)) == (7, 20 * BLOCK, 3 * BLOCK)
    await bench.target.fit()
    assert bench.device.content() == b""
    await bench.target.restore(touched.undo_start, volumes)
    assert bench.device.content() == before
