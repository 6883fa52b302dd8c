"""QEMU's programs and we keep out of each other's images, both ways."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine import errors
from engine.device.raw import RawDevice
from tests.support import tools

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tools.need("qemu-img", "qemu-io")
    (tmp_path / "disk.raw").write_bytes(bytes(SIZE))
    return tmp_path / "disk.raw"


@contextmanager
def qemu_io(image: Path, *options: str) -> Iterator[int]:
    """qemu-io with the image open, until the block ends; its process id."""
    command = ["qemu-io", *options, "-f", "raw", str(image)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdin.flush()
        while b"MiB" not in process.stdout.readline():
            assert process.poll() is None
        try:
            yield process.pid
        finally:
            process.stdin.write(b"quit\n")
            process.stdin.close()
            process.wait(10)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=30)


def refused(*arguments: str | Path) -> bool:
    ended = run(*arguments)
    return ended.returncode != 0 and " lock" in ended.stderr


@pytest.mark.parametrize("writable", [True, False])
async def test_what_qemu_writes_we_do_not_open(image: Path, writable: bool) -> None:
    with qemu_io(image) as pid, pytest.raises(errors.InUse, match=rf"disk\.raw: qemu-io \(pid {pid}\)"):
        await RawDevice.open(image, writable=writable)
    device = await RawDevice.open(image, writable=writable)
    await device.close()


async def test_with_shared_access_forced_it_is_read(image: Path) -> None:
    with qemu_io(image):
        device = await RawDevice.open(image, writable=False, lock=False)
        assert await device.read(0, 512) == bytes(512)
        await device.close()


async def test_what_qemu_reads_we_read_and_do_not_write(image: Path) -> None:
    with qemu_io(image, "--read-only"):
        device = await RawDevice.open(image, writable=False)
        await device.close()
        with pytest.raises(errors.InUse):
            await RawDevice.open(image, writable=True)


async def test_what_we_write_qemu_does_not_open(image: Path) -> None:
    device = await RawDevice.open(image, writable=True)
    copy = ("qemu-img", "convert", "-f", "raw", "-O", "raw", image, image.with_suffix(".copy"))
    assert refused(*copy)
    assert refused("qemu-img", "compare", "-f", "raw", "-F", "raw", image, image)
    assert refused("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", image)
    assert refused("qemu-img", "resize", "-f", "raw", image, "2M")
    assert refused("qemu-img", "convert", "-U", *copy[2:]), "not even shared: it would copy half an epoch"
    await device.close()
    assert run(*copy).returncode == 0


async def test_while_a_pass_reads_qemu_reads_and_does_not_write(image: Path) -> None:
    device = await RawDevice.open(image, writable=False)
    assert run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, image).returncode == 0
    assert refused("qemu-img", "resize", "-f", "raw", image, "2M")
    write = ("qemu-io", "-f", "raw", "-c", "write 0 512", image)
    assert refused(*write)
    await device.unguard()
    assert run(*write).returncode == 0
    with qemu_io(image), pytest.raises(errors.InUse):
        await device.guard()
    await device.guard()
    await device.close()
