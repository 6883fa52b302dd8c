"""Our NBD client against servers that we did not write: nbdkit, qemu-nbd, qemu-storage-daemon."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.device.nbd import NbdDevice
from engine.nbd.client import Client, Place, Tuning
from engine.nbd.constants import ProtocolError, RequestError, Transmission
from schemas.extent import Extent
from tests.support import tools

MEBI = 1 << 20


def ready(listens: Path) -> bool:
    if listens.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(listens)) == 0
    return listens.exists()


class Servers:
    """Runs servers until the test ends."""

    def __init__(self, where: Path) -> None:
        self._where, self._processes = where, list[subprocess.Popen[bytes]]()

    def __call__(self, *command: str) -> Place:
        """Start one, on a socket (or with a pid file) that its command line has as {socket}, and wait until it is."""
        tools.need(command[0])
        listens = self._where / f"s{len(self._processes)}"
        self._processes.append(subprocess.Popen([part.replace("{socket}", str(listens)) for part in command]))
        deadline = time.monotonic() + 20
        while not ready(listens):
            assert self._processes[-1].poll() is None, command
            assert time.monotonic() < deadline, command
            time.sleep(0.005)
        return Place(socket=str(listens))

    def signal(self, number: signal.Signals) -> None:
        """To the last one."""
        self._processes[-1].send_signal(number)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(10)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Servers]:
    servers = Servers(tmp_path)
    yield servers
    servers.stop()


def nbdkit(*arguments: str) -> tuple[str, ...]:
    return ("nbdkit", "--foreground", "--unix", "{socket}", *arguments)


def pattern(start: int, length: int) -> bytes:
    """What nbdkit's pattern plugin holds: every eight bytes are their own offset, big-endian."""
    first = start // 8 * 8
    whole = b"".join(at.to_bytes(8, "big") for at in range(first, start + length + 8, 8))
    return whole[start - first : start - first + length]


async def test_a_large_read_is_the_pattern(start: Servers) -> None:
    client = await Client.connect(start(*nbdkit("pattern", "1G")))
    assert client.export.size == 1 << 30
    for at, length in ((0, 40 * MEBI), ((1 << 29) - 3, 5 * MEBI + 1), ((1 << 30) - 1, 1), (12_345, 8)):
        assert await client.read(at, length) == pattern(at, length)
    await client.close()


async def test_many_requests_are_in_flight_at_once(start: Servers) -> None:
    """Each read takes 300 ms at the server: 32 of them take two rounds of 16, one after another would take 9.6 s."""
    client = await Client.connect(start(*nbdkit("--filter=delay", "pattern", "1G", "rdelay=300ms")))
    began = time.monotonic()
    answers = await asyncio.gather(*(client.read(at * 65536, 512) for at in range(32)))
    assert answers == [pattern(at * 65536, 512) for at in range(32)]
    assert 0.6 <= time.monotonic() - began < 3.0
    await client.close()


async def test_a_server_without_structured_replies_is_read(start: Servers) -> None:
    for options in (("--no-sr",), ("--mask-handshake=1",), ("--mask-handshake=1", "--no-sr")):
        client = await Client.connect(start(*nbdkit(*options, "pattern", "64M")))
        assert await client.read(4000, 3 * MEBI) == pattern(4000, 3 * MEBI)
        await client.close()


async def test_the_oldstyle_handshake_is_refused(start: Servers) -> None:
    place = start(*nbdkit("--oldstyle", "pattern", "1M"))
    with pytest.raises(ProtocolError, match="oldstyle"):
        await Client.connect(place)


async def test_an_export_that_is_not_there_is_named(start: Servers) -> None:
    place = start("qemu-nbd", "--socket={socket}", "--persistent", "--export-name=there", "--format=raw", "/dev/null")
    with pytest.raises(errors.NotFound, match="'elsewhere'"):
        await Client.connect(place, "elsewhere")


async def test_no_server_and_no_answer_are_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no NBD server listens"):
        await Client.connect(Place(socket=str(tmp_path / "none")))
    with pytest.raises(errors.Transient, match="cannot connect"):
        await Client.connect(Place(host="127.0.0.1", port=1))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        with pytest.raises(errors.Transient, match=r"no NBD export after 0\.2 s"):
            await Client.connect(Place(socket=str(tmp_path / "silent")), tuning=Tuning(connect=0.2))


async def test_a_server_over_tcp_is_read(start: Servers) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start("nbdkit", "--foreground", "--port", str(port), "--pidfile", "{socket}", "pattern", "1M")
    client = await Client.connect(Place(host="127.0.0.1", port=port))
    assert await client.read(1, 100_000) == pattern(1, 100_000)
    await client.close()


async def test_one_failed_request_leaves_the_connection(start: Servers) -> None:
    place = start(*nbdkit("--filter=error", "memory", "16M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"))
    device = await NbdDevice.connect(place, "", writable=True)
    with pytest.raises(errors.Full, match="WRITE of 3 bytes at 5 failed with ENOSPC"):
        await device.write(5, b"abc")
    with pytest.raises(errors.Full):
        await device.write(0, bytes(5 * MEBI))
    assert await device.read(0, 10) == bytes(10)
    await device.close()


async def test_errors_that_come_and_go_are_each_told(start: Servers) -> None:
    client = await Client.connect(
        start(*nbdkit("--filter=error", "pattern", "16M", "error-pread=EIO", "error-pread-rate=30%"))
    )
    answers = await asyncio.gather(*(client.read(at * 4096, 4096) for at in range(300)), return_exceptions=True)
    failed = [one for one in answers if isinstance(one, BaseException)]
    assert 0 < len(failed) < 300
    assert all(isinstance(one, RequestError) for one in failed)
    assert all(one == pattern(at * 4096, 4096) for at, one in enumerate(answers) if isinstance(one, bytes))
    await client.close()


def failing_flush(seconds: float) -> tuple[str, ...]:
    """A megabyte that takes writes, and whose flush fails after some time."""
    flush = f"flush=sleep {seconds}; echo EIO the medium is gone >&2; exit 1"
    can = ("can_write=exit 0", "can_flush=exit 0")
    return nbdkit("eval", "get_size=echo 1M", "pread=head -c $3 /dev/zero", "pwrite=cat >/dev/null", *can, flush)


async def test_a_failed_flush_is_final(start: Servers) -> None:
    device = await NbdDevice.connect(start(*failing_flush(0)), "", writable=True)
    await device.write(0, b"x")
    with pytest.raises(errors.DeviceFailed, match=r"FLUSH failed with EIO"):
        await device.flush()
    for later in (device.write(0, b"y"), device.flush(), device.zero(0, 1)):
        with pytest.raises(errors.DeviceFailed, match="an earlier flush failed"):
            await later
    await device.close()


async def test_the_failure_of_a_cancelled_flush_is_remembered(start: Servers) -> None:
    device = await NbdDevice.connect(start(*failing_flush(0.1)), "", writable=True)
    flushing = asyncio.create_task(device.flush())
    await asyncio.sleep(0.03)
    flushing.cancel()
    assert isinstance((await asyncio.gather(flushing, return_exceptions=True))[0], asyncio.CancelledError)
    await device.write(0, b"x")
    await asyncio.sleep(0.5)
    with pytest.raises(errors.DeviceFailed, match="an earlier flush failed"):
        await device.write(0, b"y")
    await device.close()


@pytest.mark.parametrize("policy", ["allow", "error"])
async def test_a_server_with_large_blocks_is_asked_for_whole_ones(start: Servers, policy: str) -> None:
    size = 3 * MEBI
    blocks = ("blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=256K")
    place = start(
        *nbdkit("--filter=blocksize-policy", "memory", str(size), *blocks, f"blocksize-error-policy={policy}")
    )
    device = await NbdDevice.connect(place, "", writable=True)
    dice, model = random.Random(5), bytearray(size)
    for _ in range(150):
        at = dice.randrange(size)
        length = dice.randrange(min(600_000, size - at) + 1)
        if dice.random() < 0.5:
            model[at : at + length] = data = dice.randbytes(length)
            await device.write(at, data)
        elif dice.random() < 0.5:
            model[at : at + length] = bytes(length)
            await device.zero(at, length)
        assert await device.read(at, length) == model[at : at + length]
        found = await device.extents(at, length)
        assert sum(extent.length for extent in found) == length
    assert await device.read(0, size) == model
    await device.close()


async def test_without_write_zeroes_zeros_are_written(start: Servers) -> None:
    device = await NbdDevice.connect(
        start(*nbdkit("--filter=nozero", "memory", "4M", "zeromode=none")), "", writable=True
    )
    assert not device._client.export.flags & Transmission.SEND_WRITE_ZEROES
    await device.write(0, b"x" * 4 * MEBI)
    await device.zero(100, 3 * MEBI)
    assert await device.read(0, 4 * MEBI) == b"x" * 100 + bytes(3 * MEBI) + b"x" * (MEBI - 100)
    await device.close()


async def test_without_extents_all_is_data(start: Servers) -> None:
    for options in (("--filter=noextents", "memory", "4M"), ("--no-sr", "memory", "4M")):
        device = await NbdDevice.connect(start(*nbdkit(*options)), "", writable=False)
        assert list(await device.extents(5, MEBI)) == [Extent(5, MEBI)]
        await device.close()


async def test_extents_in_many_answers_are_put_together(start: Servers) -> None:
    device = await NbdDevice.connect(start(*nbdkit("memory", "16G")), "", writable=True)
    await device.write(5 << 30, b"d" * 65536)
    found = list(await device.extents(0, 16 << 30))
    assert found == [
        Extent(0, 5 << 30, zero=True),
        Extent(5 << 30, 65536),
        Extent((5 << 30) + 65536, (11 << 30) - 65536, zero=True),
    ]
    await device.zero(0, 16 << 30)
    assert all(extent.zero for extent in await device.extents(0, 16 << 30))
    await device.close()


async def test_a_read_only_export_is_no_target(start: Servers) -> None:
    place = start(*nbdkit("--readonly", "memory", "1M"))
    with pytest.raises(errors.Usage, match="read-only"):
        await NbdDevice.connect(place, "", writable=True)
    device = await NbdDevice.connect(place, "", writable=False)
    with pytest.raises(errors.DeviceFailed, match="opened to read"):
        await device.write(0, b"x")
    await device.close()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_server_that_dies_or_falls_silent_fails_what_is_in_flight(start: Servers, end: signal.Signals) -> None:
    place = start(*nbdkit("--filter=delay", "memory", "1M", "delay-read=30"))
    client = await Client.connect(place, tuning=Tuning(stall=0.4))
    reads = [asyncio.create_task(client.read(0, 512)) for _ in range(40)]
    await asyncio.sleep(0.05)
    start.signal(end)
    for ended in await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), 5):
        assert isinstance(ended, errors.DeviceFailed)
    with pytest.raises(errors.DeviceFailed, match=r"closed the connection|said nothing for"):
        await client.read(0, 1)
    await client.close()


async def test_a_cancelled_write_is_not_overtaken(start: Servers) -> None:
    """The server delays each write a little and works on several at a time: later ones could pass."""
    client = await Client.connect(start(*nbdkit("--filter=delay", "memory", "1M", "delay-write=20ms")))
    for _ in range(5):
        first = asyncio.create_task(client.write(0, b"1" * 4096))
        await asyncio.sleep(0.002)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await client.write(0, b"2" * 512)
        assert await client.read(0, 512) == b"2" * 512
    await client.close()


async def test_cancelled_reads_give_their_place_back(start: Servers) -> None:
    client = await Client.connect(
        start(*nbdkit("--filter=delay", "pattern", "1M", "rdelay=10ms")), tuning=Tuning(in_flight=4)
    )
    for _ in range(10):
        reads = [asyncio.create_task(client.read(0, 512)) for _ in range(12)]
        await asyncio.sleep(0.003)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
    assert await asyncio.wait_for(client.read(8, 8), 5) == pattern(8, 8)
    await client.close()


async def test_qemu_storage_daemon_serves_us(start: Servers, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(8 * MEBI))
    place = start(
        "qemu-storage-daemon",
        *("--blockdev", f"driver=file,node-name=disk,filename={image}"),
        *("--nbd-server", "addr.type=unix,addr.path={socket}"),
        *("--export", "type=nbd,id=e,node-name=disk,name=vda,writable=on"),
    )
    device = await NbdDevice.connect(place, "vda", writable=True)
    await device.write(MEBI + 1, b"through the daemon")
    await device.flush()
    await device.close()
    assert image.read_bytes()[MEBI + 1 : MEBI + 19] == b"through the daemon"


async def test_what_we_write_other_clients_read(start: Servers, tmp_path: Path) -> None:
    tools.need("nbdcopy")
    place = start(*nbdkit("memory", "32M"))
    content = random.Random(3).randbytes(8 * MEBI)
    device = await NbdDevice.connect(place, "", writable=True)
    await device.write(MEBI, content)
    await device.flush()
    copying = await asyncio.create_subprocess_exec("nbdcopy", f"nbd+unix:///?socket={place.socket}", tmp_path / "copy")
    assert await copying.wait() == 0
    assert (tmp_path / "copy").read_bytes()[MEBI : 9 * MEBI] == content
    await device.close()
