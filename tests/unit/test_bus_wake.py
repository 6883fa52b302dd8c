"""How a reader of an embedded topic learns of commits, and what waiting costs."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from engine.bus.wake import Wake

OLD = time.time_ns() - 10**10


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    file = tmp_path / "index.sqlite-wal"
    file.write_bytes(b"frames")
    os.utime(file, ns=(OLD, OLD))
    return file


def _write(wal: Path, data: bytes) -> None:
    wal.write_bytes(data)


async def test_a_commit_of_this_bus_wakes_at_once(wal: Path) -> None:
    wake = Wake(wal)
    waiting = asyncio.create_task(wake.wait(wake.look(), 10))
    await asyncio.sleep(0.2)
    wake.changed()
    await asyncio.wait_for(waiting, 0.02)


async def test_a_commit_between_the_look_and_the_wait_is_not_missed(wal: Path) -> None:
    wake = Wake(wal)
    wake.claim(self := object())
    seen = wake.look()
    wake.changed()
    await asyncio.wait_for(wake.wait(seen, 10), 0.02)
    wake.release(self)


async def test_a_commit_of_another_process_is_seen_at_the_wal(wal: Path) -> None:
    wake = Wake(wal)
    waiting = asyncio.create_task(wake.wait(wake.look(), 10))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    _write(wal, b"frames and more")
    await asyncio.wait_for(waiting, 0.2)


async def test_a_commit_within_one_step_of_the_clock_is_seen_though_nothing_looks_changed(wal: Path) -> None:
    wake = Wake(wal)
    _write(wal, b"frames")  # the look comes within the same step: size and time could be those of two commits
    await asyncio.wait_for(wake.wait(wake.look(), 10), 0.2)


async def test_a_wal_that_goes_away_is_a_change(wal: Path) -> None:
    wake = Wake(wal)
    seen = wake.look()
    await asyncio.to_thread(wal.unlink)
    await asyncio.wait_for(wake.wait(seen, 10), 0.2)


async def test_the_time_to_wait_is_kept(wal: Path) -> None:
    wake = Wake(wal)
    began = time.monotonic()
    await wake.wait(wake.look(), 0.15)
    assert 0.14 < time.monotonic() - began < 0.3


@pytest.mark.parametrize("claimed", [True, False])
async def test_fifty_idle_readers_cost_next_to_nothing(wal: Path, claimed: bool) -> None:
    wakes = [Wake(wal) for _ in range(50)]
    for wake in wakes:
        wake._pause = 0.05
        if claimed:
            wake.claim(wake)
    before = time.process_time()
    await asyncio.gather(*(wake.wait(wake.look(), 1.0) for wake in wakes))
    assert time.process_time() - before < (0.05 if claimed else 0.25)


async def test_the_release_of_the_writer_lets_readers_look_for_others(wal: Path) -> None:
    wake = Wake(wal)
    wake.claim(wake)
    waiting = asyncio.create_task(wake.wait(wake.look(), 10))
    await asyncio.sleep(0.05)
    wake.release(wake)
    await asyncio.wait_for(waiting, 0.1)
