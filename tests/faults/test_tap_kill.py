"""kill -9 of the tap at any moment: what was answered is in the spool, once, in order, for all disks."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.bus import segments
from producers.tap import identity, record, spool
from producers.tap.order import Ack
from producers.tap.record import Entry, Kind
from producers.tap.spool import Spool
from tests.support import tools
from tests.support.tapping import Tap, tapping
from tests.support.writing import Writer, number_of

DISKS = {"vda": 8 << 20, "vdb": 4 << 20}


async def killed_at_random(tap: Tap, dice: random.Random) -> list[Writer]:
    """Write to both disks at once, and kill the tap somewhere in the middle."""
    writers = [Writer(tap.order.socket, name, depth=dice.choice([1, 16])) for name in DISKS]
    running = [asyncio.ensure_future(one.run()) for one in writers]
    for one in writers:
        await one.until(dice.randrange(1, 300))
    await asyncio.sleep(dice.random() / 20)
    tap.process.kill()
    await asyncio.gather(*running)
    await asyncio.to_thread(tap.process.wait, 60)
    return writers


def found(tap: Tap, number: int) -> list[Entry]:
    """All that the spool holds from `number` on."""
    reader = Spool(tap.order.spool)
    entries, past = [], reader.ends()[1]
    while number < past:
        entries += reader.read(number, 1 << 20)
        number = entries[-1].number + 1
    reader.close()
    return entries


def check(writers: list[Writer], entries: list[Entry]) -> None:
    """One incarnation: numbers without a gap, and every answered write, in the order in which they were asked for."""
    assert entries[0].kind is Kind.BEGAN
    assert record.disks(entries[0].data) == DISKS
    assert len({entry.nonce for entry in entries}) == 1
    first = entries[0].number
    assert [entry.number for entry in entries] == list(range(first, first + len(entries)))
    for disk, writer in enumerate(writers):
        mine = [entry for entry in entries if entry.kind is Kind.WRITTEN and entry.disk == disk]
        numbers = [number_of(entry.data) for entry in mine]
        assert numbers == sorted(set(numbers))
        assert {number for number, _ in writer.answered} <= set(numbers)
        assert [entry.start for entry in mine] == [number * writer.size % writer.room for number in numbers]


@pytest.mark.parametrize("ack", [Ack.SPOOL, Ack.FSYNC])
async def test_what_was_answered_is_in_the_spool_in_order(tmp_path: Path, ack: Ack) -> None:
    dice, number, nonces = random.Random(5), 0, set()
    with tapping(tmp_path, ack, disks=DISKS) as tap:
        for _ in range(6):
            writers = await killed_at_random(tap, dice)
            spool.recover(tap.order.spool)
            entries = found(tap, number)
            check(writers, entries)
            nonces.add(entries[0].nonce)
            number = entries[-1].number + 1
            await asyncio.to_thread(tap.again)
    assert len(nonces) == 6


async def test_what_a_reader_is_shown_is_durable_and_stays(tmp_path: Path) -> None:
    """Beside a tap that writes: whatever was read once is read again, the same, after the kill."""
    with tapping(tmp_path, disks=DISKS) as tap:
        writer = Writer(tap.order.socket, depth=16)
        running = asyncio.ensure_future(writer.run())
        await writer.until(100)
        reader = Spool(tap.order.spool)
        seen = reader.read(reader.ends()[0], 1 << 30)
        while len(seen) < 2000:
            seen += reader.read(seen[-1].number + 1, 1 << 20)
            await asyncio.sleep(0.001)
        reader.close()
        tap.process.kill()
        await running
        tap.process.wait(60)
        spool.recover(tap.order.spool)
        assert found(tap, 0)[: len(seen)] == seen


def ship(reader: Spool, number: int) -> int:
    """Read from `number` on, and let go, as the daemon does; the number past all that is durable."""
    while number < reader.ends()[1]:
        entries = reader.read(number, 4 << 20)
        assert [entry.number for entry in entries] == list(range(number, number + len(entries)))
        number += len(entries)
        reader.trim(number)
    return number


async def test_a_spool_that_is_shipped_and_trimmed_takes_more_than_its_quota(tmp_path: Path) -> None:
    with tapping(tmp_path, disks=DISKS, quota=320 << 20) as tap:
        reader, number, longest = Spool(tap.order.spool), 0, 0
        for turn in range(8):
            writer = Writer(tap.order.socket, size=1 << 20)
            running = asyncio.ensure_future(writer.run())
            await writer.until(60)
            writer.going = False
            await running
            status = await asyncio.to_thread(settled, tap)
            while number < status["number"]:
                number = ship(reader, number)
            assert status["broken"] is None, f"turn {turn}"
            longest = max(longest, reader.fill())
        assert longest < 2 * segments.SEGMENT_SIZE  # space comes back by whole segments
        assert reader.ends()[0] > 0
        reader.close()


def settled(tap: Tap) -> dict[str, Any]:
    """Its status once all that was written is durable."""
    return tap.until(durable=tap.ask("status")["number"])


async def test_a_tap_that_is_told_to_end_waits_for_its_clients_and_leaves_all_durable(tmp_path: Path) -> None:
    with tapping(tmp_path, Ack.MEMORY, disks=DISKS) as tap:
        writer = Writer(tap.order.socket, depth=4)
        running = asyncio.ensure_future(writer.run())
        await writer.until(100)
        tap.process.terminate()
        await asyncio.to_thread(tap.until, ending=True)
        await writer.until(len(writer.answered) + 500)
        assert tap.process.poll() is None
        writer.going = False
        await running
        assert await asyncio.to_thread(tap.process.wait, 60) == 0
        check([writer], found(tap, 0))
        assert not tap.order.socket.exists()


async def test_a_second_word_ends_it_under_a_client(tmp_path: Path) -> None:
    with tapping(tmp_path, disks=DISKS) as tap:
        writer = Writer(tap.order.socket)
        running = asyncio.ensure_future(writer.run())
        await writer.until(20)
        tap.process.terminate()
        await asyncio.to_thread(tap.until, ending=True)
        tap.process.terminate()
        assert await asyncio.to_thread(tap.process.wait, 60) == 0
        await running
        check([writer], found(tap, 0))


async def test_a_second_tap_on_a_spool_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with tapping(tmp_path, disks=DISKS) as tap:
        second = tap._run("run")
        assert await asyncio.to_thread(second.wait, 60) == 4
        assert f"process {tap.process.pid}" in tap.log.read_text()
        writer = Writer(tap.order.socket)
        running = asyncio.ensure_future(writer.run())
        await writer.until(20)
        writer.going = False
        await running


async def test_replies_wait_for_the_bus_and_fall_to_the_spool_without_its_word(tmp_path: Path) -> None:
    with tapping(tmp_path, Ack.BUS, limit=30.0, disks=DISKS) as tap:
        writer = Writer(tap.order.socket)
        running = asyncio.ensure_future(writer.run())
        for count in range(1, 6):
            status = await asyncio.to_thread(tap.until, number=count + 1, durable=count + 1, held=1)
            assert len(writer.answered) == count - 1
            tap.ask("bus", number=status["number"])
            await writer.until(count)
        writer.going = False
        tap.ask("bus", number=(await asyncio.to_thread(tap.until, number=7, durable=7))["number"])
        await running
    with tapping(tmp_path / "deaf", Ack.BUS, limit=0.2, disks=DISKS) as tap:
        writer = Writer(tap.order.socket)
        running = asyncio.ensure_future(writer.run())
        await writer.until(50)
        status = tap.ask("status")
        assert (status["policy"], status["ordered"], status["why"]) == (
            "spool",
            "bus",
            "the bus took longer than 0.2 s",
        )
        writer.going = False
        await running


STARTER = """
import sys, time
from pathlib import Path
from producers.tap import start
process = start.start("run", Path(sys.argv[1]), Path(sys.argv[2]))
print(process.pid, flush=True)
time.sleep(3600)
"""


async def test_a_tap_outlives_who_began_it_and_is_found_again(tmp_path: Path) -> None:
    with tapping(tmp_path, disks=DISKS) as tap:
        tap.kill()
        command = (sys.executable, "-c", STARTER, str(tmp_path / "order.json"), str(tap.log))
        daemon = await asyncio.create_subprocess_exec(
            *command, cwd=tools.ROOT, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert daemon.stdout is not None
        pid = int(await daemon.stdout.readline())
        found = None
        while found is None or found.pid != pid:
            found = identity.load(tap.order.spool)
            await asyncio.sleep(0)
        os.killpg(daemon.pid, signal.SIGKILL)
        await daemon.wait()
        writer = Writer(tap.order.socket)
        await asyncio.to_thread(tap.until, pid=pid)
        running = asyncio.ensure_future(writer.run())
        await writer.until(50)
        assert found.alive()
        with found.held() as held:
            assert held is not None
            assert identity.kill(held, 60)
        await running
        assert not found.alive()


async def test_marks_stand_in_the_order_of_the_writes(tmp_path: Path) -> None:
    with tapping(tmp_path, disks=DISKS) as tap:
        writer = Writer(tap.order.socket)
        running = asyncio.ensure_future(writer.run())
        await writer.until(20)
        number = tap.ask("mark", words="READY")["number"]
        await writer.until(40)
        writer.going = False
        await running
        tap.ask("end")
        assert await asyncio.to_thread(tap.process.wait, 60) == 0
        entries = found(tap, 0)
        (mark,) = [entry for entry in entries if entry.kind is Kind.MARK]
        assert (mark.number, mark.data) == (number, b"READY")
        assert entries[number] == mark
