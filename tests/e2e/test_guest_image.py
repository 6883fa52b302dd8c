from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.support import guest, tools

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    guest.need_guest()
    tools.need("e2fsck")
    made = tmp_path_factory.mktemp("guest") / "guest.qcow2"
    guest.build_image(made)
    return made


def fsck(image: Path, scratch: Path) -> str:
    """What e2fsck finds on the disk in `image`, changing nothing."""
    raw = scratch / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw], check=True)
    done = subprocess.run([tools.find("e2fsck") or "", "-fn", raw], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_image_boots_to_user_space_and_is_left_as_it_was(image: Path) -> None:
    before = hashlib.sha256(image.read_bytes()).digest()
    console = guest.boot(image)
    assert guest.counter(console) == 1
    assert len(guest.files(console)) == 8
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_a_guest_that_changes_its_own_disk_leaves_a_clean_file_system(image: Path, tmp_path: Path) -> None:
    guest.change(image, kib=300)
    assert "guest" in fsck(image, tmp_path)
    console = guest.boot(image)
    assert guest.counter(console) == 2
    assert set(guest.files(console)) == {*(f"first-{number}.bin" for number in range(8)), "1.bin"}


def test_an_image_that_does_not_boot_is_shown_with_its_console(tmp_path: Path) -> None:
    guest.need_guest()
    empty = tmp_path / "empty.raw"
    empty.write_bytes(bytes(guest.MIB))
    with pytest.raises(AssertionError, match="no root"):
        guest.boot(empty, "raw")
