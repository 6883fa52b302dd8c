"""An embedded log that runs out of room: by its quota, and by the disk, at every write."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import errors
from engine.bus import segments
from engine.bus.embedded import EmbeddedBus, EmbeddedLog

TOPIC = "stream"


async def _all(bus: EmbeddedBus) -> list[bytes]:
    log = await bus.open(TOPIC)
    begin, end = await log.ends()
    found: list[bytes] = []
    while begin < end:
        entries = await log.read(begin, 1 << 20, 0)
        found += [entry.data for entry in entries]
        begin = entries[-1].offset + 1
    return found


async def test_the_quota_refuses_with_its_figures_and_the_way_out(tmp_path: Path) -> None:
    bus = EmbeddedBus(tmp_path, quota=100_000)
    log = await bus.open(TOPIC, write=True)
    await log.append([bytes(40_000)])
    await log.sync()
    await log.append([bytes(40_000)])
    await log.sync()
    with pytest.raises(errors.Full, match=r"holds 80080 bytes, and 40024 more would pass its quota of 100000.*trim"):
        await log.append([bytes(40_000)])
    with pytest.raises(errors.Transient, match="open the log again"):
        await log.append([b"small"])
    assert await _all(bus) == [bytes(40_000)] * 2
    await bus.close()


async def test_four_fifths_of_the_quota_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus = EmbeddedBus(tmp_path, quota=100_000)
    log = await bus.open(TOPIC, write=True)
    with caplog.at_level(logging.WARNING, "vmferry.bus"):
        for _ in range(9):
            await log.append([bytes(10_000)])
            await log.sync()
    assert caplog.text.count("of its quota") == 1
    await bus.close()


async def test_a_trimmed_log_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_SIZE", 30_000)
    bus = EmbeddedBus(tmp_path, quota=150_000)
    for _ in range(10):
        log = await bus.open(TOPIC, write=True)
        await log.append([bytes(20_000)] * 3)
        end = await log.sync()
        await log.trim(end)
        await log.close()
    await bus.close()


async def test_the_quota_counts_all_topics_and_what_other_processes_left(tmp_path: Path) -> None:
    first = EmbeddedBus(tmp_path)
    log = await first.open("another", write=True)
    await log.append([bytes(90_000)])
    await log.sync()
    await first.close()
    bus = EmbeddedBus(tmp_path, quota=100_000)
    log = await bus.open(TOPIC, write=True)
    with pytest.raises(errors.Full):
        await log.append([bytes(20_000)])
    await bus.close()


@contextlib.contextmanager
def _small_disk(at: Path, size: int) -> Iterator[Path]:
    at.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], check=False)
    if mounted.returncode:
        pytest.skip("a small tmpfs cannot be mounted here (needs root); the injected faults below cover the same")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


async def _fill(log: EmbeddedLog, synced: list[bytes]) -> None:
    for number in range(100):
        record = b"%08d" % number * 12_000
        await log.append([record])
        await log.sync()
        synced.append(record)


async def test_a_full_disk_loses_nothing_that_was_synced_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with _small_disk(tmp_path / "disk", 4 << 20) as disk:
        (disk / "ballast").write_bytes(bytes(1 << 20))
        bus = EmbeddedBus(disk / "log")
        log = await bus.open(TOPIC, write=True)
        synced: list[bytes] = []
        with pytest.raises(errors.Full, match="the disk has no room"):
            await _fill(log, synced)
        assert len(synced) > 5
        assert await _all(bus) == synced
        await bus.close()
        (disk / "ballast").unlink()
        bus = EmbeddedBus(disk / "log")
        log = await bus.open(TOPIC, write=True)
        await log.append([b"room again"])
        await log.sync()
        assert (await _all(bus))[: len(synced)] == synced
        assert (await _all(bus))[-1] == b"room again"
        await bus.close()


class _Fails:
    """Stands for an operation of `os`; call number `nth` fails, having done the half of it if it is a write."""

    def __init__(self, real: Callable[..., Any], code: int) -> None:
        self._real, self._code = real, code
        self.nth = -1

    def __call__(self, *arguments: Any) -> Any:
        self.nth -= 1
        if self.nth == 0:
            if self._real is os.pwritev:
                fd, views, position = arguments
                os.pwrite(fd, bytes(views[0])[: len(views[0]) // 2], position)
            raise OSError(self._code, os.strerror(self._code))
        return self._real(*arguments)


async def _is_spent(log: EmbeddedLog) -> bool:
    with pytest.raises(errors.Transient, match="open the log again"):
        await log.sync()
    return True


@pytest.mark.parametrize("nth", range(1, 8))
@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("pwritev", errno.ENOSPC, errors.Full),
        ("pwritev", errno.EIO, errors.DeviceFailed),
        ("fdatasync", errno.EIO, errors.DeviceFailed),
        ("fdatasync", errno.ENOSPC, errors.Full),
        ("fsync", errno.EIO, errors.DeviceFailed),
    ],
)
async def test_whichever_write_fails_what_was_synced_stays_and_a_new_handle_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, kind: type[errors.FerryError], nth: int
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_SIZE", 4_000)
    fault = _Fails(getattr(os, name), code)
    monkeypatch.setattr(f"engine.bus.segments.os.{name}", fault)
    fault.nth = nth
    synced: list[bytes] = []
    sent = 0
    for _ in range(3):
        bus = EmbeddedBus(tmp_path / "log")
        log = None
        try:
            log = await bus.open(TOPIC, write=True)
            for _ in range(8):
                records = [b"%06d" % number * 100 for number in range(sent, sent + 3)]
                sent += 3
                await log.append(records)
                await log.sync()
                synced += records
        except kind:
            assert log is None or await _is_spent(log)
        await bus.close()
    bus = EmbeddedBus(tmp_path / "log")
    found = await _all(bus)
    await bus.close()
    assert fault.nth <= 0, "the fault was never reached"
    assert [record for record in found if record in set(synced)] == synced
    assert set(found) <= {b"%06d" % number * 100 for number in range(sent)}


async def test_an_index_that_cannot_be_committed_promises_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.bus.index import Index

    bus = EmbeddedBus(tmp_path / "log")
    log = await bus.open(TOPIC, write=True)
    await log.append([b"one"])
    await log.sync()

    def refuse(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Index, "_add", refuse)
        await log.append([b"two"])
        with pytest.raises(errors.FerryError):
            await log.sync()
        assert await _all(bus) == [b"one"]
    await bus.close()
    bus = EmbeddedBus(tmp_path / "log")
    log = await bus.open(TOPIC, write=True)
    await log.append([b"three"])
    await log.sync()
    assert await _all(bus) == [b"one", b"two", b"three"]
    await bus.close()
