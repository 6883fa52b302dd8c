"""A file system that is full, for real: a small tmpfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.device import images
from engine.store.file import OsFile
from tests.support import tools

MEBI = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}; run as root")
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_raw_target_without_room_says_so_and_goes_on_when_there_is(small: Path) -> None:
    filler = small / "filler"
    filler.write_bytes(bytes(MEBI))
    device = await images.open_image(str(small / "disk.raw"), writable=True, create_size=16 * MEBI)
    with pytest.raises(errors.Full, match=r"disk\.raw: cannot write 2,097,152 bytes at 0: no space left \("):
        await device.write(0, b"x" * 2 * MEBI)
    filler.unlink()
    await device.zero(0, 16 * MEBI)
    await device.write(5 * MEBI, b"y" * MEBI)
    await device.flush()
    assert await device.read(5 * MEBI - 1, 3) == b"\0yy"
    await device.close()


async def test_a_qcow2_target_without_room_says_so(small: Path) -> None:
    tools.need("qemu-img", "qemu-nbd")
    device = await images.open_image(str(small / "disk.qcow2"), writable=True, create_size=16 * MEBI)
    with pytest.raises(errors.Full, match=r"disk\.qcow2: WRITE of .* failed with ENOSPC"):
        await device.write(0, os.urandom(8 * MEBI))
    await device.close()


def test_a_file_of_ours_without_room_says_so(small: Path) -> None:
    store = OsFile(small / "undo")
    with pytest.raises(errors.Full, match=r"undo: cannot write .* bytes free\)"):
        store.write(0, bytes(3 * MEBI))
    store.close()
