"""What a raw device must do beyond the contract: say what is wrong, and keep to what it lost."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from engine import errors, linux, ports
from engine.device import blocking
from engine.device.raw import RawDevice
from schemas.extent import Extent

MEBI = 1 << 20


def fails(code: int) -> object:
    def call(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


async def made(path: Path, size: int = MEBI) -> RawDevice:
    return await RawDevice.open(path, writable=True, create_size=size, offload=ports.inline)


async def test_a_new_device_is_sparse_private_and_of_any_size(tmp_path: Path) -> None:
    device = await made(tmp_path / "d", (1 << 40) + 1)
    found = os.stat(tmp_path / "d")
    assert (device.size, found.st_size, found.st_blocks) == ((1 << 40) + 1, (1 << 40) + 1, 0)
    assert stat.S_IMODE(found.st_mode) == 0o600
    await device.close()


async def test_what_exists_is_never_made_anew(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"precious")
    with pytest.raises(errors.Usage, match="exists already"):
        await made(tmp_path / "d")
    assert (tmp_path / "d").read_bytes() == b"precious"


async def test_a_size_that_the_file_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.Usage, match="larger than its file system allows"):
        await made(tmp_path / "d", (1 << 63) - 1)
    assert not (tmp_path / "d").exists()


async def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind, text in (
        (tmp_path / "none", errors.NotFound, "none: cannot open it: No such file"),
        (tmp_path / "pipe", errors.Usage, "neither a file nor a block device"),
        (tmp_path, errors.Usage, "neither a file nor a block device"),
    ):
        with pytest.raises(kind, match=text):
            await RawDevice.open(path, writable=False)


@pytest.mark.parametrize(
    ("code", "way"), [(errno.EROFS, "remount,rw"), (errno.EACCES, "chmod"), (errno.EPERM, "chattr -i")]
)
async def test_a_target_that_cannot_be_written_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, way: str
) -> None:
    (tmp_path / "d").touch()
    monkeypatch.setattr(os, "open", fails(code))
    with pytest.raises(errors.Usage, match=rf"/d: cannot open it to write: .*{way}"):
        await RawDevice.open(tmp_path / "d", writable=True, offload=ports.inline)


async def test_a_device_in_use_by_the_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").touch()
    monkeypatch.setattr(os, "open", fails(errno.EBUSY))
    with pytest.raises(errors.InUse, match="mounted"):
        await RawDevice.open(tmp_path / "d", writable=True, offload=ports.inline)


async def test_a_source_that_shrinks_names_path_range_and_size(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"s" * 10_000)
    device = await RawDevice.open(tmp_path / "d", writable=False)
    os.truncate(tmp_path / "d", 4_097)
    with pytest.raises(errors.DeviceFailed, match=r"/d: cannot read 8,000 bytes at 1,000: .* 4,097 now"):
        await device.read(1_000, 8_000)
    with pytest.raises(errors.DeviceFailed, match="4,097"):
        await device.extents(0, 10_000)
    await device.close()


async def test_a_file_deleted_under_us_is_found_at_the_flush(tmp_path: Path) -> None:
    device = await made(tmp_path / "d")
    await device.write(0, b"x")
    os.unlink(tmp_path / "d")
    with pytest.raises(errors.NotFound, match="/d: it was deleted under us"):
        await device.flush()
    with pytest.raises(errors.DeviceFailed, match="deleted under us"):
        await device.write(0, b"y")
    await device.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_after_a_failed_flush_nothing_more_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    device = await made(tmp_path / "d")
    await device.write(0, b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails(code))
        with pytest.raises(errors.DeviceFailed, match=f"cannot flush it: .*{errno.errorcode[code]}"):
            await device.flush()
    for later in (device.write(0, b"y"), device.flush(), device.zero(0, 1), device.resize(1)):
        with pytest.raises(errors.DeviceFailed, match="an earlier flush failed"):
            await later
    assert await device.read(0, 1) == b"x"
    await device.close()


async def test_no_room_names_the_path_and_the_bytes_that_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await made(tmp_path / "d")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fails(errno.ENOSPC))
        with pytest.raises(errors.Full, match=r"/d: cannot write 3 bytes at 5: no space left \([\d,]+ bytes free\)"):
            await device.write(5, b"abc")
    await device.write(5, b"abc")
    await device.close()


async def test_short_calls_of_the_kernel_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = await made(tmp_path / "d")
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, length, start: pread(fd, min(length, 1000), start))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, start: pwrite(fd, data[:999], start))
    data = os.urandom(10_000)
    await device.write(77, data)
    assert await device.read(77, 10_000) == data
    await device.close()


async def test_directory_then_size_then_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, calls = await made(tmp_path / "d"), list[str]()
    monkeypatch.setattr(linux, "sync_directory", lambda _: calls.append("directory"))
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("data and size"))
    monkeypatch.setattr(os, "fdatasync", lambda _: calls.append("data"))
    for size in (None, None, MEBI * 2):
        if size:
            await device.resize(size)
        await device.flush()
    await device.close()
    assert calls == ["directory", "data and size", "data", "data and size"]


async def test_holes_are_zeros_and_zeroing_gives_space_back(tmp_path: Path) -> None:
    device = await made(tmp_path / "d")
    await device.write(65536, os.urandom(65536))
    await device.write(300_000, b"x")
    await device.flush()
    found = await device.extents(0, MEBI)
    assert found[:2] == [Extent(0, 65536, zero=True), Extent(65536, 65536)]
    assert [extent.zero for extent in found] == [True, False, True, False, True]
    await device.zero(0, MEBI)
    await device.flush()
    assert await device.extents(0, MEBI) == [Extent(0, MEBI, zero=True)]
    assert os.stat(tmp_path / "d").st_blocks == 0
    await device.close()


async def test_zeros_are_written_where_holes_cannot_be_punched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "fallocate", fails(errno.EOPNOTSUPP))
    device = await made(tmp_path / "d", 3 * MEBI)
    await device.write(0, b"x" * 3 * MEBI)
    await device.zero(1, 2 * MEBI)
    assert await device.read(0, 3 * MEBI) == b"x" + bytes(2 * MEBI) + b"x" * (MEBI - 1)
    await device.close()


@pytest.mark.parametrize("supported", [(), (linux.ZERO_RANGE,), (linux.PUNCH_HOLE, linux.ZERO_RANGE)])
async def test_a_block_device_is_zeroed_by_what_it_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: tuple[int, ...]
) -> None:
    tried: list[int] = []

    def fallocate(fd: int, mode: int, start: int, length: int) -> None:
        tried.append(mode)
        if mode not in supported:
            raise OSError(errno.EOPNOTSUPP, "no")
        assert start % blocking.ALIGNED == length % blocking.ALIGNED == 0
        os.pwrite(fd, bytes(length), start)

    monkeypatch.setattr(linux, "fallocate", fallocate)
    (tmp_path / "d").write_bytes(b"x" * 30_000)
    fd = os.open(tmp_path / "d", os.O_RDWR)
    blocking.zero_device(fd, 4_000, 20_000, keep=False)
    os.close(fd)
    assert (tmp_path / "d").read_bytes() == b"x" * 4_000 + bytes(20_000) + b"x" * 6_000
    assert tried == ([linux.PUNCH_HOLE] if linux.PUNCH_HOLE in supported else [linux.PUNCH_HOLE, linux.ZERO_RANGE])


async def test_evicted_pages_are_gone_from_memory(tmp_path: Path) -> None:
    device = await made(tmp_path / "d")
    await device.write(0, os.urandom(MEBI))
    await device.flush()
    await device.evict([(100, MEBI // 2), (MEBI // 2, MEBI // 2 - 200)])
    assert resident(tmp_path / "d") == 0
    await device.close()


def resident(path: Path) -> int:
    """Pages of `path` in the page cache, by mincore(2)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as source, mmap.mmap(source.fileno(), 0, flags=mmap.MAP_PRIVATE) as memory:
        pages = -(-len(memory) // mmap.PAGESIZE)
        answer = (ctypes.c_ubyte * pages)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        code = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), answer)
        assert code == 0, os.strerror(ctypes.get_errno())
        return sum(one & 1 for one in answer)


async def test_a_cancelled_write_has_ended_before_the_cancellation_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await RawDevice.open(tmp_path / "d", writable=True, create_size=MEBI)
    started, go_on = threading.Event(), threading.Event()

    def slow(fd: int, start: int, data: bytes) -> None:
        started.set()
        go_on.wait(10)
        os.pwrite(fd, data, start)

    monkeypatch.setattr(linux, "pwrite_all", slow)
    writing = asyncio.create_task(device.write(0, b"late"))
    await asyncio.to_thread(started.wait, 10)
    writing.cancel()
    await asyncio.sleep(0.02)
    writing.cancel()
    await asyncio.sleep(0.02)
    assert not writing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (tmp_path / "d").read_bytes()[:4] == b"late"
    await device.close()


async def test_close_waits_for_whoever_is_inside(tmp_path: Path) -> None:
    device = await RawDevice.open(tmp_path / "d", writable=True, create_size=MEBI)
    inside = threading.Event()

    def stay(_fd: int) -> float:
        inside.set()
        time.sleep(0.1)
        os.fstat(_fd)
        return time.monotonic()

    call = asyncio.create_task(device._run("stay", stay))
    await asyncio.to_thread(inside.wait)
    await device.close()
    assert await call <= time.monotonic()
    with pytest.raises(errors.DeviceFailed, match="it is closed"):
        await device.read(0, 1)


async def test_an_opening_that_is_cancelled_leaves_no_lock(tmp_path: Path) -> None:
    for wait in range(6):
        (tmp_path / str(wait)).write_bytes(bytes(4096))
        opening = asyncio.create_task(RawDevice.open(tmp_path / str(wait), writable=True))
        for _ in range(wait):
            await asyncio.sleep(0)
        opening.cancel()
        ended = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(ended[0], RawDevice):
            await ended[0].close()
        await asyncio.sleep(0.05)
        again = await RawDevice.open(tmp_path / str(wait), writable=True)
        await again.close()


async def test_what_is_zeroed_to_keep_can_be_written_again_on_a_full_disk(tmp_path: Path) -> None:
    device = await RawDevice.open(tmp_path / "d", True, create_size=4 * MEBI)
    await device.write(0, b"x" * 2 * MEBI)
    await device.flush()
    await device.zero(0, MEBI, keep=True)
    await device.flush()
    assert (tmp_path / "d").stat().st_blocks * 512 >= 2 * MEBI
    assert not any(await device.read(0, MEBI))
    await device.zero(0, MEBI)
    await device.flush()
    assert (tmp_path / "d").stat().st_blocks * 512 < 2 * MEBI
    await device.close()
