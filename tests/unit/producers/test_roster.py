"""The numbers of a stream's disks: kept whatever its config says, and given to each that is new."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import errors, registry
from engine.daemon.config import StreamConfig
from producers import roster


@pytest.fixture
def images(tmp_path: Path) -> dict[str, str]:
    for name in "abcd":
        (tmp_path / name).write_bytes(bytes(4096))
    return {name: str(tmp_path / name) for name in "abcd"}


def disk(name: str, path: str, block_size: int = 512) -> registry.Disk:
    return registry.Disk(name, path, "raw", block_size, 1, 2)


async def numbered(before: tuple[registry.Disk, ...], **wanted: str) -> list[tuple[str, str]]:
    found = await roster.disks(StreamConfig("web", tuple(wanted.items())), before)
    return [(one.name, one.path) for one in found]


async def test_a_first_time_has_the_order_of_the_config(images: dict[str, str]) -> None:
    found = await roster.disks(StreamConfig("web", (("vdb", images["b"]), ("vda", images["a"])), block_size=4096), ())
    assert found == tuple(registry.Disk(name, images[name[2]], "raw", 4096) for name in ("vdb", "vda"))


async def test_what_was_there_keeps_its_number_and_what_is_new_comes_last(images: dict[str, str]) -> None:
    before = disk("vdb", images["b"]), disk("vda", images["a"])
    found = await numbered(before, vdc=images["c"], vda=images["a"], vdb=images["b"])
    assert found == [("vdb", images["b"]), ("vda", images["a"]), ("vdc", images["c"])]


async def test_what_is_taken_out_has_no_path_and_may_come_back(images: dict[str, str]) -> None:
    before = disk("vda", images["a"]), disk("vdb", images["b"]), disk("vdc", images["c"])
    out = await roster.disks(StreamConfig("web", (("vda", images["a"]), ("vdc", images["c"]))), before)
    assert [one.path for one in out] == [images["a"], "", images["c"]]
    assert await numbered(out, vda=images["a"], vdb=images["d"]) == [
        ("vda", images["a"]), ("vdb", images["d"]), ("vdc", ""),
    ]  # fmt: skip


async def test_a_disk_that_was_never_there_cannot_be_given_up(images: dict[str, str]) -> None:
    assert await numbered((disk("vda", images["a"]),), vda=images["a"], old="") == [("vda", images["a"])]


async def test_blocks_stay_as_large_as_they_were_and_an_image_elsewhere_is_looked_at(images: dict[str, str]) -> None:
    before = (disk("vda", images["a"]),)
    (found,) = await roster.disks(StreamConfig("web", (("vda", images["b"]),), block_size=4096), before)
    assert (found.path, found.block_size, found.format) == (images["b"], 512, "raw")
    with pytest.raises(errors.NotFound):
        await roster.disks(StreamConfig("web", (("vda", f"{images['a']}-not"),)), before)


async def test_a_disk_keeps_its_name(images: dict[str, str]) -> None:
    with pytest.raises(errors.Usage, match="is vda of stream web, and keeps that name: not sda"):
        await numbered((disk("vda", images["a"]),), sda=images["a"])
