"""What every BlockDevice must do: one suite, every adapter."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from engine import errors
from engine.device import images
from engine.device.memory import MemoryDevice
from engine.device.nbd import NbdDevice
from engine.device.raw import RawDevice
from engine.nbd import qemu
from engine.ports import BlockDevice
from schemas.extent import Extent
from tests.support import tools

SIZE = (2 << 20) + 4096

Open = Callable[[], Awaitable[BlockDevice]]
"""Gives the same medium again, open to write, once the one before is closed."""


def loop_device(path: Path, resources: ExitStack) -> str:
    """A block device on `path`; said aloud when this machine cannot make one."""
    tools.need("losetup")
    made = subprocess.run(["losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}; run as root on a kernel with loop devices")
    name = made.stdout.strip()
    resources.callback(subprocess.run, ["losetup", "--detach", name], check=True)
    return name


def sparse(path: Path) -> Path:
    path.touch()
    os.truncate(path, SIZE)
    return path


def make(kind: str, where: Path, resources: ExitStack) -> Open:
    if kind == "memory":
        device: BlockDevice = MemoryDevice(SIZE)
        return lambda: asyncio.sleep(0, device)
    if kind == "file":
        path = sparse(where / "disk.raw")
        return lambda: RawDevice.open(path, writable=True)
    if kind == "block device":
        device_path = loop_device(sparse(where / "disk.raw"), resources)
        return lambda: RawDevice.open(device_path, writable=True)
    tools.need("qemu-nbd", "qemu-img")
    if kind == "nbd, qcow2":
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", where / "disk.qcow2", str(SIZE)], check=True)
        return lambda: images.open_image(str(where / "disk.qcow2"), writable=True)
    image = qemu.Image(str(sparse(where / "disk.raw")), "raw", writable=True)
    return lambda: NbdDevice.serve(image)


@pytest.fixture(params=["memory", "file", "block device", "nbd, raw", "nbd, qcow2"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as resources:
        yield make(request.param, tmp_path, resources)


@pytest.fixture
async def device(reopen: Open) -> AsyncIterator[BlockDevice]:
    opened = await reopen()
    async with AsyncExitStack() as resources:
        resources.push_async_callback(opened.close)
        yield opened


async def test_it_has_its_size_and_begins_as_zeros(device: BlockDevice) -> None:
    assert device.size == SIZE
    assert await device.read(0, SIZE) == bytes(SIZE)


async def test_what_was_written_is_read_at_any_alignment(device: BlockDevice) -> None:
    await device.write(4095, b"abc")
    await device.write(SIZE - 1, b"z")
    assert await device.read(4094, 5) == b"\0abc\0"
    assert await device.read(SIZE - 2, 2) == b"\0z"
    assert await device.read(7, 0) == b""


@pytest.mark.parametrize(("start", "length"), [(0, 8192), (4096, 5000), (7, 4096), (100, 1), (SIZE - 5000, 5000)])
async def test_a_look_sees_what_a_read_gives(device: BlockDevice, start: int, length: int) -> None:
    content = random.Random(3).randbytes(SIZE)
    await device.write(0, content)
    wanted = content[start : start + length]
    ranges = [(start, length), (0, 10), (start, length)]
    found = await device.look(ranges, lambda number, data: (number, bytes(data)))
    assert found == [(0, wanted), (1, content[:10]), (2, wanted)]
    assert await device.read(start, length) == wanted
    with pytest.raises(ZeroDivisionError):
        await device.look(ranges, lambda *_: 1 // 0)
    assert await device.look(ranges, lambda _, data: len(data)) == [length, 10, length]
    assert await device.look([], lambda *_: 1 // 0) == []


async def test_what_is_scattered_is_written_in_order(device: BlockDevice) -> None:
    chance = random.Random(4)
    pieces = [(0, chance.randbytes(8192)), (4096, chance.randbytes(4096)), (7, b"odd"), (SIZE - 5, b"ended")]
    await device.scatter(pieces)
    await device.scatter([])
    wanted = bytearray(SIZE)
    for start, data in pieces:
        wanted[start : start + len(data)] = data
    assert await device.read(0, SIZE) == wanted
    with pytest.raises(errors.DeviceFailed):
        await device.scatter([(0, b"a"), (SIZE - 1, b"past")])


async def test_an_answer_is_bytes_of_its_own(device: BlockDevice) -> None:
    await device.write(0, b"one")
    first = await device.read(0, 3)
    await device.write(0, b"two")
    assert (type(first), first) == (bytes, b"one")


async def test_what_was_flushed_is_there_after_reopening(reopen: Open) -> None:
    first = await reopen()
    await first.write(12_345, b"kept")
    await first.flush()
    await first.close()
    again = await reopen()
    assert await again.read(12_345, 4) == b"kept"
    await again.close()


@pytest.mark.parametrize(("start", "length"), [(0, SIZE), (1, 3), (4000, 200), (4096, 65536), (70_001, 200_003)])
@pytest.mark.parametrize("keep", [False, True])
async def test_zeroed_ranges_read_as_zeros_and_their_edges_stay(
    device: BlockDevice, start: int, length: int, keep: bool
) -> None:
    await device.write(0, b"x" * SIZE)
    await device.zero(start, length, keep)
    expected = b"x" * start + bytes(length) + b"x" * (SIZE - start - length)
    assert await device.read(0, SIZE) == expected
    await device.flush()
    await device.evict([(0, SIZE)])
    assert await device.read(0, SIZE) == expected


async def test_zeroing_nothing_does_nothing(device: BlockDevice) -> None:
    await device.write(0, b"x" * 8192)
    await device.zero(10, 0)
    await device.evict([(10, 0)])
    assert await device.read(0, 8192) == b"x" * 8192


@pytest.mark.parametrize(("start", "length"), [(SIZE - 1, 2), (SIZE, 1), (SIZE + 4096, 4096)])
async def test_nothing_is_read_or_written_past_the_end(device: BlockDevice, start: int, length: int) -> None:
    with pytest.raises(errors.DeviceFailed):
        await device.read(start, length)
    with pytest.raises(errors.DeviceFailed):
        await device.write(start, b"y" * length)
    with pytest.raises(errors.DeviceFailed):
        await device.zero(start, length)
    assert device.size == SIZE
    assert await device.read(SIZE - 4096, 4096) == bytes(4096)


def covers(found: list[Extent], start: int, length: int) -> bool:
    """In order, without gaps, without empty ones."""
    at = start
    for extent in found:
        if extent.start != at or extent.length <= 0:
            return False
        at = extent.end
    return at == start + length


async def test_extents_cover_the_range_and_never_call_data_zero(device: BlockDevice) -> None:
    await device.write(300_000, b"data")
    await device.write(1 << 20, b"d" * 65536)
    await device.flush()
    for start, length in ((0, SIZE), (299_999, 10), (1, 1), (SIZE - 1, 1), (5, 0)):
        found = list(await device.extents(start, length))
        assert covers(found, start, length)
        for extent in found:
            if extent.zero:
                assert not any(await device.read(extent.start, extent.length))


async def test_evict_loses_nothing(device: BlockDevice) -> None:
    await device.write(100, b"stays" * 1000)
    await device.flush()
    await device.evict([(0, SIZE), (101, 1)])
    await device.evict([])
    assert await device.read(100, 5000) == b"stays" * 1000


async def test_a_fixed_device_refuses_another_size_and_others_take_it(device: BlockDevice) -> None:
    await device.write(SIZE - 4, b"tail")
    await device.resize(SIZE)
    if device.fixed:
        with pytest.raises(errors.Usage):
            await device.resize(SIZE + 4096)
        assert device.size == SIZE
        return
    await device.resize(SIZE - 2)
    await device.resize(SIZE + 1000)
    assert (device.size, await device.read(SIZE - 4, 1004)) == (SIZE + 1000, b"ta" + bytes(1002))
    await device.flush()


async def test_many_reads_run_at_once_and_beside_a_write(device: BlockDevice) -> None:
    content = random.Random(1).randbytes(SIZE)
    await device.write(0, content)
    ranges = [(number * 50_001 % (SIZE - 70_000), 65_536 + number) for number in range(40)]
    answers = await asyncio.gather(*(device.read(start, length) for start, length in ranges))
    assert answers == [content[start : start + length] for start, length in ranges]
    written, read = b"w" * 65536, content[1 << 20 : (1 << 20) + 4096]
    assert (await asyncio.gather(device.write(0, written), device.read(1 << 20, 4096)))[1] == read
    assert await device.read(0, 65536) == written


async def test_a_cancelled_call_leaves_the_device_usable(device: BlockDevice) -> None:
    await device.write(0, b"o" * 65536)
    for _ in range(5):
        writing = asyncio.create_task(device.write(0, b"n" * 65536))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await device.write(0, b"l" * 65536)
        assert await device.read(0, 65536) == b"l" * 65536
        await device.flush()


async def test_random_operations_equal_a_bytearray(device: BlockDevice) -> None:
    dice, model = random.Random(11), bytearray(SIZE)
    for _ in range(150):
        start = dice.randrange(SIZE)
        length = dice.randrange(min(300_000, SIZE - start) + 1)
        match dice.randrange(4):
            case 0:
                model[start : start + length] = data = dice.randbytes(length)
                await device.write(start, data)
            case 1:
                model[start : start + length] = bytes(length)
                await device.zero(start, length)
            case 2:
                await device.flush()
                await device.evict([(start, length)])
            case _:
                assert await device.read(start, length) == model[start : start + length]
    assert await device.read(0, SIZE) == model


async def test_close_may_be_called_twice(device: BlockDevice) -> None:
    await device.close()
    await device.close()
    if not isinstance(device, MemoryDevice):
        with pytest.raises(errors.DeviceFailed):
            await device.read(0, 1)
