"""A guest's writes go on within 2 s, whatever becomes of the tap: QEMU's own mirror, and a watchdog beside the tap."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine import errors
from producers.tap import order as orders
from producers.tap import start, watchdog
from producers.tap.order import Ack
from producers.tap.spool import Spool
from tests.support import tools
from tests.support.mirror import Host
from tests.support.tapping import Tap, tapping
from tests.support.writing import Writer

MEBI = 1 << 20
LIMIT = 2.0
"""Seconds that a guest may wait because of us."""


@contextlib.asynccontextmanager
async def guest(where: Path, tap: Tap, size: int = 4096, depth: int = 1) -> AsyncIterator[tuple[Host, Writer]]:
    """A guest that writes to a disk whose mirror goes into `tap`, and has written some."""
    host = await asyncio.to_thread(Host, where / "host", tap.order.disks["vda"], "vda")
    try:
        await asyncio.to_thread(host.mirror, tap.order.socket, "none")
        await asyncio.to_thread(tap.watch)
        writer = Writer(host.socket, size=size, depth=depth)
        running = asyncio.ensure_future(writer.run())
        await writer.until(50)
        yield host, writer
        writer.going = False
        await running
        assert not writer.failed
    finally:
        host.close()


async def goes_on(writer: Writer) -> None:
    """Many more writes are answered, and none took longer than a guest may wait."""
    await writer.until(len(writer.answered) + 200)
    assert writer.longest < LIMIT


async def ended(tap: Tap) -> watchdog.Ended:
    """What the watchdog wrote down, once it has ended."""
    assert tap.watchdog is not None
    assert await asyncio.to_thread(tap.watchdog.wait, 60) == 0, tap.log.read_text()
    found = watchdog.load(tap.order.spool)
    assert found is not None
    return found


@pytest.mark.parametrize(("size", "depth"), [(4096, 1), (256 << 10, 16)], ids=["one-write", "socket-full"])
async def test_a_tap_that_is_stopped_is_killed_and_the_guest_goes_on(tmp_path: Path, size: int, depth: int) -> None:
    with tapping(tmp_path) as tap:
        async with guest(tmp_path, tap, size=size, depth=depth) as (_, writer):
            tap.process.send_signal(signal.SIGSTOP)
            await goes_on(writer)
            assert writer.longest > 0.7  # it did wait: the mirror was in its way
            found = await ended(tap)
            assert (found.pid, found.freed) == (tap.process.pid, True)
            assert "did not answer for 1 s" in found.why
            assert await asyncio.to_thread(tap.process.wait, 60) == -signal.SIGKILL


async def test_a_tap_that_is_killed_costs_the_guest_nothing(tmp_path: Path) -> None:
    with tapping(tmp_path) as tap:
        async with guest(tmp_path, tap) as (_, writer):
            tap.process.kill()
            await goes_on(writer)
            tap.process.wait(60)
            assert (await ended(tap)).why == "it ended by itself"


async def test_a_stopped_tap_without_a_client_is_left_alone_for_a_while(tmp_path: Path) -> None:
    with tapping(tmp_path) as tap:
        await asyncio.to_thread(tap.watch)
        assert tap.watchdog is not None
        tap.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3 * LIMIT / 2)
        assert tap.watchdog.poll() is None
        tap.process.send_signal(signal.SIGCONT)
        assert tap.ask("ping")["attached"] == 0


async def test_a_watchdog_that_was_stopped_itself_kills_nobody(tmp_path: Path) -> None:
    with tapping(tmp_path) as tap:
        async with guest(tmp_path, tap) as (_, writer):
            assert tap.watchdog is not None
            tap.watchdog.send_signal(signal.SIGSTOP)
            await asyncio.sleep(LIMIT)
            tap.watchdog.send_signal(signal.SIGCONT)
            await writer.until(len(writer.answered) + 500)
            assert tap.watchdog.poll() is None
            assert tap.ask("ping")["attached"] == 1


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which may be frozen: what is written to it then hangs in the kernel."""
    tools.need("mke2fs", "fsfreeze")
    image, mounted = tmp_path / "disk", tmp_path / "mounted"
    mounted.mkdir()
    image.touch()
    with open(image, "r+b") as file:
        file.truncate(256 * MEBI)
    subprocess.run((str(tools.find("mke2fs")), "-q", "-t", "ext4", str(image)), check=True)
    done = subprocess.run(("mount", "-o", "loop", str(image), str(mounted)), capture_output=True, check=False)
    if done.returncode:
        tools.forbidden(f"this machine does not let us mount a file system: {done.stderr.decode().strip()}")
    try:
        yield mounted
    finally:
        freeze(mounted, "--unfreeze")
        subprocess.run(("umount", "--lazy", str(mounted)), check=True)


def said(tap: Tap, words: str) -> None:
    """Return once the log has them."""
    deadline = time.monotonic() + 60
    while words not in tap.log.read_text():
        assert time.monotonic() < deadline, tap.log.read_text()
        time.sleep(0.01)


def freeze(where: Path, how: str = "--freeze") -> None:
    subprocess.run((str(tools.find("fsfreeze")), how, str(where)), capture_output=True, check=how == "--freeze")


@pytest.mark.parametrize("ack", [Ack.SPOOL, Ack.FSYNC])
async def test_a_spool_whose_disk_hangs_does_not_hold_the_guest(tmp_path: Path, frozen: Path, ack: Ack) -> None:
    """The tap is then in the kernel, where SIGKILL does not reach it; its connections are shut down under it."""
    with tapping(tmp_path, ack, spool=frozen / "spool") as tap:
        try:
            async with guest(tmp_path, tap) as (_, writer):
                await asyncio.to_thread(freeze, frozen)
                await goes_on(writer)
                assert writer.longest > 0.7
                await asyncio.to_thread(said, tap, "it hangs in the kernel")  # before it is written down
                await asyncio.to_thread(freeze, frozen, "--unfreeze")
                found = await ended(tap)
                assert found.freed
                assert "it hangs in the kernel, with 1 connections shut down" in found.why
        finally:
            await asyncio.to_thread(freeze, frozen, "--unfreeze")
            tap.close()
        assert tap.process.returncode == -signal.SIGKILL


SLOW = """
import os, sys, time
real = os.fdatasync
def slow(fd):
    if os.path.exists(sys.argv[2]):
        time.sleep(3600)
    real(fd)
os.fdatasync = slow
from producers.tap.__main__ import main
sys.exit(main(["run", sys.argv[1]]))
"""


def begin_slow(tap: Tap, slow: Path) -> None:
    """Instead of the tap, one whose syncs hang once the file `slow` is there."""
    tap.kill()
    command = (sys.executable, "-c", SLOW, str(tap.log.parent / "order.json"), str(slow))
    with open(tap.log, "ab") as log:
        tap.process = subprocess.Popen(command, cwd=tools.ROOT, stdout=log, stderr=log)
    tap.wait()


async def test_a_medium_that_does_not_sync_lets_the_policy_fall_to_the_spool(tmp_path: Path) -> None:
    """Only the thread that syncs hangs: the tap goes on, and says by what it answers now."""
    with tapping(tmp_path, Ack.FSYNC) as tap:
        slow = tmp_path / "slow"
        await asyncio.to_thread(begin_slow, tap, slow)
        async with guest(tmp_path, tap) as (_, writer):
            assert tap.ask("status")["policy"] == "spool-fsync"
            slow.touch()
            await goes_on(writer)
            status = tap.ask("status")
            assert (status["policy"], status["ordered"]) == ("spool", "spool-fsync")
            assert status["why"] == "the spool's medium took longer than 0.5 s"
            assert status["attached"] == {"vda": 1}
            assert tap.watchdog is not None
            assert tap.watchdog.poll() is None


async def test_a_spool_that_is_full_breaks_the_replica_and_not_the_guest(tmp_path: Path) -> None:
    with tapping(tmp_path, quota=4 * MEBI) as tap:
        async with guest(tmp_path, tap, size=64 << 10) as (_, writer):
            await goes_on(writer)
            broken = tap.until(attached={"vda": 1})["broken"]
            assert "quota" in broken["why"]
            assert writer.longest < LIMIT
            number = tap.ask("status")["number"]
            assert number == broken["number"]
        tap.ask("end")
        assert tap.process.wait(60) == 0
        spool = Spool(tap.order.spool)
        found = spool.broken()
        assert found is not None
        assert (found.number, found.why[:9]) == (broken["number"], broken["why"][:9])
        assert spool.ends() == (0, broken["number"])
        spool.close()


async def test_a_tap_does_not_begin_on_a_spool_that_is_full(tmp_path: Path) -> None:
    """Its daemon hears so, before it arms a mirror that would be broken at once."""
    with tapping(tmp_path, quota=4 * MEBI) as tap:
        writer = Writer(tap.order.socket, size=64 << 10)
        running = asyncio.ensure_future(writer.run())
        await writer.until(200)
        writer.going = False
        await running
        tap.kill()
        orders.save(tmp_path / "order.json", replace(tap.order, quota=1 * MEBI))
        again = start.start("run", tmp_path / "order.json", tap.log)
        assert await asyncio.to_thread(again.wait, 60) == errors.Full.exit_code
        assert "quota of 1048576" in tap.log.read_text()
