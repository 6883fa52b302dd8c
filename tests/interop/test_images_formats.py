"""Images of every format, made and compared by qemu-img, opened by us."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.device import images
from engine.device.nbd import NbdDevice
from engine.device.raw import RawDevice
from engine.nbd import qemu
from engine.ports import BlockDevice
from tests.support import tools

MEBI = 1 << 20
SIZE = 8 * MEBI


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where our sockets live: a directory of its own (a short name beside tmp_path), so that what is left is seen."""
    tools.need("qemu-img", "qemu-nbd")
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield Path(place)
        assert not os.listdir(place), "a private directory was left behind"


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def create(path: Path, *options: str | Path) -> Path:
    run("qemu-img", "create", "-q", "-f", path.suffix[1:], *options, path, str(SIZE))
    return path


def secret(tmp_path: Path, words: str = "open sesame") -> str:
    (tmp_path / "secret,1").write_text(words)
    return str(tmp_path / "secret,1")


def same(path: Path, other: Path, first: str, second: str = "raw") -> bool:
    command = ["qemu-img", "compare", "-f", first, "-F", second, str(path), str(other)]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


async def fill(device: BlockDevice, seed: int = 1) -> bytes:
    """Write here and there, zero some of it, flush; gives what the device must then hold."""
    dice, model = random.Random(seed), bytearray(await device.read(0, device.size))
    for _ in range(40):
        start = dice.randrange(device.size)
        length = dice.randrange(min(300_000, device.size - start) + 1)
        if dice.random() < 0.7:
            model[start : start + length] = data = dice.randbytes(length)
            await device.write(start, data)
        else:
            model[start : start + length] = bytes(length)
            await device.zero(start, length)
    await device.flush()
    return bytes(model)


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vhdx", "vdi"])
async def test_what_is_written_is_there_for_us_and_for_qemu(tmp_path: Path, format: str) -> None:
    path = create(tmp_path / f"disk.{format}")
    device = await images.open_image(str(path), writable=True)
    assert isinstance(device, NbdDevice)
    assert (device.size, device.fixed) == (SIZE, True)
    content = await fill(device)
    await device.close()
    (tmp_path / "expected.raw").write_bytes(content)
    assert same(path, tmp_path / "expected.raw", format)
    again = await images.open_image(str(path), writable=False)
    assert await again.read(0, SIZE) == content
    await again.close()


async def test_extents_of_a_sparse_image_say_where_zeros_are(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2")
    device = await images.open_image(str(path), writable=True)
    await device.write(2 * MEBI, os.urandom(MEBI))
    await device.flush()
    found = [(extent.start, extent.length, extent.zero) for extent in await device.extents(0, SIZE)]
    assert found == [(0, 2 * MEBI, True), (2 * MEBI, MEBI, False), (3 * MEBI, 5 * MEBI, True)]
    await device.zero(0, SIZE)
    assert [extent.zero for extent in await device.extents(0, SIZE)] == [True]
    await device.close()


async def test_an_image_shows_its_backing_file_and_never_changes_it(tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(os.urandom(SIZE))
    before = base.read_bytes()
    overlay = create(tmp_path / "top.qcow2", "-b", base, "-F", "raw")
    device = await images.open_image(str(overlay), writable=True)
    assert await device.read(0, SIZE) == before
    await device.write(5, b"over")
    await device.zero(MEBI, MEBI)
    await device.flush()
    expected = before[:5] + b"over" + before[9:MEBI] + bytes(MEBI) + before[2 * MEBI :]
    assert await device.read(0, SIZE) == expected
    await device.close()
    assert base.read_bytes() == before


async def test_a_backing_file_that_would_be_probed_is_refused(tmp_path: Path) -> None:
    base, top = create(tmp_path / "base.qcow2"), tmp_path / "top.qcow2"
    create(top, "-b", base, "-F", "qcow2")
    run("qemu-img", "rebase", "-u", "-b", "", top)
    header = bytearray(top.read_bytes())
    name = str(base).encode()
    at = 4096  # behind the header and its extensions, within the first cluster
    header[at : at + len(name)] = name
    header[8:16], header[16:20] = at.to_bytes(8, "big"), len(name).to_bytes(4, "big")
    top.write_bytes(header)
    assert "backing-filename-format" not in json.loads(run("qemu-img", "info", "--output=json", top))
    with pytest.raises(errors.Usage, match=r"qemu-img rebase -u -F FORMAT"):
        await images.open_image(str(top), writable=False)


def encrypted(path: Path, key: str) -> Path:
    """Made by qemu-img, with a key derivation that takes no time."""
    prefix = "encrypt." if path.suffix == ".qcow2" else ""
    options = f"{prefix}key-secret=secret0,{prefix}iter-time=10" + (",encrypt.format=luks" if prefix else "")
    assert not qemu.make_image("-f", path.suffix[1:], *qemu.secret_object(key), "-o", options, str(path), str(SIZE))
    return path


@pytest.mark.parametrize("kind", ["qcow2", "luks"])
async def test_an_encrypted_image_is_written_reopened_and_compared(tmp_path: Path, kind: str) -> None:
    key = secret(tmp_path)
    path = encrypted(tmp_path / f"disk.{kind}", key)
    assert (await images.describe(str(path))).size == SIZE
    device = await images.open_image(str(path), writable=True, secret_file=key)
    content = await fill(device)
    await device.close()
    again = await images.open_image(str(path), writable=False, secret_file=key)
    assert (again.size, await again.read(0, SIZE)) == (SIZE, content)
    await again.close()
    marked = next(at for at in range(0, SIZE, 512) if any(content[at : at + 512]))
    assert content[marked : marked + 512] not in path.read_bytes()
    (tmp_path / "expected.raw").write_bytes(content)
    options = qemu.Image(str(path), kind, encryption="luks", secret_file=key).options()
    other = f"driver=raw,file.driver=file,file.filename={tmp_path / 'expected.raw'}"
    run("qemu-img", "compare", "--image-opts", *qemu.secret_object(key), ",".join(flatten(options)), other)


@pytest.mark.timeout(300)  # a key derivation of full strength, twice
async def test_a_new_encrypted_qcow2_reads_as_zeros_and_keeps_what_is_written(tmp_path: Path) -> None:
    path, key = tmp_path / "disk.qcow2", secret(tmp_path)
    device = await images.open_image(str(path), writable=True, secret_file=key, create_size=SIZE)
    assert await device.read(0, SIZE) == bytes(SIZE)
    await device.write(7, b"inside")
    await device.flush()
    assert await device.read(6, 8) == b"\0inside\0"
    await device.close()


def test_qemu_img_is_asked_again_while_it_cannot_tell_how_fast_the_cpu_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "qemu-img").write_text(
        '#!/bin/sh\necho . >>"$0.tries"\n[ $(wc -l <"$0.tries") -ge "$3" ] && exit 0\n'
        'echo "qemu-img: Unable to get accurate CPU usage" >&2; exit 1\n'
    )
    (tmp_path / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert qemu.make_image("3") == ""
    assert (tmp_path / "qemu-img.tries").read_text() == ".\n" * 3
    assert "accurate CPU usage" in qemu.make_image("99")


def flatten(options: dict[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={value}"


@pytest.mark.parametrize("kind", ["qcow2", "luks"])
async def test_secrets_that_do_not_fit_are_named(tmp_path: Path, kind: str) -> None:
    key = secret(tmp_path)
    path = encrypted(tmp_path / f"disk.{kind}", key)
    with pytest.raises(errors.Usage, match="it is encrypted; name the file"):
        await images.open_image(str(path), writable=False)
    with pytest.raises(errors.Usage, match="secret file does not open it"):
        await images.open_image(str(path), writable=False, secret_file=secret(tmp_path, "wrong"))
    with pytest.raises(errors.NotFound, match="no such secret file"):
        await images.open_image(str(path), writable=False, secret_file=str(tmp_path / "none"))
    plain = create(tmp_path / "plain.qcow2")
    with pytest.raises(errors.Usage, match="not encrypted"):
        await images.open_image(str(plain), writable=False, secret_file=key)
    cipher = await images.open_image(str(path), writable=False, format="raw")
    assert isinstance(cipher, RawDevice)
    await cipher.close()


async def test_a_new_qcow2_is_made_where_nothing_is(tmp_path: Path) -> None:
    path = tmp_path / "new.qcow2"
    device = await images.open_image(str(path), writable=True, create_size=SIZE)
    content = await fill(device)
    await device.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "expected.raw").write_bytes(content)
    assert same(path, tmp_path / "expected.raw", "qcow2")
    with pytest.raises(errors.Usage, match="exists already"):
        await images.open_image(str(path), writable=True, create_size=SIZE)
    assert same(path, tmp_path / "expected.raw", "qcow2")


@pytest.mark.parametrize(
    ("name", "size", "format"), [("a.qcow2", 1000, None), ("a.vmdk", 512, None), ("b", 512, "luks")]
)
async def test_what_cannot_be_made_leaves_nothing(tmp_path: Path, name: str, size: int, format: str | None) -> None:
    with pytest.raises(errors.Usage, match="cannot make"):
        await images.open_image(str(tmp_path / name), writable=True, create_size=size, format=format)
    assert not (tmp_path / name).exists()


async def test_a_new_raw_image_is_a_sparse_file_of_any_size(tmp_path: Path) -> None:
    device = await images.open_image(f"file:{tmp_path}/new.raw", writable=True, create_size=1_000_001)
    assert (type(device), device.size) == (RawDevice, 1_000_001)
    await device.close()


async def test_a_guest_that_writes_a_qcow2_header_into_its_raw_disk_is_not_believed(tmp_path: Path) -> None:
    evil = create(tmp_path / "evil.qcow2").read_bytes()
    raw = tmp_path / "disk.raw"
    raw.write_bytes(evil)
    device = await images.open_image(str(raw), writable=False)
    assert isinstance(device, RawDevice)
    assert await device.read(0, len(evil)) == evil
    await device.close()
    found = await images.describe(str(raw))
    assert (found.format, found.size) == ("raw", len(evil))
    assert "begins like qcow2" in found.note


async def test_images_are_described_without_opening_them(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2")
    holder = await images.open_image(str(path), writable=True)
    found = await images.describe(str(path))
    assert (found.format, found.size, found.note) == ("qcow2", SIZE, "")
    assert found.allocated is not None
    assert found.allocated < MEBI
    await holder.close()
    (tmp_path / "x").write_bytes(bytes(5000))
    assert (await images.describe(str(tmp_path / "x"))).size == 5000
    with pytest.raises(errors.NotFound):
        await images.describe(str(tmp_path / "none"))
    with pytest.raises(errors.Usage, match="not an image of format vdi"):
        await images.describe(str(path), format="vdi")


async def test_an_image_that_is_in_use_is_named(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2")
    holder = await images.open_image(str(path), writable=True)
    for writable in (True, False):
        with pytest.raises(errors.InUse, match=r"disk\.qcow2: another process.*--force-share.*lock"):
            await images.open_image(str(path), writable=writable)
    shared = await images.open_image(str(path), writable=False, force_share=True)
    await shared.close()
    await holder.close()
    for _ in range(2):
        free = await images.open_image(str(path), writable=True)
        await free.close()


async def test_a_damaged_image_and_a_missing_backing_file_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(create(tmp_path / "good.qcow2").read_bytes()[:100] + bytes(1000))
    with pytest.raises(errors.Usage, match=r"broken\.qcow2"):
        await images.open_image(str(broken), writable=False)
    base, top = create(tmp_path / "base.qcow2"), tmp_path / "top.qcow2"
    create(top, "-b", base, "-F", "qcow2")
    base.unlink()
    with pytest.raises(errors.NotFound, match=r"top\.qcow2: the file, or one that it is based on, is missing"):
        await images.open_image(str(top), writable=False)
    with pytest.raises(errors.NotFound, match="none"):
        await images.open_image(str(tmp_path / "none"), writable=False, format="qcow2")


async def test_a_qemu_nbd_that_is_killed_fails_the_device_and_frees_the_image(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2")
    device = await images.open_image(str(path), writable=True)
    assert isinstance(device, NbdDevice)
    assert device._server is not None
    os.kill(device._server.pid, signal.SIGKILL)
    await asyncio.sleep(0.1)
    with pytest.raises(errors.DeviceFailed, match=r"disk\.qcow2: the NBD server closed the connection"):
        await device.write(0, b"x")
    await device.close()
    again = await images.open_image(str(path), writable=True)
    await again.close()


def test_qemu_nbd_does_not_outlive_a_process_that_is_killed(tmp_path: Path, sockets: Path) -> None:
    path = create(tmp_path / "disk.qcow2")
    program = (
        "import asyncio, sys, time\n"
        "from engine.device import images\n"
        f"device = asyncio.run(images.open_image({str(path)!r}, writable=True))\n"
        "print(device._server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "TMPDIR": str(sockets), "PYTHONPATH": str(tools.ROOT)}
    python = [os.environ.get("PYTHON", "python"), "-c", program]
    with subprocess.Popen(python, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
    left = list(sockets.iterdir())
    assert len(left) == 1
    qemu.sweep()
    assert left[0].exists(), "what is young may be somebody's who just begins"
    os.utime(left[0], (0, 0))
    qemu.sweep()
    assert not left[0].exists()


async def test_the_directory_of_a_living_server_is_not_swept(sockets: Path, tmp_path: Path) -> None:
    device = await images.open_image(str(create(tmp_path / "disk.qcow2")), writable=True)
    place = sockets / os.listdir(sockets)[0]
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    os.utime(place, (0, 0))
    qemu.sweep()
    assert place.exists()
    await device.close()


async def test_a_target_is_read_back_from_the_medium_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(create(tmp_path / "disk.qcow2"))
    assert qemu.takes_direct(path)
    assert "--cache=none" in qemu.command(qemu.Image(path, "qcow2", writable=True), "s")
    assert "--cache=writeback" in qemu.command(qemu.Image(path, "qcow2"), "s")
    monkeypatch.setattr(qemu, "takes_direct", lambda _: False)
    device = await images.open_image(path, writable=True)
    content = await fill(device)
    assert await device.read(0, SIZE) == content
    await device.close()


async def test_an_opening_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2")
    for wait in (0.0, 0.01, 0.03, 0.06, 0.1):
        opening = asyncio.create_task(images.open_image(str(path), writable=True))
        await asyncio.sleep(wait)
        opening.cancel()
        for ended in await asyncio.gather(opening, return_exceptions=True):
            if not isinstance(ended, BaseException):
                await ended.close()
    device = await images.open_image(str(path), writable=True)
    await device.close()


async def test_urls_open_what_a_server_exports(tmp_path: Path) -> None:
    tools.need("nbdkit")
    socket = tmp_path / "s o"
    process = await asyncio.create_subprocess_exec("nbdkit", "-f", "-U", str(socket), "memory", "4M")
    try:
        for _ in range(500):
            await asyncio.sleep(0.01)
            if socket.exists():
                break
        device = await images.open_image(f"nbd+unix:///?socket={tmp_path}/s%20o", writable=True)
        assert device.size == 4 * MEBI
        await device.close()
        assert (await images.describe(f"nbd+unix:///?socket={tmp_path}/s%20o")).size == 4 * MEBI
        with pytest.raises(errors.Usage, match="its business"):
            await images.open_image(f"nbd+unix:///?socket={tmp_path}/s%20o", writable=True, create_size=1)
    finally:
        process.kill()
        await process.wait()
