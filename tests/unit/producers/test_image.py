"""An image at rest: a change within a pass is never missed, be it as short after the last as the clock can tell."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from engine.device.raw import RawDevice
from producers import image
from schemas.identity import Cut


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[image.ImageSource]:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(100_000))
    device = await RawDevice.open(str(path), False)
    yield image.ImageSource([image.Image("vda", 4096, str(path), device)])
    await device.close()


def _write(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(os.urandom(100))


async def test_nothing_changed_and_the_cut_is_one(source: image.ImageSource) -> None:
    (volume,) = await source.begin()
    assert (volume.name, volume.size) == ("vda", 100_000)
    assert await source.cut() is Cut.CRASH
    await source.end()


async def test_a_change_within_the_pass_is_seen(source: image.ImageSource, tmp_path: Path) -> None:
    await source.begin()
    _write(tmp_path / "disk.img")
    assert await source.cut() is Cut.NONE
    await source.end()


async def test_a_pass_begins_only_when_the_last_change_is_older_than_the_clock_is_coarse(
    source: image.ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def newest(_paths: Sequence[str]) -> float:
        looks.append(time.time())
        return looks[-1] - (1.0 if len(looks) == 4 else 0.001)

    monkeypatch.setattr(image, "_newest", newest)
    await source.begin()
    assert len(looks) == 4, "somebody wrote while the last change grew old, and that was not looked at"
    assert looks[-1] - looks[0] >= 0.05
    await source.end()


@pytest.mark.parametrize("ahead", [0.5, 3600.0])
async def test_a_stamp_of_the_future_is_not_waited_for(source: image.ImageSource, tmp_path: Path, ahead: float) -> None:
    path = tmp_path / "disk.img"
    os.utime(path, (time.time() + ahead, time.time() + ahead))
    began = time.monotonic()
    await source.begin()
    assert time.monotonic() - began < 0.4
    _write(path)
    assert await source.cut() is Cut.NONE
    await source.end()


async def test_a_writer_who_never_stops_is_not_waited_for_ever(source: image.ImageSource, tmp_path: Path) -> None:
    path, done = tmp_path / "disk.img", threading.Event()

    def writes() -> None:
        while not done.wait(0.002):
            _write(path)

    writer = threading.Thread(target=writes)
    writer.start()
    try:
        await asyncio.wait_for(source.begin(), 10)
        await asyncio.sleep(0.05)
        assert await source.cut() is Cut.NONE
    finally:
        done.set()
        await asyncio.to_thread(writer.join)
    await source.end()
