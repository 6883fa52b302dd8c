"""How a reader of an embedded topic learns of commits, and what waiting costs."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from engine.bus.wake import Seen, Wake
from tests.support.sim.loop import virtual

OLD = time.time_ns() - 10**10


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    file = tmp_path / "index.sqlite-wal"
    file.write_bytes(b"frames")
    os.utime(file, ns=(OLD, OLD))
    return file


def _write(wal: Path, data: bytes) -> None:
    wal.write_bytes(data)


async def _seconds(wake: Wake, seen: Seen, longest: float = 10) -> float:
    """How long `wait` waits."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await wake.wait(seen, longest)
    return loop.time() - began


@virtual
async def test_a_commit_of_this_bus_wakes_at_once(wal: Path) -> None:
    wake = Wake(wal)
    waiting = asyncio.create_task(_seconds(wake, wake.look()))
    await asyncio.sleep(0.21)
    wake.changed()
    assert await waiting == pytest.approx(0.21)


@virtual
async def test_a_commit_between_the_look_and_the_wait_is_not_missed(wal: Path) -> None:
    wake = Wake(wal)
    wake.claim(wake)
    seen = wake.look()
    wake.changed()
    assert await _seconds(wake, seen) == 0


@virtual
async def test_a_commit_of_another_process_is_seen_at_the_wal(wal: Path) -> None:
    wake = Wake(wal)
    waiting = asyncio.create_task(_seconds(wake, wake.look()))
    await asyncio.sleep(1)
    assert not waiting.done()
    _write(wal, b"frames and more")
    assert await waiting == pytest.approx(1.025, abs=0.03), "a twentieth of a second at most"


@virtual
async def test_a_commit_within_one_step_of_the_clock_is_seen_though_nothing_looks_changed(wal: Path) -> None:
    """The look comes within the same step: size and time could be those of two commits."""
    wake = Wake(wal)
    young = time.time_ns() + 10**10  # younger than a step for as long as the test may take
    os.utime(wal, ns=(young, young))
    assert await _seconds(wake, wake.look()) == pytest.approx(0.001)


@virtual
async def test_a_wal_that_goes_away_is_a_change(wal: Path) -> None:
    wake = Wake(wal)
    seen = wake.look()
    os.unlink(wal)
    assert await _seconds(wake, seen) == pytest.approx(0.001)


@virtual
async def test_the_time_to_wait_is_kept(wal: Path) -> None:
    wake = Wake(wal)
    assert await _seconds(wake, wake.look(), 0.15) == pytest.approx(0.15)


@pytest.mark.parametrize("claimed", [True, False])
@virtual
async def test_an_idle_reader_looks_twenty_times_a_second_at_most_and_never_at_its_own_writer(
    wal: Path, monkeypatch: pytest.MonkeyPatch, claimed: bool
) -> None:
    looks: list[float] = []
    look = Wake._stat

    def counted(wake: Wake) -> tuple[int, int, int] | None:
        looks.append(asyncio.get_running_loop().time())
        return look(wake)

    wake = Wake(wal)
    if claimed:
        wake.claim(wake)
    monkeypatch.setattr(Wake, "_stat", counted)
    await wake.wait(wake.look(), 10.0)
    assert len(looks) == 1 if claimed else 200 <= len(looks) <= 210


@virtual
async def test_the_release_of_the_writer_lets_readers_look_for_others(wal: Path) -> None:
    wake = Wake(wal)
    wake.claim(wake)
    waiting = asyncio.create_task(_seconds(wake, wake.look()))
    await asyncio.sleep(0.05)
    wake.release(wake)
    assert await waiting == pytest.approx(0.05)
