"""A machine becomes a stream by one command, and by another nothing of vmferry stays with it."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import hypervisor
from tests.support.daemons import Sites
from tests.support.ferry import until
from tests.support.hypervisor import Libvirtd, Vm

pytestmark = pytest.mark.timeout(600)
SPARE = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>"


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    hypervisor.need()
    with Libvirtd() as started:
        yield started


_numbers = itertools.count(1)


@pytest.fixture
def vm(libvirtd: Libvirtd) -> Iterator[Vm]:
    with Vm(libvirtd, f"web {next(_numbers)}", more=SPARE) as made:
        made.start()
        yield made


@pytest.fixture
def sites(tmp_path: Path, libvirtd: Libvirtd) -> Iterator[Sites]:
    made = Sites(tmp_path)
    made.source.config |= {"hypervisor": libvirtd.uri, "scratch": str(libvirtd.folder / "scratch")}
    made.source.write()
    made.start()
    try:
        yield made
    finally:
        made.stop()


def bitmaps(vm: Vm) -> list[str]:
    """The names of all bitmaps in its images, once it is off."""
    found = [
        subprocess.run(["qemu-img", "info", path], capture_output=True, text=True, check=True).stdout
        for path in vm.disks.values()
    ]
    return [line.strip() for text in found for line in text.splitlines() if line.strip().startswith("name: vmferry-")]


def test_what_would_be_captured_is_said_and_nothing_is_changed(sites: Sites, vm: Vm) -> None:
    said = sites.source.ferry.run("protect", vm.name, "--exclude", "vdb", "--dry-run")
    assert said.code == 0, said.err
    assert f"{vm.name} ({vm.uuid}) would be protected" in said.out
    assert str(vm.disks["vda"]) in said.out
    assert "vdb is not captured: excluded by you" in said.out
    assert "sda is not captured: a CD-ROM" in said.out
    assert "libvirt refuses to migrate or save it" in said.out
    assert sites.source.streams() == {}


def test_a_machine_is_protected_over_restarts_and_let_go_without_a_trace(
    sites: Sites, vm: Vm, libvirtd: Libvirtd
) -> None:
    assert sites.source.ferry.run("protect", vm.name, "--every", "1s").code == 0
    until(lambda: sites.source.stream(vm.name).get("rung") == "checkpoint")
    until(lambda: sites.target.stream(vm.name).get("usable_epoch"))
    shown = sites.source.ferry.run("status", vm.name)
    assert "capture  checkpoint" in shown.out
    assert f"vm       {vm.uuid}" in shown.out
    # Once more, and it is changed; what was asked outlives the daemon.
    assert sites.source.ferry.run("protect", vm.name, "--every", "2s", "--mode", "scan").code == 0
    sites.source.stop()
    sites.source.start()
    until(lambda: sites.source.stream(vm.name).get("rung_why") == "its `mode` is scan")
    assert sites.source.stream(vm.name)["every"] == 2
    assert sites.source.ferry.run("protect", vm.name, "--every", "1s").code == 0
    until(lambda: sites.source.stream(vm.name).get("rung") == "checkpoint")
    # A word that is wrong takes nothing from it.
    assert sites.source.ferry.run("protect", vm.name, "--mode", "best").code == 2
    assert sites.source.stream(vm.name)["every"] == 1

    gone = sites.source.ferry.run("unprotect", vm.name)
    assert gone.code == 0, gone.err
    assert sites.source.streams() == {}
    assert libvirtd.virsh("checkpoint-list", vm.name, "--name").strip() == ""
    assert "urn:vmferry" not in libvirtd.virsh("dumpxml", vm.name)
    assert not list((libvirtd.folder / "scratch").iterdir())
    assert not list((sites.source.state / "source" / "protected").iterdir())
    job = libvirtd.virsh("domjobinfo", vm.name)
    assert "None" in job, job
    vm.shut_down()
    assert bitmaps(vm) == []


def test_what_cannot_be_protected_is_said_with_the_way_out(sites: Sites, vm: Vm) -> None:
    unknown = sites.source.ferry.run("protect", "nobody")
    assert unknown.code == 3
    nothing = sites.source.ferry.run("protect", vm.name, "--exclude", "vda", "--exclude", "vdb")
    assert nothing.code == 2
    assert "has no disk that can be captured" in nothing.err
    other = sites.source.ferry.run("protect", vm.name, "--exclude", "vdz")
    assert "has no disk vdz" in other.err
    mode = sites.source.ferry.run("protect", vm.name, "--mode", "best")
    assert mode.code == 2
    assert "auto, checkpoint, scan" in mode.err
    assert sites.source.ferry.run("protect", vm.name, "--mode", "best", "--dry-run").code == 2
    assert sites.source.streams() == {}
    refused = sites.source.ferry.run("unprotect", vm.name)
    assert refused.code == 3
