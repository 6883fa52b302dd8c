"""An image at rest: a change within a pass is never missed, be it as short after the last as the clock can tell."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

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
    """Somebody writes while the last change grows old, three times: that is looked at."""
    looks: list[float] = []

    def newest(_paths: Sequence[str]) -> float:
        looks.append(time.monotonic())
        return 999.0 if len(looks) == 4 else 999.999

    monkeypatch.setattr(image, "_newest", newest)
    monkeypatch.setattr(image, "time", SimpleNamespace(time=lambda: 1000.0))
    await source.begin()
    assert len(looks) == 4
    assert looks[-1] - looks[0] >= 0.05
    await source.end()


@pytest.mark.parametrize("ahead", [0.5, 3600.0])
async def test_a_stamp_of_the_future_is_not_waited_for(
    source: image.ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    path, looks = tmp_path / "disk.img", []
    look = image._newest

    def newest(paths: Sequence[str]) -> float:
        looks.append(paths)
        return look(paths)

    now = time.time()
    os.utime(path, (now + ahead, now + ahead))
    monkeypatch.setattr(image, "_newest", newest)
    monkeypatch.setattr(image, "time", SimpleNamespace(time=lambda: now))
    await source.begin()
    assert len(looks) == 1
    _write(path)
    assert await source.cut() is Cut.NONE
    await source.end()


async def test_a_writer_who_never_stops_is_not_waited_for_ever(source: image.ImageSource, tmp_path: Path) -> None:
    path, done, again = tmp_path / "disk.img", threading.Event(), threading.Event()

    def writes() -> None:
        while not done.wait(0.03):  # longer than a step of the file system's clock
            _write(path)
            again.set()

    writer = threading.Thread(target=writes)
    writer.start()
    try:
        await source.begin()
        for _ in range(2):
            again.clear()
            assert await asyncio.to_thread(again.wait, 60)
        assert await source.cut() is Cut.NONE
    finally:
        done.set()
        await asyncio.to_thread(writer.join)
    await source.end()
