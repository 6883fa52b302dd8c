"""The private libvirtd and its guests themselves, on which the live tests stand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import hypervisor
from tests.support.hypervisor import Libvirtd, Vm, wait_until
from tests.support.live import disks

pytestmark = pytest.mark.timeout(600)


def raw(vm: Vm, disk: str, name: str) -> Path:
    """A raw copy of what `disk` holds now; the guest must not run."""
    made = vm.folder / name
    subprocess.run(["qemu-img", "convert", "-f", vm.format, "-O", "raw", vm.disks[disk], made], check=True)
    return made


def test_a_guest_writes_is_pulled_the_plug_and_goes_on_where_it_was(libvirtd: Libvirtd) -> None:
    with Vm(libvirtd, "plug") as vm:
        vm.start()
        vm.wait_beats(10)
        vm.kill()
        first = disks.look_together([raw(vm, disk, f"{disk}.first") for disk in vm.disks])
        assert all(seen.beat >= 10 and seen.newest for seen in first)
        mark = vm.mark()
        vm.start()
        vm.wait_beats(10)
        assert vm.longest(mark) > 0
        vm.destroy()
        second = disks.look_together([raw(vm, disk, f"{disk}.second") for disk in vm.disks])
        assert all(now.beat >= then.beat + 10 for now, then in zip(second, first, strict=True))
        # The controls: what is not of one instant, or not whole, is noticed.
        with pytest.raises(disks.Torn, match="one instant"):
            disks.look_together([vm.folder / "vda.first", vm.folder / "vdb.second"])
        blurred = (vm.folder / "vda.first").read_bytes()
        beat = f"{first[0].beat:016}".encode() * 256
        (vm.folder / "vda.first").write_bytes(blurred.replace(beat, beat[:2048] + bytes(2048)))
        with pytest.raises(disks.Torn, match="the counter is torn"):
            disks.look(vm.folder / "vda.first")


def test_a_guest_answers_its_agent_and_goes_down_in_order(libvirtd: Libvirtd) -> None:
    with Vm(libvirtd, "agent", disks=["vda"], format="raw") as vm:
        vm.start()
        assert "/dev/vda on /mnt/vda" in vm.run("mount")
        assert vm.ask_agent("guest-fsfreeze-freeze") == 1
        mark = vm.mark()
        wait_until(lambda: vm.longest(mark) > 0.5, "a write waits")
        assert vm.reports()[-1].beat == vm.reports()[-2].beat
        assert vm.ask_agent("guest-fsfreeze-thaw") == 1
        vm.wait_beats(5)
        vm.shut_down()
        assert disks.look(vm.disks["vda"]).beat >= 5


def test_guests_outlive_libvirtd_and_what_they_wait_is_measured() -> None:
    hypervisor.need()
    with Libvirtd() as libvirtd, Vm(libvirtd, "outlives", disks=["vda"]) as vm:
        vm.start()
        pid = vm.pid
        libvirtd.kill()
        libvirtd.start()
        libvirtd.stop()
        libvirtd.start()
        assert (vm.state(), vm.pid) == ("running", pid)
        vm.wait_beats(5)
        assert vm.run("dd", "if=/dev/zero", "of=/mnt/vda/rate", "bs=1M", "count=4") == ""
        assert '"per_second"' in vm.run("load", "rate", "/mnt/vda/rate", "4096", "4", "0.5")


def test_nothing_is_left_of_it_even_when_the_test_is_killed() -> None:
    hypervisor.need()
    script = (
        "import time; from tests.support.hypervisor import *\n"
        "with Libvirtd() as one, Libvirtd() as two, Vm(one, 'left', disks=['vda'], load=False) as vm:\n"
        "    vm.start(wait=False); print(one.folder, two.folder, vm.pid, flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first, second, pid = process.stdout.readline().split()
    os.kill(int(pid), 0)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: not _at(first) and not _at(second) and not Path("/proc", pid).exists(), "all of it ended")
    process.stdout.close()
    for folder in (first, second):
        shutil.rmtree(folder)


def _at(folder: str) -> bool:
    """Whether anybody still has the folder in its command, or mounted."""
    words = folder.encode()
    return any(words in _read(path / "cmdline") + _read(path / "mountinfo") for path in Path("/proc").glob("[0-9]*"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended while we looked
        return b""
