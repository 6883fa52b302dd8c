"""Several processes on one embedded log: writers that are killed, or exclude each other, and readers beside them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine import errors
from engine.bus import segments
from engine.bus.appender import Appender
from engine.bus.embedded import EmbeddedBus
from engine.bus.lock import Lock
from engine.bus.opening import open_reader
from tests.support.tools import ROOT

TOPIC = "stream"

_WRITER = """
import asyncio, os, sys
from engine.bus import segments
from engine.bus.embedded import EmbeddedBus

async def main(home, first, size, segment):
    segments.SEGMENT_SIZE = segment
    log = await EmbeddedBus(home).open("stream", write=True)
    number = first
    while True:
        count = 1 + number % 7
        await log.append([b"%08d" % at + os.urandom(size) for at in range(number, number + count)])
        await log.sync()
        number += count
        os.write(1, b"%d\\n" % number)

asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
"""
_SPEAKER = """
import asyncio, sys
from engine.bus.embedded import EmbeddedBus

async def main(home, name, count):
    bus = EmbeddedBus(home)
    log = await bus.open("receipts", write=True, shared=True)
    for number in range(int(count)):
        await log.append([f"{name} {number} {part}".encode() for part in range(3)])
        await log.sync()
    await bus.close()

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def python(code: str, *arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *map(str, arguments), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    return int(await asyncio.wait_for(process.stdout.readline(), 20))


async def _numbers(bus: EmbeddedBus) -> list[int]:
    log = await bus.open(TOPIC)
    begin, end = await log.ends()
    found: list[int] = []
    while begin < end:
        entries = await log.read(begin, 1 << 20, 0)
        found += [int(entry.data[:8]) for entry in entries]
        begin = entries[-1].offset + 1
    await log.close()
    return found


async def test_whatever_a_killed_writer_had_synced_is_there_after_every_kill(tmp_path: Path) -> None:
    rng = random.Random(7)
    promised = 0
    for _ in range(8):
        async with python(_WRITER, tmp_path, promised, 3000, 100_000) as writer:
            promised = await _line(writer)
            stop = time.monotonic() + rng.uniform(0.0, 0.15)
            while time.monotonic() < stop:
                promised = await _line(writer)
            writer.send_signal(signal.SIGKILL)
            rest = (await writer.communicate())[0].split()
            promised = int(rest[-1]) if rest else promised
        bus = EmbeddedBus(tmp_path)
        found = await _numbers(bus)
        assert found[:promised] == list(range(promised))
        log = await bus.open(TOPIC, write=True)  # what was not synced and is whole may count as well
        await log.close()
        kept = await _numbers(bus)
        assert kept == list(range(len(kept)))
        assert len(kept) >= promised
        promised = len(kept)
        await bus.close()


async def test_a_second_writer_is_told_which_process_holds_the_log(tmp_path: Path) -> None:
    async with python(_WRITER, tmp_path, 0, 100, 100_000) as writer:
        await _line(writer)
        bus = EmbeddedBus(tmp_path)
        with pytest.raises(errors.InUse, match=rf"written by process {writer.pid} .*{tmp_path / TOPIC / 'lock'}"):
            await bus.open(TOPIC, write=True)
        writer.kill()
        await writer.wait()
        log = await bus.open(TOPIC, write=True)
        await log.append([b"mine now"])
        await log.sync()
        await bus.close()


async def test_a_second_writer_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    bus = EmbeddedBus(tmp_path)
    log = await bus.open(TOPIC, write=True)
    for other in (bus, EmbeddedBus(tmp_path)):
        with pytest.raises(errors.InUse, match=f"written by process {os.getpid()} "):
            await other.open(TOPIC, write=True)
    await log.close()
    await (await bus.open(TOPIC, write=True)).close()
    await bus.close()


async def test_a_reader_of_another_process_sees_every_record_in_order_and_soon(tmp_path: Path) -> None:
    bus = EmbeddedBus(tmp_path)
    log = await bus.open(TOPIC)
    seen: list[int] = []
    async with python(_WRITER, tmp_path, 0, 2000, 100_000) as writer:
        promised = await _line(writer)
        while len(seen) < 2000:
            before = time.monotonic()
            entries = await log.read(len(seen), 64 << 10, 5)
            assert entries, "nothing new from a writer that never rests"
            assert time.monotonic() - before < 2
            seen += [int(entry.data[:8]) for entry in entries]
        assert promised <= len(seen)
    assert seen == list(range(len(seen)))
    await bus.close()


async def test_a_waiting_reader_wakes_within_a_tenth_of_a_second_of_another_bus(tmp_path: Path) -> None:
    reading, writing = EmbeddedBus(tmp_path), EmbeddedBus(tmp_path)
    writer = await writing.open(TOPIC, write=True)
    reader = await reading.open(TOPIC)
    delays = []
    for number in range(8):
        waiting = asyncio.create_task(reader.read(number, 1 << 20, 10))
        await asyncio.sleep(0.15)
        await writer.append([b"%d" % number])
        await writer.sync()
        synced = time.monotonic()
        assert (await waiting)[0].data == b"%d" % number
        delays.append(time.monotonic() - synced)
    assert sorted(delays)[2] < 0.1, "the machine may be busy now and then, not each time"
    await reading.close()
    await writing.close()


async def test_processes_that_share_a_topic_lose_and_mix_nothing(tmp_path: Path) -> None:
    bus = EmbeddedBus(tmp_path)
    log = await bus.open("receipts")
    async with python(_SPEAKER, tmp_path, "a", 40) as a, python(_SPEAKER, tmp_path, "b", 40) as b:
        assert [await a.wait(), await b.wait()] == [0, 0]
    said = [entry.data.decode() for entry in await log.read(0, 1 << 20, 1)]
    for name in "ab":
        mine = [line for line in said if line.startswith(name)]
        assert mine == [f"{name} {number} {part}" for number in range(40) for part in range(3)]
    assert len(said) == 240
    assert all(said[at].split()[:2] == said[at + 2].split()[:2] for at in range(0, 240, 3)), "a sync was cut in two"
    await bus.close()


async def test_a_speaker_that_was_killed_does_not_keep_others_from_the_shared_topic(tmp_path: Path) -> None:
    for number in range(5):
        async with python(_SPEAKER, tmp_path, f"k{number}", 100_000) as speaker:
            await asyncio.sleep(0.4)
            speaker.kill()
    bus = EmbeddedBus(tmp_path)
    log = await bus.open("receipts", write=True, shared=True)
    await log.append([b"last words"])
    end = await log.sync()
    assert (await log.read(end - 1, 100, 0))[0].data == b"last words"
    await bus.close()


async def test_a_shared_log_waits_its_turn_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.bus.opening._PATIENCE_SHARED", 0.05)
    bus = EmbeddedBus(tmp_path)
    shared = await bus.open(TOPIC, write=True, shared=True)
    alone = await bus.open(TOPIC, write=True)
    await shared.append([b"x"])
    with pytest.raises(errors.InUse):
        await shared.sync()
    await alone.close()
    await bus.close()


async def test_a_trimmed_log_gives_its_segments_back_while_others_read_and_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_SIZE", 10_000)
    bus, other = EmbeddedBus(tmp_path), EmbeddedBus(tmp_path)
    log, reader = await bus.open(TOPIC, write=True), await other.open(TOPIC)
    for number in range(50):
        await log.append([b"%08d" % number * 200])
        await log.sync()
        assert (await reader.read(number, 1, 5))[0].data == b"%08d" % number * 200
        await reader.trim(max(0, number - 10))
    assert await reader.ends() == (39, 50)
    assert len(segments.firsts(tmp_path / TOPIC)) <= 4
    with pytest.raises(errors.OffsetGone):
        await reader.read(38, 1, 0)
    await bus.close()
    await other.close()


def test_a_reader_of_a_new_topic_waits_for_the_writer_that_puts_it_right_and_keeps_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    lock.acquire(0)
    threading.Timer(0.5, lambda: Appender(tmp_path).close()).start()
    reader = open_reader(TOPIC, tmp_path)
    assert reader.read(0, 100) == []
    reader.close()
    lock.close()


async def test_a_reader_sees_what_comes_after_others_of_its_process_have_looked_and_gone(tmp_path: Path) -> None:
    """Whoever opens the index beside it must not let go of its locks: the next writer to end would remove its WAL."""
    await _speak(tmp_path, "first")
    reader = await EmbeddedBus(tmp_path).open("receipts")
    seen = len(await reader.read(0, 1 << 20, 0))
    for name in ("second", "third"):
        other = EmbeddedBus(tmp_path)
        assert (await (await other.open("receipts")).ends())[1] == seen
        await other.close()
        await _speak(tmp_path, name)
        found = await reader.read(seen, 1 << 20, 5)
        assert [one.data for one in found] == [
            f"{name} {number} {part}".encode() for number in range(2) for part in range(3)
        ]
        seen += len(found)
    await reader.close()


async def _speak(home: Path, name: str) -> None:
    """Six receipts, by a process that ends in order."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SPEAKER, str(home), name, "2", env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert await process.wait() == 0
