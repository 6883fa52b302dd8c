"""Every prefix of the tap's order behind READY is a disk that a power cut could have left: a real ext4, whose writes go
through QEMU's active mirror."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from producers.tap.record import Entry, Kind
from tests.interop.test_tap_qemu import replay, run, spooled
from tests.support import tools
from tests.support.mirror import Host
from tests.support.tapping import tapping

SIZE = 24 << 20


@contextlib.contextmanager
def mounted(host: Host, where: Path) -> Iterator[Path]:
    """The disk vda of `host`, as a file of FUSE, as a loop device, as an ext4 of the kernel's own."""
    device, place = where / "device", where / "mounted"
    device.mkdir()
    place.mkdir()
    with subprocess.Popen(("nbdfuse", str(device), f"nbd+unix:///vda?socket={host.socket}")) as fuse:
        try:
            while not (device / "nbd").exists():
                if fuse.poll() is not None:
                    tools.forbidden("this machine does not let us mount by FUSE")
                time.sleep(0.02)
            yield from looped(device / "nbd", place)
        finally:
            subprocess.run(("umount", str(device)), check=True)


def looped(device: Path, place: Path) -> Iterator[Path]:
    """The file `device` mounted at `place`."""
    done = run("mount", "-o", "loop", str(device), str(place))
    if done.returncode:
        tools.forbidden(f"this machine does not let us mount a file system: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(("umount", str(place)), check=True)


def work(place: Path, dice: random.Random) -> None:
    """What a guest does that means it: files are written, synced, renamed, removed; a counter that is durable each
    time it is said."""
    counter = os.open(place / "counter", os.O_WRONLY | os.O_DSYNC | os.O_CREAT)
    for count in range(120):
        new = place / f"new-{dice.randrange(8)}"
        with open(new, "wb") as file:
            file.write(dice.randbytes(dice.randrange(1, 60_000)))
            os.fsync(file.fileno())
        os.rename(new, place / f"file-{dice.randrange(12)}")
        if dice.random() < 0.2:
            (place / f"file-{dice.randrange(12)}").unlink(missing_ok=True)
        os.pwrite(counter, b"%08d" % count, 0)
    os.close(counter)


def sound(image: Path) -> bool:
    """Whether the file system is whole once its journal was replayed."""
    run("e2fsck", "-y", "-E", "journal_only", str(image))
    return run("e2fsck", "-f", "-n", str(image)).returncode == 0


def counted(image: Path) -> int:
    """What the counter says; -1 when it is not there yet."""
    said = run("debugfs", "-R", "cat counter", str(image)).stdout
    return int(said) if said.strip() else -1


def prefix(image: Path, entries: list[Entry]) -> Path:
    image.write_bytes(replay(entries, SIZE)[0])
    return image


async def test_a_file_system_is_whole_at_every_prefix_and_its_counter_never_goes_back(tmp_path: Path) -> None:
    tools.need("mke2fs", "e2fsck", "debugfs", "nbdfuse")
    dice = random.Random(7)
    with tapping(tmp_path / "tap", disks={"vda": SIZE}) as tap:
        host = Host(tmp_path / "host", SIZE, "vda")
        try:
            assert (
                run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-J", "size=2", str(host.image("vda"))).returncode == 0
            )
            await asyncio.to_thread(host.mirror, tap.order.socket)
            ready = tap.ask("mark", words="READY")["number"]
            with mounted(host, tmp_path) as place:
                await asyncio.to_thread(work, place, dice)
        finally:
            host.close()
        entries = spooled(tap)
    assert sum(entry.kind is Kind.WRITTEN for entry in entries[ready:]) > 500
    image, counts = tmp_path / "prefix.img", []
    for past in sorted(dice.sample(range(ready, len(entries)), 25)):
        assert sound(prefix(image, entries[:past])), f"the first {past} of {len(entries)}"
        counts.append(counted(image))
    assert counts == sorted(counts)
    assert counts[-1] > 50
    # Would this test see it?  The same writes, out of order.
    shuffled = entries[ready:]
    dice.shuffle(shuffled)
    broken = [sound(prefix(image, entries[:ready] + shuffled[:past])) for past in range(100, len(shuffled), 150)]
    assert not all(broken)
