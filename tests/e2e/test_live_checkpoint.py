"""A running machine, protected by checkpoints: two disks of one instant, only what was written travels."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import hypervisor
from tests.support.daemons import Sites
from tests.support.ferry import same, until
from tests.support.hypervisor import Libvirtd, Vm
from tests.support.live import disks

pytestmark = pytest.mark.timeout(600)
NAME = "web"


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    hypervisor.need()
    with Libvirtd() as started:
        yield started


@pytest.fixture
def sites(tmp_path: Path, libvirtd: Libvirtd, vm: Vm) -> Iterator[Sites]:
    made = Sites(tmp_path, every="1s")
    made.source.config |= {"hypervisor": libvirtd.uri, "scratch": str(libvirtd.folder / "scratch")}
    made.source.config["streams"][NAME] = {"vm": vm.uuid, "keep": "1h"}
    made.source.write()
    try:
        yield made
    finally:
        made.stop()


def replicas(sites: Sites) -> list[Path]:
    return [sites.replicas / f"site-a-{NAME}.img", sites.replicas / f"site-a-{NAME}-vdb.img"]


def usable(sites: Sites) -> int:
    """The last epoch that can be used at the target; 0: none."""
    return int(sites.target.stream(NAME).get("usable_epoch") or 0)


def _further(sites: Sites) -> None:
    """Two epochs that can be used came after this call: the later one was begun after it."""
    epoch = usable(sites)
    until(lambda: usable(sites) > epoch + 1)


def looked_at(sites: Sites, scratch: Path) -> list[disks.Seen]:
    """What the replica holds at the moment: nothing is applied to it, and no epoch is open; then it goes on."""
    sites.target.stop()
    assert sites.target.ferry.run("recover", NAME).code == 0
    scratch.mkdir()
    copies = [Path(shutil.copy(path, scratch)) for path in replicas(sites)]
    sites.target.start()
    return disks.look_together(copies)


_numbers = itertools.count(1)


@pytest.fixture
def vm(libvirtd: Libvirtd) -> Iterator[Vm]:
    with Vm(libvirtd, f"guest-{next(_numbers)}") as made:
        yield made


def captured(sites: Sites, rung: str) -> None:
    """Wait until it is captured by this rung, and an epoch by it can be used."""
    until(lambda: sites.source.stream(NAME).get("rung") == rung)
    _further(sites)


def equal(sites: Sites, vm: Vm) -> bool:
    """Whether the replicas are the disks of a machine that is off, byte by byte, as qemu-img reads those."""
    for disk, replica in zip(vm.disks.values(), replicas(sites), strict=True):
        raw = disk.with_suffix(".raw")
        subprocess.run(["qemu-img", "convert", "-U", "-f", vm.format, "-O", "raw", disk, raw], check=True)
        if not same(raw, replica):
            return False
    return True


def test_a_running_machine_is_replicated_and_every_epoch_is_of_one_instant(
    sites: Sites, vm: Vm, tmp_path: Path
) -> None:
    vm.start()
    sites.start()
    until(lambda: usable(sites))
    captured(sites, "checkpoint")
    beats = []
    for turn in range(3):
        vm.wait_beats(20)
        _further(sites)
        beats.append(looked_at(sites, tmp_path / f"turn-{turn}")[0].beat)
    assert beats == sorted(set(beats)), "the replica went back, or stood still"
    assert sites.source.stream(NAME)["restarts"] == 0
    told = sites.target.ferry.told("target", "definition", NAME)
    assert str(replicas(sites)[1]) in told["xml"]


def test_a_machine_lives_and_what_was_stopped_is_equal_byte_by_byte(sites: Sites, vm: Vm) -> None:
    """Started, killed, started, shut down: each time everything is read once, and only what differs travels."""
    vm.start()
    sites.start()
    captured(sites, "checkpoint")
    vm.kill()
    until(lambda: sites.source.stream(NAME).get("rung_why") == "it does not run")
    until(lambda: equal(sites, vm))
    vm.start()
    captured(sites, "checkpoint")
    # What a killed daemon left with the machine is in nobody's way.
    vm.wait_beats(5)
    sites.source.kill()
    sites.source.start()
    captured(sites, "checkpoint")
    vm.shut_down()
    until(lambda: equal(sites, vm))
    assert sites.target.stream(NAME)["restarts"] == 0
