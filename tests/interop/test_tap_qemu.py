"""QEMU's active mirror, and other tools, into the tap: what the spool holds is the disk, write by write."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
from pathlib import Path

from engine.nbd.client import Client, Place
from producers.tap.record import Entry, Kind
from producers.tap.spool import Spool
from tests.support import tools
from tests.support.mirror import Host
from tests.support.tapping import Tap, tapping
from tests.support.writing import Writer, content, number_of

MEBI = 1 << 20
SIZE = 16 * MEBI


def replay(entries: list[Entry], *sizes: int) -> list[bytearray]:
    """The disks that come of them."""
    disks = [bytearray(size) for size in sizes]
    for entry in entries:
        if entry.kind is Kind.WRITTEN:
            disks[entry.disk][entry.start : entry.start + entry.length] = entry.data
        elif entry.kind is Kind.ZEROED:
            disks[entry.disk][entry.start : entry.start + entry.length] = bytes(entry.length)
    return disks


def spooled(tap: Tap) -> list[Entry]:
    """All of it, once the tap has ended."""
    tap.ask("end")
    assert tap.process.wait(60) == 0
    reader = Spool(tap.order.spool)
    entries = reader.read(0, 1 << 30)
    while entries[-1].number + 1 < reader.ends()[1]:
        entries += reader.read(entries[-1].number + 1, 1 << 30)
    reader.close()
    return entries


def run(*command: str) -> subprocess.CompletedProcess[str]:
    tools.need(command[0])
    found = (str(tools.find(command[0])), *command[1:])
    return subprocess.run(found, capture_output=True, text=True, timeout=100, check=False)


def qemu_io(url: str, *commands: str) -> None:
    done = run("qemu-io", "-f", "raw", *(part for one in commands for part in ("-c", one)), url)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout + done.stderr, done.stdout


async def test_a_mirror_of_two_disks_replays_to_both_of_them(tmp_path: Path) -> None:
    dice = random.Random(1)
    with tapping(tmp_path, disks={"vda": SIZE, "vdb": SIZE}) as tap:
        host = Host(tmp_path / "host", SIZE, "vda", "vdb")
        try:
            for name in ("vda", "vdb"):
                qemu_io(f"nbd+unix:///{name}?socket={host.socket}", "write -P 1 1M 1M", "write -P 2 5000 700")
            await asyncio.to_thread(host.mirror, tap.order.socket)
            tap.ask("mark", words="READY")
            for _ in range(20):
                name, start = dice.choice(["vda", "vdb"]), dice.randrange(SIZE // 512) * 512
                length = min(dice.choice([512, 4096, 70_144, 3 * MEBI]), SIZE - start)
                what = dice.choice([f"write -P {dice.randrange(1, 255)}", "write -z", "discard"])
                qemu_io(f"nbd+unix:///{name}?socket={host.socket}", f"{what} {start} {length}")
            for name in ("vda", "vdb"):
                host.qmp("block-job-cancel", device=f"j-{name}")
                host.event("BLOCK_JOB_COMPLETED", f"j-{name}")
        finally:
            host.close()
        disks = replay(spooled(tap), SIZE, SIZE)
        for name, disk in zip(("vda", "vdb"), disks, strict=True):
            assert disk == host.image(name).read_bytes(), name


async def test_what_depends_on_what_is_so_in_every_prefix_across_disks(tmp_path: Path) -> None:
    """A number goes to vda, and once that was answered to vdb: vdb is never ahead, nor more than one behind."""
    with tapping(tmp_path, disks={"vda": SIZE, "vdb": SIZE}) as tap:
        host = Host(tmp_path / "host", SIZE, "vda", "vdb")
        try:
            await asyncio.to_thread(host.mirror, tap.order.socket)
            ready = tap.ask("mark", words="READY")["number"]
            clients = [await Client.connect(Place(socket=str(host.socket)), name) for name in ("vda", "vdb")]
            noise = Writer(host.socket, "vda", depth=8)
            running = asyncio.ensure_future(noise.run())
            for count in range(200):
                for client in clients:
                    await client.write(8 * MEBI, content(count, 4096))
            noise.going = False
            await running
            for client in clients:
                await client.close()
        finally:
            host.close()
        entries = spooled(tap)
    said = [-1, -1]
    for entry in entries[ready:]:
        if entry.kind is Kind.WRITTEN and entry.start == 8 * MEBI:
            said[entry.disk] = number_of(entry.data)
        assert 0 <= said[0] - said[1] <= 1
    assert said == [199, 199]


async def test_tools_write_and_read_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(random.Random(2).randbytes(2 * MEBI) + bytes(SIZE - 2 * MEBI))
    with tapping(tmp_path, disks={"vda": SIZE}) as tap:
        done = run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), tap.url())
        assert done.returncode == 0, done.stderr
        qemu_io(tap.url(), "write -P 9 3M 32k", "write -z 3M 4k", "discard 0 1M", "flush")
        assert json.loads(run("nbdinfo", "--json", tap.url()).stdout)["exports"][0]["export-size"] == SIZE
        mapped = run("nbdinfo", "--map", "--json", tap.url())
        assert [(one["length"], one["description"]) for one in json.loads(mapped.stdout)] == [(SIZE, "data")]
        read = run("qemu-io", "-f", "raw", "-c", "read 0 4k", tap.url())
        assert "Operation not permitted" in read.stdout + read.stderr
        (disk,) = replay(spooled(tap), SIZE)
        wanted = bytearray(image.read_bytes())
        wanted[3 * MEBI : 3 * MEBI + 32768] = bytes(4096) + b"\x09" * 28672
        assert disk == wanted


def test_garbage_on_both_sockets_costs_nobody_else_anything(tmp_path: Path) -> None:
    dice = random.Random(3)
    with tapping(tmp_path, disks={"vda": SIZE}) as tap:
        for turn in range(30):
            for path in (tap.order.socket, tap.order.control):
                with socket.socket(socket.AF_UNIX) as rude:
                    rude.connect(str(path))
                    rude.settimeout(60)
                    said = dice.randbytes(dice.randrange(1, 200)) + b"\n" * (turn % 2)
                    rude.sendall(b"\0\0\0\3IHAVEOPT" + said if turn % 3 == 0 else said)
        qemu_io(tap.url(), "write -P 1 0 4k")
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(60)
        line.connect(str(tap.order.control))
        line.sendall(b'{"do": "nothing"}\n[7]\n{"do": "bus"}\n{"do": "ping"}\n')
        answers = line.makefile("rb")
        assert [json.loads(answers.readline())["ok"] for _ in range(4)] == [False, False, False, True]
        answers.close()
        line.close()
        tap.until(attached={"vda": 0})
