"""What libvirt tells us of real machines: finding them, their agents, what happens to them."""

from __future__ import annotations

import asyncio
import os
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from engine import errors
from engine.hypervisor import features, happenings, trouble
from engine.hypervisor.connection import Hypervisor
from engine.hypervisor.happenings import Happening
from tests.support import hypervisor
from tests.support.hypervisor import Libvirtd, Vm
from tests.support.live import machine

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
async def ours(libvirtd: Libvirtd) -> AsyncIterator[Hypervisor]:
    opened = await Hypervisor.connect(libvirtd.uri)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def vm(libvirtd: Libvirtd) -> Iterator[Vm]:
    with Vm(libvirtd, "web-1") as started:
        started.start()
        yield started


class Watched:
    """What was told so far."""

    def __init__(self) -> None:
        self.all: list[Happening] = []

    def told(self, happening: Happening) -> None:
        self.all.append(happening)

    async def until(self, what: str, detail: str = "", uuid: str = "") -> Happening:
        def fits(one: Happening) -> bool:
            return one.what == what and detail in one.detail and uuid in one.uuid

        until = time.monotonic() + 60
        while not any(map(fits, self.all)):
            assert time.monotonic() < until, f"{what} {detail} was not told; {self.all} was"
            await asyncio.sleep(0.05)
        found = next(one for one in self.all if fits(one))
        self.all = self.all[self.all.index(found) + 1 :]
        return found


async def in_thread(call: Callable[..., Any], *words: Any) -> Any:
    """So that our loop goes on meanwhile."""
    return await asyncio.to_thread(call, *words)


async def test_a_machine_is_found_by_its_name_and_its_uuid_with_its_disks(ours: Hypervisor, vm: Vm) -> None:
    found = await ours.domain("web-1")
    assert found == await ours.domain(vm.uuid)
    assert found in await ours.domains()
    assert (found.uuid, found.active, found.paused, found.persistent) == (vm.uuid, True, False, True)
    assert (found.agent, found.tpm, found.nvram) == (True, False, "")
    assert [(one.name, one.path, one.format, one.size, one.excluded) for one in found.disks] == [
        (name, str(path), "qcow2", 64 << 20, "") for name, path in vm.disks.items()
    ]


async def test_the_definition_is_one_that_another_host_can_define(ours: Hypervisor, vm: Vm) -> None:
    found = await ours.domain(vm.uuid)
    root = ET.fromstring(found.definition)
    assert root.get("id") is None
    assert root.findtext("uuid") == vm.uuid
    assert root.find("devices/disk/source[@index]") is None
    with Vm(vm.libvirtd, "copy", load=False) as copy:
        changed = found.definition.replace(vm.uuid, copy.uuid).replace("<name>web-1<", "<name>copy<")
        (copy.folder / "new.xml").write_text(changed)
        copy.libvirtd.virsh("define", copy.folder / "new.xml")
        assert (await ours.domain("copy")).uuid == copy.uuid


async def test_a_name_that_is_not_there_is_said_with_those_that_are_near(ours: Hypervisor, vm: Vm) -> None:
    with pytest.raises(errors.NotFound, match=r"no machine web-2 at .*: there is web-1"):
        await ours.domain("web-2")
    with pytest.raises(errors.NotFound, match="no domain with matching uuid"):
        await ours.job("00000000-1111-2222-3333-444444444444")


async def test_disks_that_are_not_captured_say_why_also_of_a_machine_that_is_off(
    ours: Hypervisor, libvirtd: Libvirtd
) -> None:
    more = (
        "<disk type='file' device='cdrom'><target dev='sdz' bus='scsi'/><readonly/></disk>"
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='x'>"
        "<host name='localhost' port='1'/></source><target dev='vdx' bus='virtio'/></disk>"
    )
    with Vm(libvirtd, "off", disks=["vda"], format="raw", agent="", more=more) as vm:
        found = await ours.domain("off")
        assert (found.active, found.agent) == (False, False)
        assert {one.name: one.excluded for one in found.disks} == {
            "vda": "", "sdz": "a CD-ROM", "vdx": "no local file (nbd)",
        }  # fmt: skip
        assert [(one.name, one.format, one.size) for one in found.captured] == [("vda", "raw", 64 << 20)]
        vm.disks["vda"].unlink()
        assert (await ours.domain("off")).captured[0].size == 0


async def test_what_qemu_can_do_is_asked_of_itself(ours: Hypervisor, vm: Vm) -> None:
    have = await ours.features(vm.uuid)
    assert {features.COPY_MODE, features.YANK, features.BREAK_SNAPSHOT} <= have
    assert features.JOB_CHANGE in have or tuple(map(int, (await ours.versions())[1].split("."))) < (8, 2)
    with pytest.raises(errors.Usage, match="no-such-command"):
        await ours.qmp(vm.uuid, "no-such-command")


async def test_what_happens_to_a_machine_is_told(ours: Hypervisor, libvirtd: Libvirtd) -> None:
    watched = Watched()
    await ours.watch(watched.told)
    with Vm(libvirtd, "life", disks=["vda"]) as vm:
        await watched.until("defined", "added", vm.uuid)
        await in_thread(vm.start)
        await watched.until("started", "booted", vm.uuid)
        await watched.until("agent connected")
        await in_thread(libvirtd.virsh, "suspend", vm.name)
        await watched.until("paused", "asked")
        assert (await ours.domain(vm.uuid)).paused
        await in_thread(libvirtd.virsh, "resume", vm.name)
        await watched.until("resumed")
        new = vm.folder / "vdb.img"
        machine.make_disk(new, 8 << 20, "raw")
        (vm.folder / "vdb.xml").write_text(vm.disk_xml("vdb", new, "raw"))
        await in_thread(libvirtd.virsh, "attach-device", vm.name, vm.folder / "vdb.xml")
        await watched.until("disk added", "disk1")
        assert [one.name for one in (await ours.domain(vm.uuid)).captured] == ["vda", "vdb"]
        await in_thread(libvirtd.virsh, "detach-device", vm.name, vm.folder / "vdb.xml")
        await watched.until("disk removed", "disk1")
        await in_thread(vm.shut_down)
        await watched.until("stopped", "shut down")
        await in_thread(vm.start, False)
        await watched.until("started")
        await in_thread(vm.kill)
        await watched.until("crashed", "failed", vm.uuid)
    await watched.until("undefined", "removed")


async def test_a_libvirtd_that_goes_is_told_and_found_again() -> None:
    hypervisor.need()
    with Libvirtd() as libvirtd, Vm(libvirtd, "stays", disks=["vda"], load=False, agent="") as vm:
        await in_thread(vm.start)
        ours = await Hypervisor.connect(libvirtd.uri)
        watched = Watched()
        await ours.watch(watched.told)
        for end in (libvirtd.kill, libvirtd.stop):
            await in_thread(end)
            await watched.until(happenings.LOST)
            with pytest.raises(errors.Transient, match="systemctl start libvirtd"):
                await ours.domains()
            await in_thread(libvirtd.start)
            await watched.until(happenings.AGAIN)
            assert (await ours.domain("stays")).active
        await in_thread(vm.destroy)
        await watched.until("stopped", "destroyed", vm.uuid)
        # Without anybody who watches it comes again at the next call, and that is soon enough.
        quiet = await Hypervisor.connect(libvirtd.uri)
        await in_thread(libvirtd.kill)
        await in_thread(libvirtd.start)
        assert not (await quiet.domain("stays")).active
        await quiet.close()
        await quiet.close()
        await ours.close()


async def test_a_libvirtd_that_hangs_fails_what_is_asked_and_is_used_again_when_it_goes_on() -> None:
    hypervisor.need()
    with Libvirtd() as libvirtd:
        ours = await Hypervisor.connect(libvirtd.uri)
        watched = Watched()
        await ours.watch(watched.told)
        libvirtd.hang()
        try:
            with pytest.raises(errors.Transient, match="libvirtd is away"):
                await ours.domains()
            await watched.until(happenings.LOST)
        finally:
            libvirtd.go_on()
        await watched.until(happenings.AGAIN)
        assert await ours.domains() == []
        with Vm(libvirtd, "once", disks=["vda"]):
            await watched.until("defined")
        await watched.until("undefined")
        await ours.domains()
        assert [one.what for one in watched.all] == [], "each is told once"
        await ours.close()


async def test_a_user_who_may_not_is_told_which_group_may(libvirtd: Libvirtd) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(errors.Usage, match="Permission denied; let this user into the group libvirt"):
            await Hypervisor.connect(libvirtd.uri)
    finally:
        os.seteuid(0)


async def test_an_agent_freezes_and_thaws(ours: Hypervisor, vm: Vm) -> None:
    assert await ours.agent_answers(vm.uuid, 5)
    assert await ours.freeze(vm.uuid, 20) == 2
    try:
        assert await ours.agent_answers(vm.uuid, 5)
        with pytest.raises(errors.InUse, match="frozen already"):
            await ours.freeze(vm.uuid, 20)
    finally:
        assert await ours.thaw(vm.uuid) == 2
    assert await ours.thaw(vm.uuid) == 0
    vm.wait_beats(5)


@pytest.mark.parametrize("agent", ["", "none", "hangs"])
async def test_an_agent_that_does_not_answer_is_said(agent: str, ours: Hypervisor, libvirtd: Libvirtd) -> None:
    with Vm(libvirtd, f"mute-{agent or 'less'}", disks=["vda"], agent=agent) as vm:
        await in_thread(vm.start)
        assert not await ours.agent_answers(vm.uuid, 1)
        with pytest.raises(trouble.AgentSilent, match="qemu-guest-agent running"):
            await ours.freeze(vm.uuid, 1)
        with pytest.raises(trouble.AgentSilent):
            await ours.thaw(vm.uuid, 1)
        vm.wait_beats(5)


# A write that is not done after 3 s says that the file systems are frozen.
FALLS_SILENT = """(while :; do echo > /mnt/vda/probe & sleep 3; kill -0 $! && break; done
killall -STOP qemu-ga; sleep 40; killall -CONT qemu-ga) > /dev/null 2>&1 &"""


async def answers(ours: Hypervisor, uuid: str, wanted: bool) -> None:
    """Until the agent answers, or does not."""
    for _ in range(600):
        if await ours.agent_answers(uuid, 1) == wanted:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the agent goes on {'being silent' if wanted else 'answering'}")


async def test_an_agent_that_falls_silent_within_a_freeze_is_thawed_when_it_is_back(
    ours: Hypervisor, libvirtd: Libvirtd
) -> None:
    with Vm(libvirtd, "silent", disks=["vda"]) as vm:
        await in_thread(vm.start)
        await in_thread(vm.run, "sh", "-c", FALLS_SILENT)
        assert await ours.freeze(vm.uuid, 20) == 1
        await answers(ours, vm.uuid, False)
        with pytest.raises(trouble.AgentSilent):
            await ours.thaw(vm.uuid, 1)
        await answers(ours, vm.uuid, True)
        # The thaw that was given up may have been done when the agent woke up.
        await ours.thaw(vm.uuid)
        await in_thread(vm.wait_beats, 5)


async def test_what_cannot_be_connected_to_says_the_way_out(tmp_path: Any) -> None:
    hypervisor.need_bindings()
    with pytest.raises(errors.Transient, match="systemctl start libvirtd"):
        await Hypervisor.connect(f"qemu:///system?socket={tmp_path}/none")
    with pytest.raises(errors.Usage, match="no QEMU"):
        await Hypervisor.connect("test:///default")
