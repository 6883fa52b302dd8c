"""A machine's disk over a real Kafka: the replica boots, is clean, follows what the guest changes, and is equal."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import guest, tools
from tests.support.ferry import MEBI, Ferry
from tests.support.kafka import Cluster

pytestmark = pytest.mark.timeout(400)
CHANGED_KIB = 300


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bootable qcow2 that has booted and shut down already."""
    guest.need_guest()
    tools.need("e2fsck", "qemu-img")
    made = tmp_path_factory.mktemp("guest") / "guest.qcow2"
    guest.build_image(made)
    guest.change(made, kib=CHANGED_KIB)
    return made


def _clean(raw: Path) -> None:
    """e2fsck finds nothing, and changes nothing."""
    done = subprocess.run([tools.find("e2fsck") or "", "-fn", raw], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _equal(one: Path, other: Path) -> None:
    done = subprocess.run(["qemu-img", "compare", one, other], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Images are identical."), done.stdout + done.stderr


def test_a_machine_replicated_over_kafka_boots_and_follows_its_changes(
    machine: Path, kafka: Cluster, tmp_path: Path
) -> None:
    ferry, replica = Ferry(tmp_path / "state"), tmp_path / "replica.raw"
    first = ferry.replicate(machine, replica, "--bus", kafka.url)
    _equal(machine, replica)
    _clean(replica)
    console = guest.boot(replica, "raw")
    assert guest.counter(console) == 2
    assert len(guest.files(console)) == 9

    before = guest.files(guest.change(machine, kib=CHANGED_KIB))
    delta = ferry.replicate(machine, replica, "--bus", kafka.url)
    assert delta["epoch"] > first["epoch"]
    assert CHANGED_KIB << 10 < delta["sent"] < first["sent"] / 5
    assert delta["sent"] < 3 * MEBI, "more has travelled than a small change to a file system"
    _equal(machine, replica)
    _clean(replica)
    console = guest.boot(replica, "raw")
    assert guest.counter(console) == 3
    assert guest.files(console).items() >= before.items()
    assert ferry.run("verify", replica).code == 0


def test_a_raw_machine_replicated_to_qcow2_boots(machine: Path, tmp_path: Path) -> None:
    ferry, source, replica = Ferry(tmp_path / "state"), tmp_path / "machine.raw", tmp_path / "replica.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", machine, source], check=True)
    ferry.replicate(source, replica)
    _equal(source, replica)
    counted = guest.counter(guest.change(source, kib=CHANGED_KIB, format="raw"))
    delta = ferry.replicate(source, replica)
    assert delta["sent"] < 3 * MEBI
    _equal(source, replica)
    assert guest.counter(guest.boot(replica)) == counted + 1
    assert replica.stat().st_blocks * 512 < 64 * MEBI
