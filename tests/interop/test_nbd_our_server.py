"""Tools that we did not write against our NBD server on a real UNIX socket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tools

MEBI = 1 << 20
SIZE = 64 * MEBI + 512


class Ours:
    """A process of ours that serves `vda` and `vdb` from its memory."""

    def __init__(self, where: Path) -> None:
        self.socket = where / "ours.sock"
        command = (sys.executable, "-m", "tests.support.nbd_memory", str(self.socket), f"vda={SIZE}", "vdb=1048576")
        self.process = subprocess.Popen(command, cwd=tools.ROOT)
        deadline = time.monotonic() + 60
        while not _listens(self.socket):
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def url(self, export: str = "vda") -> str:
        return f"nbd+unix:///{export}?socket={self.socket}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


def _listens(path: Path) -> bool:
    """A socket's file is there a moment before anybody listens on it."""
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Ours]:
    server = Ours(tmp_path)
    yield server
    server.stop()


def run(*command: str) -> str:
    tools.need(command[0])
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def qemu_io(url: str, *commands: str) -> str:
    said = run("qemu-io", "-f", "raw", *(part for one in commands for part in ("-c", one)), url)
    assert "failed" not in said, said
    return said


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An odd-sized image with data, zeros and holes."""
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for at in (0, 5 * MEBI + 512, 40 * MEBI, SIZE - 700):
            file.seek(at)
            file.write(bytes(range(1, 251)) * 2 + b"." * 200)
    return path


def test_nbdinfo_lists_and_describes_what_is_offered(ours: Ours) -> None:
    said = json.loads(run("nbdinfo", "--json", "--list", f"nbd+unix:///?socket={ours.socket}"))
    assert said["protocol"] == "newstyle-fixed"
    found = {one["export-name"]: one for one in said["exports"]}
    assert {name: one["export-size"] for name, one in found.items()} == {"vda": SIZE, "vdb": MEBI}
    assert found["vda"]["contexts"] == ["base:allocation"]
    assert found["vda"]["can_fast_zero"]
    assert not found["vda"]["can_multi_conn"]
    assert found["vda"]["block_size_maximum"] == 32 * MEBI


def test_qemu_img_converts_compares_and_maps(ours: Ours, image: Path, tmp_path: Path) -> None:
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), ours.url())
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), ours.url())
    mapped = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", ours.url()))
    assert sum(one["length"] for one in mapped) == SIZE
    assert sum(one["length"] for one in mapped if one["data"]) < MEBI
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", ours.url(), str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == image.read_bytes()


def test_nbdcopy_copies_there_and_back(ours: Ours, image: Path, tmp_path: Path) -> None:
    run("nbdcopy", "--requests=64", str(image), ours.url())
    (tmp_path / "back").write_bytes(bytes(SIZE))
    run("nbdcopy", "--flush", ours.url(), str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == image.read_bytes()


def test_qemu_io_writes_zeroes_discards_flushes_and_reads_back(ours: Ours) -> None:
    qemu_io(
        ours.url(), "write -P 7 0 1M", "write -P 8 -f 100 3", "write -z 4k 8k", "write -zu 64k 64k",
        "discard 256k 4k", "aio_write -P 9 1M 32M", "aio_write -P 5 40M 20M", "aio_flush", "flush",
        f"write -P 6 {SIZE - 512} 512", "read -P 8 100 3", "read -P 7 103 3993", "read -P 0 4k 8k",
        "read -P 0 64k 64k", "read -P 9 1M 32M", "read -P 5 40M 20M", f"read -P 6 {SIZE - 512} 512",
    )  # fmt: skip


def test_two_exports_are_two_disks(ours: Ours) -> None:
    qemu_io(ours.url("vda"), "write -P 1 0 4k")
    qemu_io(ours.url("vdb"), "write -P 2 0 4k", "read -P 2 0 4k")
    qemu_io(ours.url("vda"), "read -P 1 0 4k")


def test_fio_verifies_what_it_wrote(ours: Ours) -> None:
    tools.need("fio")
    if "nbd" not in run("fio", "--enghelp").split():
        tools.forbidden("this release's fio was built without the nbd engine")
    run(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={ours.url()}", "--rw=randwrite", "--bs=4k", "--iodepth=16",
        "--size=8M", "--verify=crc32c", "--do_verify=1", "--verify_state_save=0",
    )  # fmt: skip


def test_garbage_drops_its_client_and_nobody_else(ours: Ours) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(ours.socket))
        rude.sendall(b"GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n")
        rude.settimeout(60)
        while rude.recv(4096):
            pass
    qemu_io(ours.url(), "write -P 1 0 4k", "read -P 1 0 4k")


def test_silent_clients_do_not_keep_others_out(ours: Ours) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    try:
        for one in silent:
            one.connect(str(ours.socket))
        qemu_io(ours.url(), "write -P 1 0 4k", "read -P 1 0 4k")
    finally:
        for one in silent:
            one.close()


def test_clients_that_are_gone_at_once_cost_nobody_else_anything(ours: Ours) -> None:
    for _ in range(200):
        with socket.socket(socket.AF_UNIX) as hasty:
            hasty.connect(str(ours.socket))
    qemu_io(ours.url(), "write -P 1 0 4k", "read -P 1 0 4k")
