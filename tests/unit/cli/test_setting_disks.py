"""`replicate` has one disk: it does not take a stream of several apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import errors, places
from engine.cli import setting
from engine.registry import Disk, Registry, Stream

UUID = "0e2c1b7a-58a3-4c1c-9d36-7d2a7a1f0f01"


async def test_a_stream_of_several_disks_is_left_to_the_daemons(tmp_path: Path) -> None:
    where = places.Places(tmp_path / "state")
    images = [tmp_path / "a", tmp_path / "b"]
    for image in images:
        image.write_bytes(bytes(4096))
    disks = tuple(Disk(f"vd{image.name}", str(image), "raw", 512) for image in images)
    Registry(where).save(Stream(UUID, "web", "log:/x", disks))
    with pytest.raises(errors.Usage, match="a is a disk of stream web, which has several: the daemons replicate those"):
        await setting.pair(where, setting.Wanted(str(images[0]), str(tmp_path / "replica")))
    pair = await setting.pair(where, setting.Wanted(str(images[1]), str(tmp_path / "replica")))
    assert pair.new, "a stream is known by its first disk: another one may be a stream of its own"
    assert Registry(where).find(UUID).disks == disks
