"""The tap seen from the daemon that keeps it: with real taps, real watchdogs, and daemons that are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from engine import errors
from producers.tap import order as orders
from producers.tap.order import Ack
from producers.tap.writer import STRIDE
from tests.support.keeping import (
    DISKS,
    daemon,
    files,
    found,
    keeping,
    kill,
    kill_tap,
    links,
    made,
    processes,
    sockets,
    until,
    watchdog,
    writes,
    written,
)
from tests.support.writing import Writer


async def test_a_tap_is_begun_once_and_found_again_by_the_next_daemon(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        assert not await keeper.begin(DISKS)
        before = await until(keeper, lambda status: status.watched)
        writer = Writer(keeper.socket)
        running = asyncio.ensure_future(writer.run())
        await writer.until(20)
        assert await keeper.begin(DISKS)
        await keeper.close()
        # The mirror is attached all the time, and nobody keeps the tap.
        await writer.until(len(writer.answered) + 20)
        async with keeping(tmp_path) as second:
            assert await second.begin(DISKS, quota=1 << 30)
            after = await second.status()
            assert (after.pid, after.incarnation) == (before.pid, before.incarnation)
            assert after.attached == {"vda": 1, "vdb": 0}
            assert after.quota == before.quota, "it keeps what it was begun with"
            await writer.until(len(writer.answered) + 20)
            writer.going = False
            await running
            assert writes(await found(second)) == list(range(len(writer.answered)))


async def test_a_daemon_that_is_killed_leaves_its_tap_and_takes_it_up_again(tmp_path: Path) -> None:
    keeper = made(tmp_path)
    async with daemon(tmp_path) as (_, said, first):
        assert said == "begun"
    writer = Writer(keeper.socket)
    running = asyncio.ensure_future(writer.run())
    for _ in range(3):
        async with daemon(tmp_path) as (process, said, pid):
            assert (said, pid) == ("found", first)
            await writer.until(len(writer.answered) + 20)
            os.killpg(process.pid, signal.SIGTERM)  # as a manager does that ends a group
            await process.wait()
        await writer.until(len(writer.answered) + 20)
    async with keeping(tmp_path) as last:
        assert await last.begin(DISKS)
        status = await until(last, lambda status: status.watched)
        assert status.pid == first
        writer.going = False
        await running
        assert not writer.failed
    await keeper.close()


async def test_a_tap_has_no_descriptor_of_its_daemon(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        read, write = os.pipe()
        os.set_inheritable(write, True)
        await keeper.begin(DISKS)
        pid = (await keeper.status()).pid
        ours, its = links("self"), links(pid)
        os.close(write)
        assert await asyncio.to_thread(os.read, read, 1) == b"", "nobody else has the other end"
        os.close(read)
        lock = str(tmp_path / "home" / "lock")
        assert lock in ours
        assert lock not in its


async def test_other_disks_or_answers_want_another_tap(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        pids = []
        for disks, ack in ((DISKS, Ack.SPOOL), ({"vda": 16 << 20}, Ack.SPOOL), ({"vda": 16 << 20}, Ack.FSYNC)):
            assert not await keeper.begin(disks, ack)
            assert await keeper.begin(disks, ack)
            status = await keeper.status()
            assert (status.disks, status.ordered) == (disks, ack.value)
            pids.append(status.pid)
        assert len(set(pids)) == 3
        assert len(processes(tmp_path, "run")) == 1
        numbers = [entry.number for entry in await found(keeper)]
        assert numbers == [0, STRIDE, 2 * STRIDE]


async def test_a_tap_that_is_ending_is_not_gone_on_with(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        writer = Writer(keeper.socket)
        running = asyncio.ensure_future(writer.run())
        await writer.until(5)
        before = await keeper.status()
        os.kill(before.pid, signal.SIGTERM)
        await until(keeper, lambda status: status.ending)
        assert not await keeper.begin(DISKS)
        assert (await keeper.status()).pid != before.pid
        await running


async def test_a_tap_of_a_newer_version_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        pid = (await keeper.status()).pid
        monkeypatch.setattr("producers.tap.running.CONTROL_VERSION", 0)
        with pytest.raises(errors.Newer, match="web-1"):
            await keeper.begin(DISKS)
        with pytest.raises(errors.Newer):
            await keeper.status()
        monkeypatch.undo()
        assert (await keeper.status()).pid == pid


async def test_a_watchdog_that_was_killed_is_back_after_the_next_check(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        first = watchdog(tmp_path)
        await kill(first)
        assert not (await keeper.status()).watched
        assert await keeper.check()
        assert (await keeper.status()).watched
        second = watchdog(tmp_path)
        assert second not in (None, first)
        assert await keeper.check()
        assert watchdog(tmp_path) == second


async def test_a_tap_that_hangs_is_ended_by_its_watchdog_which_status_tells(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        writer = Writer(keeper.socket)
        running = asyncio.ensure_future(writer.run())
        await writer.until(20)
        pid = (await keeper.status()).pid
        os.kill(pid, signal.SIGSTOP)
        await running
        status = await until(keeper, lambda status: not status.alive and status.ended is not None)
        assert status.ended is not None
        assert status.ended.pid == pid
        assert "did not answer" in status.ended.why
        assert not await keeper.begin(DISKS)


async def test_a_tap_that_hangs_unwatched_is_watched_before_it_is_waited_for(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        await kill(watchdog(tmp_path))
        writer = Writer(keeper.socket)
        running = asyncio.ensure_future(writer.run())
        await writer.until(20)
        pid = (await keeper.status()).pid
        os.kill(pid, signal.SIGSTOP)
        assert not await keeper.begin(DISKS)
        await running
        ended = (await keeper.status()).ended
        assert ended is not None
        assert (ended.pid, ended.freed) == (pid, True)


async def test_a_tap_that_hangs_without_a_watchdog_is_ended_by_end(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        await kill(watchdog(tmp_path))
        os.kill((await keeper.status()).pid, signal.SIGSTOP)
        with pytest.raises(errors.Transient):
            await keeper.mark("nobody hears it")
        await keeper.end()
        assert not processes(tmp_path)


async def test_the_end_leaves_no_process_and_no_socket_and_discard_no_file(tmp_path: Path) -> None:
    keeper = made(tmp_path)
    await keeper.end()  # of nothing
    await keeper.begin(DISKS)
    await until(keeper, lambda status: status.watched)
    await written(keeper, 20)
    assert len(processes(tmp_path)) == 2
    with pytest.raises(errors.InUse, match="runs still"):
        await keeper.discard()
    for _ in range(2):
        await keeper.end()
        assert not processes(tmp_path)
        assert not sockets(tmp_path)
    assert writes(await found(keeper)) != []
    for _ in range(2):
        await keeper.discard()
        assert files(tmp_path) == ["sockets"]
    await keeper.close()
    await keeper.close()


async def test_what_a_killed_daemon_and_a_killed_tap_left_is_ended(tmp_path: Path) -> None:
    async with daemon(tmp_path):
        await kill_tap(tmp_path)
    async with keeping(tmp_path) as keeper:
        await keeper.end()
        assert not processes(tmp_path)
        assert not sockets(tmp_path)
        await keeper.discard()
        assert files(tmp_path) == ["sockets"]


async def test_a_second_keeper_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        pid = (await keeper.status()).pid
        second = made(tmp_path)
        for call in (second.begin({"vda": 1 << 20}), second.end(), second.discard()):
            with pytest.raises(errors.InUse, match=f"web-1 is held by process {os.getpid()}"):
                await call
        await second.close()
        assert (await keeper.status()).pid == pid
        await written(keeper, 5)


async def test_two_that_begin_at_once_make_one_tap(tmp_path: Path) -> None:
    keepers = [made(tmp_path) for _ in range(4)]
    ended = await asyncio.gather(*(one.begin(DISKS) for one in keepers), return_exceptions=True)
    assert [one for one in ended if not isinstance(one, errors.InUse)] == [False]
    assert len(processes(tmp_path, "run")) == 1
    (first,) = [one for one, what in zip(keepers, ended, strict=True) if what is False]
    await first.end()
    for one in keepers:
        await one.close()


async def test_a_tap_that_cannot_begin_says_why_and_leaves_none(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        (tmp_path / "sockets").rmdir()
        with pytest.raises(errors.FerryError, match=r"web-1 could not begin.*sockets"):
            await keeper.begin(DISKS)
        assert not processes(tmp_path)
        (tmp_path / "sockets").mkdir()
        with pytest.raises(errors.Usage, match="no group with the number"):
            await keeper.begin(DISKS, group=4_000_000_000)
        with pytest.raises(errors.Usage, match="names and sizes"):
            await keeper.begin({})
        with pytest.raises(errors.Full):
            await keeper.begin(DISKS, quota=1)
        assert not await keeper.begin(DISKS)


async def test_an_order_that_was_lost_wants_another_tap(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        (tmp_path / "home" / "order.json").write_text(json.dumps({"version": orders.VERSION}))
        assert not await keeper.begin(DISKS)
        assert await keeper.begin(DISKS)
