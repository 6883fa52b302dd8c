"""Machines that are not as most are, captured by checkpoints: paused, with a raw disk, without room for scratch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import hypervisor, room
from tests.support.hypervisor import Libvirtd, Vm
from tests.support.live import machine
from tests.support.live.protected import protected
from tests.support.live.vm import MIB

pytestmark = pytest.mark.timeout(900)


def test_a_paused_machine_is_replicated(libvirtd: Libvirtd, tmp_path: Path) -> None:
    with Vm(libvirtd) as vm:
        vm.start()
        libvirtd.virsh("suspend", vm.name)
        with protected(libvirtd, vm, tmp_path) as web:
            # A guest that stands still makes no further epoch.
            web.wait(lambda: web.usable() and web.source().get("rung") == "checkpoint")
            assert vm.state() == "paused"
            libvirtd.virsh("resume", vm.name)
            web.further()
            web.ends_equal()


def test_a_raw_disk_is_captured_beside_one_that_is_tracked(libvirtd: Libvirtd, tmp_path: Path) -> None:
    raw = tmp_path / "vdc.img"
    machine.make_disk(raw, 64 * MIB, "raw")
    with Vm(libvirtd, disks=("vda",), more=Vm.disk_xml("vdc", raw, "raw")) as vm:
        vm.start()
        vm.disks["vdc"] = raw
        with protected(libvirtd, vm, tmp_path / "sites") as web:
            web.captured("checkpoint")
            vm.run("sh", "-c", "mkdir -p /mnt/vdc; mount -t ext4 /dev/vdb /mnt/vdc; echo written > /mnt/vdc/word; sync")
            web.further()
            vm.run("umount", "/mnt/vdc")
            web.ends_equal()


def test_without_room_for_scratch_the_guest_feels_nothing_and_the_way_out_is_told(tmp_path: Path) -> None:
    hypervisor.need()
    with room.small(tmp_path / "scratch", 64 * MIB) as small, Libvirtd() as libvirtd, Vm(libvirtd) as vm:
        vm.start()
        mark = vm.mark()
        with protected(libvirtd, vm, tmp_path / "sites", small.place) as web:
            told = web.troubled(str(small.place), "make room there", "`scratch`")
            assert "are wanted" in told
            vm.wait_beats(20)
            assert vm.longest(mark) < 2
            assert vm.state() == "running"
            assert "no domain backup job" in libvirtd.virsh("backup-dumpxml", vm.name, check=False)
