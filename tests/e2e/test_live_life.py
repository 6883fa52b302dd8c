"""What befalls a machine that is captured by checkpoints, each with an outcome that its operator can rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import hypervisor
from tests.support.hypervisor import Libvirtd, Vm
from tests.support.live import machine
from tests.support.live.protected import NAME, Protected, protected
from tests.support.live.vm import MIB

pytestmark = pytest.mark.timeout(900)
THEIRS = """<domainbackup mode='pull'><server transport='unix' socket='{socket}'/>
<disks><disk name='vda' backup='yes' type='file'><driver type='qcow2'/><scratch file='{scratch}'/></disk></disks>
</domainbackup>"""


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    """One of our own: it is stopped here."""
    hypervisor.need()
    with Libvirtd() as started:
        yield started


@pytest.fixture
def web(libvirtd: Libvirtd, tmp_path: Path) -> Iterator[Protected]:
    """A guest of two disks that is captured by checkpoints."""
    with Vm(libvirtd) as vm:
        vm.start()
        with protected(libvirtd, vm, tmp_path) as found:
            found.captured("checkpoint")
            yield found


def _patiently(found: Protected, *words: str | Path) -> None:
    """A command of virsh's that libvirt refuses while one of our passes is under way, until it is taken."""
    found.wait(lambda: "error" not in found.vm.libvirtd.virsh(*words, check=False))


def test_somebody_elses_backup_is_waited_for_and_not_touched(web: Protected) -> None:
    vm = web.vm
    backup = vm.folder / "theirs.xml"
    backup.write_text(THEIRS.format(socket=vm.folder / "theirs.sock", scratch=vm.folder / "theirs.scratch"))
    _patiently(web, "backup-begin", vm.name, backup)
    mark = vm.mark()
    told = web.troubled("another job")
    assert "let it end first" in told
    assert str(vm.folder / "theirs.sock") in vm.libvirtd.virsh("backup-dumpxml", vm.name)
    vm.wait_beats(5)
    assert vm.longest(mark) < 2
    vm.libvirtd.virsh("domjobabort", vm.name)
    web.captured("checkpoint")
    web.ends_equal()


def test_a_libvirtd_that_is_killed_and_comes_again_is_found_and_the_guest_runs_on(web: Protected) -> None:
    vm = web.vm
    pid, mark = vm.pid, vm.mark()
    for _ in range(3):
        vm.libvirtd.kill()
        web.troubled("systemctl start libvirtd")
        vm.libvirtd.start()
        web.captured("checkpoint")
    vm.wait_beats(5)
    assert vm.pid == pid
    assert vm.longest(mark) < 2
    web.ends_equal()


def test_a_disk_that_is_plugged_in_is_captured_and_one_that_is_pulled_stays_as_it_was(web: Protected) -> None:
    vm = web.vm
    path = vm.folder / "vdc.qcow2"
    machine.make_disk(path, 64 * MIB, "qcow2")
    device = vm.folder / "vdc.xml"
    device.write_text(vm.disk_xml("vdc", path, "qcow2"))
    _patiently(web, "attach-device", vm.name, device, "--live")
    web.wait(lambda: web.replica("vdc").exists() and [one["name"] for one in web.source()["disks"]][2:] == ["vdc"])
    web.captured("checkpoint")
    _patiently(web, "detach-device", vm.name, device, "--live")
    web.wait(lambda: any(one["name"] == "vdc" and one["gone"] for one in web.source()["disks"]))
    web.captured("checkpoint")
    said = {one["name"]: one["gone"] for one in web.source()["disks"]}
    assert said == {"vda": "", "vdb": "", "vdc": "not in the config any more: its volume stays as it was"}
    vm.disks["vdc"] = path
    web.ends_equal()


def test_a_disk_that_grows_grows_at_the_target(web: Protected) -> None:
    vm = web.vm
    _patiently(web, "blockresize", vm.name, "vdb", f"{96 * MIB}B")
    web.wait(lambda: web.replica("vdb").stat().st_size == 96 * MIB)
    web.captured("checkpoint")
    web.ends_equal()


@pytest.mark.parametrize("how", ["checkpoint", "bitmap"])
def test_a_checkpoint_that_somebody_took_away_is_told_and_made_anew(how: str, web: Protected) -> None:
    vm = web.vm
    steps = len(web.stepped())

    def taken() -> bool:
        """Whether the one that the next pass stands on is gone: one was taken, and everything was read."""
        for name in vm.libvirtd.virsh("checkpoint-list", vm.name, "--name").split():
            if how == "checkpoint":
                vm.libvirtd.virsh("checkpoint-delete", vm.name, name, check=False)
            else:
                _remove_bitmap(vm, name)
        return any(rung == "scan" for rung, _ in web.stepped()[steps:])

    web.wait(taken)
    reason = next(reason for rung, reason in web.stepped()[steps:] if rung == "scan")
    assert ("is gone" if how == "checkpoint" else "changes since then are not known") in reason
    web.captured("checkpoint")
    web.ends_equal()


def _remove_bitmap(vm: Vm, name: str) -> None:
    """Behind libvirt's back, from every disk that has it; what a job uses stays."""
    nodes = json.loads(vm.libvirtd.virsh("qemu-monitor-command", vm.name, '{"execute": "query-named-block-nodes"}'))
    for node in nodes["return"]:
        if any(one.get("name") == name for one in node.get("dirty-bitmaps", ())):
            command = {"execute": "block-dirty-bitmap-remove", "arguments": {"node": node["node-name"], "name": name}}
            vm.libvirtd.virsh("qemu-monitor-command", vm.name, json.dumps(command))


def test_a_paused_machine_can_be_reverted_and_its_replica_follows(libvirtd: Libvirtd, tmp_path: Path) -> None:
    """QEMU 7.2 does not come up from an internal snapshot while a checkpoint counts: a pause takes it away."""
    with Vm(libvirtd) as vm:
        vm.start()
        libvirtd.virsh("snapshot-create-as", vm.name, "before")
        with protected(libvirtd, vm, tmp_path) as web:
            web.captured("checkpoint")
            vm.wait_beats(20)
            web.further()
            assert web.sites.source.ferry.run("pause", NAME).code == 0
            web.wait(lambda: web.source()["state"] == "paused")
            assert libvirtd.virsh("checkpoint-list", vm.name, "--name").strip() == ""
            libvirtd.virsh("snapshot-revert", vm.name, "before")
            assert vm.state() == "running"
            assert web.sites.source.ferry.run("resume", NAME).code == 0
            web.captured("checkpoint")
            web.ends_equal()
        libvirtd.virsh("snapshot-delete", vm.name, "before")
