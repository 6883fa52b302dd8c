"""The spool of a tap that is kept: read and trimmed beside it, gone on with after a kill, begun anew where it broke."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine import errors
from producers.tap import order as orders
from producers.tap import record, spool
from producers.tap.keeper import Keeper
from producers.tap.record import Kind
from producers.tap.writer import STRIDE
from tests.support.keeping import DISKS, PATIENCE, found, keeping, kill_tap, until, writes, written
from tests.support.writing import Writer


async def test_a_killed_tap_is_begun_again_and_all_that_was_answered_is_read(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        number, known = 0, set()
        for turn in range(3):
            assert not await keeper.begin(DISKS), "nothing runs"
            writer = Writer(keeper.socket, depth=4)
            running = asyncio.ensure_future(writer.run())
            await writer.until(50)
            await kill_tap(tmp_path)
            await running
            assert not (await keeper.status()).alive
            assert not await keeper.check()
            assert not await keeper.begin(DISKS)
            entries = await found(keeper, number)
            assert {one for one, _ in writer.answered} <= set(writes(entries))
            number = entries[-1].number + 1
            began = [entry for entry in entries if entry.kind is Kind.BEGAN]
            assert record.disks(began[-1].data) == DISKS
            known |= {entry.nonce for entry in began}
            assert number - 1 == (turn * 2 + 1) * STRIDE, "the one that runs has said that it began, and no more"
            await kill_tap(tmp_path)
        assert len(known) == 6


async def test_a_spool_that_was_full_is_said_and_begun_anew_above_its_numbers(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        assert not await keeper.begin(DISKS, quota=256 << 10)
        await written(keeper, 200)
        status = await until(keeper, lambda status: status.broken is not None)
        assert status.broken is not None
        assert "quota" in status.broken.why
        await told(keeper)
        assert writes(await keeper.read(0, 1 << 30)) == list(range(status.broken.number - 1))
        assert not await keeper.begin(DISKS, quota=256 << 10)
        assert await keeper.broken() is None
        status = await keeper.status()
        assert status.broken is None
        assert await keeper.ends() == (STRIDE * 2, STRIDE * 2 + 1)
        writer = await written(keeper, 20)
        entries = await found(keeper, STRIDE * 2)
        assert writes(entries) == list(range(len(writer.answered)))


async def told(keeper: Keeper) -> None:
    """Until it is written down, which happens in the background."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if await keeper.broken() is not None:
                return
            await asyncio.sleep(0.01)


async def test_a_spool_that_was_broken_by_a_tap_that_is_dead_is_begun_anew_too(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        await kill_tap(tmp_path)
        spool.write_broken(tmp_path / "home" / "spool", "1 for a test")
        status = await keeper.status()
        assert not status.alive
        assert status.broken == spool.Broken(1, "for a test")
        assert not await keeper.begin(DISKS, above=5 * STRIDE + 7)
        assert (await keeper.ends())[0] == 7 * STRIDE, "beyond the one in which the caller's number is"
        assert await keeper.broken() is None


async def test_a_spool_that_is_damaged_is_begun_anew_and_one_that_is_newer_is_left(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        await written(keeper, 20)
        await keeper.end()
        (segment,) = (tmp_path / "home" / "spool" / "writes").glob("*.seg*")
        whole = segment.read_bytes()
        newer = whole[:8] + (99).to_bytes(4, "big") + whole[12:]
        segment.write_bytes(newer)
        with pytest.raises(errors.Newer):
            await keeper.begin(DISKS)
        assert segment.read_bytes() == newer
        segment.write_bytes(b"not a segment" + whole[13:])
        assert not await keeper.begin(DISKS)
        assert (await keeper.ends())[0] >= STRIDE


async def test_a_spool_that_fills_its_disk_makes_room_for_the_next_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = orders.save

    def full(path: Path, order: orders.Order) -> None:
        if (tmp_path / "home" / "spool").exists():
            raise errors.Full("the disk is full")
        save(path, order)

    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        await kill_tap(tmp_path)
        monkeypatch.setattr(orders, "save", full)
        with pytest.raises(errors.Full):
            await keeper.begin(DISKS)  # what is in the spool is whole, and stays
        assert (await keeper.ends()) == (0, 1)
        spool.write_broken(tmp_path / "home" / "spool", "1 the disk is full")
        assert not await keeper.begin(DISKS)
        assert (await keeper.ends())[0] >= STRIDE


async def test_it_is_read_and_trimmed_while_the_tap_writes(tmp_path: Path) -> None:
    async with keeping(tmp_path) as keeper:
        await keeper.begin(DISKS)
        writer = Writer(keeper.socket, size=64 << 10, depth=4)
        running = asyncio.ensure_future(writer.run())
        seen: list[int] = []
        number = 0
        while len(seen) < 4000:
            entries = await keeper.read(number, 4 << 20)
            seen += [entry.number for entry in entries]
            if entries:
                number = entries[-1].number + 1
                await keeper.trim(number)
                await keeper.on_bus(number)
        mark = await keeper.mark("here")
        await writer.until(len(writer.answered) + 10)
        writer.going = False
        await running
        await until(keeper, lambda status: status.durable == status.number)
        entries = await found(keeper, number)
        seen += [entry.number for entry in entries]
        assert seen == list(range(seen[-1] + 1))
        assert [(entry.number, entry.data) for entry in entries if entry.kind is Kind.MARK] == [(mark, b"here")]
        first, _ = await keeper.ends()
        assert first > 0, "space comes back"
        with pytest.raises(errors.OffsetGone):
            await keeper.read(first - 1, 1 << 20)
