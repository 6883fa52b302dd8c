"""A running machine, protected by checkpoints: two disks of one instant, only what was written travels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import hypervisor
from tests.support.daemons import Sites
from tests.support.ferry import until
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
def sites(tmp_path: Path, libvirtd: Libvirtd) -> Iterator[Sites]:
    made = Sites(tmp_path, every="1s")
    made.source.config |= {"hypervisor": libvirtd.uri, "scratch": str(libvirtd.folder / "scratch")}
    made.source.config["streams"][NAME] = {"vm": "guest"}
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
    """What the replica holds at the moment, once nothing is applied to it; then it goes on."""
    sites.target.stop()
    scratch.mkdir()
    copies = [Path(shutil.copy(path, scratch)) for path in replicas(sites)]
    sites.target.start()
    return disks.look_together(copies)


def test_a_running_machine_is_replicated_and_every_epoch_is_of_one_instant(
    sites: Sites, libvirtd: Libvirtd, tmp_path: Path
) -> None:
    with Vm(libvirtd) as vm:
        vm.start()
        sites.start()
        until(lambda: usable(sites))
        until(lambda: sites.source.stream(NAME).get("rung") == "checkpoint")
        beats = []
        for turn in range(3):
            vm.wait_beats(20)
            _further(sites)
            beats.append(looked_at(sites, tmp_path / f"turn-{turn}")[0].beat)
        assert beats == sorted(set(beats)), "the replica went back, or stood still"
        assert sites.source.stream(NAME)["why"] == ""
