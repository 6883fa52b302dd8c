"""Mirrors of real machines into a tap, begun by QEMU's monitor and by libvirt: armed, broken, resumed, disarmed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from engine import errors
from engine.hypervisor import domain
from engine.hypervisor.domain import BackupDisk
from producers.machine.mirrors import RECORD, Phase, State, Way
from schemas.extent import Ranges
from tests.support import hypervisor
from tests.support.hypervisor import Libvirtd
from tests.support.live import disks, pulling
from tests.support.live.mirrored import DISKS, SIZE, mirrored
from tests.support.live.vm import MIB
from tests.support.tapping import Tap

pytestmark = pytest.mark.timeout(600)


async def test_a_tap_that_was_killed_is_come_back_to_and_what_it_missed_is_sent_again(libvirtd: Libvirtd) -> None:
    async with mirrored(libvirtd) as web:
        await web.ready()
        mark = web.vm.mark()
        await web.beats()
        images = await web.copied()
        web.tap.kill()
        assert "vd" in (await web.until(Phase.STOPPED)).why
        web.vm.run("sh", "-c", "dd if=/dev/urandom of=/mnt/vda/big bs=1M count=16; sync")
        digest = web.vm.run("sha256sum", "/mnt/vda/big").split()[0]
        assert (await web.found()).phase is Phase.STOPPED
        assert await web.mirrors.missed() >= 16 * MIB
        web.tap.again()
        began, missed = web.durable(), web.vm.reports()[-1].beat
        await web.mirrors.resume()
        await web.until(Phase.READY)
        assert await web.mirrors.missed() == 0
        number = web.durable()
        early, whole = ([Path(shutil.copy(image, f"{image}.{what}")) for image in images] for what in ("a", "b"))
        web.overlay(early, began + 4)
        web.overlay(whole, number)
        # READY says that nothing is behind: this is a state of the guest's, and no older than the break.
        assert min(one.beat for one in disks.look_together(whole)) >= missed
        assert disks.digest(whole[0], "/big") == digest
        assert disks.digest(early[0], "/big") != digest
        assert web.vm.longest(mark) < 2
        await asyncio.to_thread(web.vm.shut_down)
        web.tap.kill()
        web.overlay(images)
        web.same(images)


async def test_a_mirror_that_is_paused_ends_what_it_had_begun_and_sends_on_what_the_guest_writes(
    libvirtd: Libvirtd,
) -> None:
    async with mirrored(libvirtd) as web:  # what QemuMirrors stands on where QEMU does not say that it is in step
        await web.ready()
        await web.qmp("block-job-pause", device="vmferry-vda")
        images, number = await web.copied(), web.durable()
        await web.beats()
        assert web.durable() > number
        (job,) = [one for one in await web.qmp("query-block-jobs") if one["device"] == "vmferry-vda"]
        assert (job["status"], job["io-status"], await web.mirrors.missed()) == ("standby", "ok", 0)
        # A run that was killed here is told by the next.
        assert (await web.found()).phase is Phase.READY
        assert not any(one["paused"] for one in await web.qmp("query-block-jobs"))
        await asyncio.to_thread(web.vm.shut_down)
        web.overlay(images)
        web.same(images)


@pytest.mark.parametrize("way", Way)
async def test_nothing_is_left_of_them_and_libvirt_may_do_all_again(libvirtd: Libvirtd, way: Way) -> None:
    async with mirrored(libvirtd, way) as web:
        await web.ready()
        await web.mirrors.open_view()  # and killed here
        await web.beats()
        assert len(await web.left()) > 4
        assert (await web.found()).phase is Phase.READY
        if way is Way.QMP:
            await web.qmp("block-job-cancel", device="vmferry-vdb", force=True)
            assert "vdb" in (await web.until(Phase.BROKEN)).why
        web.tap.kill()
        await web.mirrors.disarm()
        await web.mirrors.disarm()
        assert (await web.left(), (await web.mirrors.state()).phase) == ([], Phase.NONE)
        vm, parts = web.vm, [BackupDisk(name, str(web.vm.folder / f"{name}.scratch"), "", False) for name in DISKS]
        backup = vm.folder / "backup.xml"
        backup.write_text(domain.backup_xml(str(vm.folder / "theirs.sock"), parts))
        libvirtd.virsh("backup-begin", vm.name, backup)
        libvirtd.virsh("domjobabort", vm.name)
        await web.beats()
        libvirtd.virsh("save", vm.name, vm.folder / "saved")
        assert vm.state() == "shut off"
        libvirtd.virsh("restore", vm.folder / "saved")
        web.tap.again()
        await web.ready()


async def test_libvirts_mirror_copies_all_and_is_armed_again_when_the_tap_was_killed(libvirtd: Libvirtd) -> None:
    async with mirrored(libvirtd, Way.LIBVIRT) as web:
        await web.mirrors.throttle(1 << 20)
        await web.arm()
        assert (await web.mirrors.state()).phase is Phase.ARMING
        await web.mirrors.throttle(0)
        await web.until(Phase.READY)
        web.tap.kill()
        await web.until(Phase.BROKEN, Phase.NONE)
        await web.beats()
        await web.mirrors.disarm()
        assert await web.left() == []
        web.tap.again()
        again = web.durable()
        await web.ready()
        await web.beats()
        await asyncio.to_thread(web.vm.shut_down)
        images = web.blank()
        web.overlay(images)
        web.same(images)
        assert again > 1 << 32


async def test_where_somebody_elses_job_holds_a_disk_none_is_armed(libvirtd: Libvirtd, tmp_path: Path) -> None:
    async with mirrored(libvirtd) as web:
        theirs = Tap(tmp_path / "theirs", disks={"vdb": 64 << 20})
        try:
            await web.machines.begin_mirror(web.vm.uuid, "vdb", str(theirs.order.socket), "vdb")
            for way in Way:
                web.mirrors.way = way
                with pytest.raises(errors.InUse):
                    await web.arm()
                assert (await web.mirrors.state()).phase is Phase.NONE
            found = await web.left()
            assert [name for name in found if "vdb" not in name] == ["(a mirror's)"]
            assert (await web.machines.domain(web.vm.uuid)).disks[1].mirror == "copy"
            await web.mirrors.disarm()
            assert (await web.machines.domain(web.vm.uuid)).disks[1].mirror == "copy"
        finally:
            theirs.close()


async def test_a_tap_that_hangs_is_not_armed_and_a_machine_that_was_destroyed_is_armed_anew(libvirtd: Libvirtd) -> None:
    async with mirrored(libvirtd) as web:
        web.tap.process.send_signal(signal.SIGSTOP)
        with pytest.raises(errors.Transient, match="the tap does not answer"):
            await web.arm()
        await web.beats()
        assert await web.left() == []
        web.tap.process.send_signal(signal.SIGCONT)
        await web.ready()
        # They are found without the record of how they were armed, too.
        (web.place / RECORD).unlink()
        web.mirrors.way = Way.LIBVIRT
        assert (await web.found(), web.mirrors.in_force) == (State(Phase.READY), Way.QMP)
        web.mirrors.way = Way.QMP
        view = await web.mirrors.open_view()
        await asyncio.to_thread(web.vm.destroy)
        assert (await web.mirrors.state()).phase is Phase.NONE
        await view.close()
        await web.mirrors.disarm()
        assert list(web.place.iterdir()) == []
        await asyncio.to_thread(web.vm.start)
        await web.ready()


async def test_what_a_checkpoint_calls_written_and_the_tap_are_the_disk(libvirtd: Libvirtd) -> None:
    async with mirrored(libvirtd) as web:
        parts = [BackupDisk(name, str(web.vm.folder / f"{name}.scratch"), "", name == "vda") for name in DISKS]
        socket, images = web.vm.folder / "backup", web.blank()
        await web.machines.begin_backup(web.vm.uuid, str(socket), parts, "cp-1")
        await pulling.pull(socket, "vda", images[0])
        await web.machines.end_backup(web.vm.uuid)
        web.vm.run("sh", "-c", "dd if=/dev/urandom of=/mnt/vda/big bs=1M count=4; sync")
        await web.ready()
        view = await web.mirrors.open_view("cp-1")
        written, unknown = view.hints
        assert written is not None
        assert 4 * MIB <= written.total < SIZE // 2
        assert unknown is None  # it is raw
        await web.beats()
        await web.read(view, images, [written, Ranges([(0, SIZE)])])
        await view.close()
        assert not [name for name in await web.left() if name.endswith(("hint", "sock"))]
        await asyncio.to_thread(web.vm.shut_down)
        web.overlay(images)
        web.same(images)


async def test_a_checkpoint_that_is_not_there_hints_at_nothing(libvirtd: Libvirtd) -> None:
    async with mirrored(libvirtd) as web:
        await web.ready()
        view = await web.mirrors.open_view("cp-1")
        assert view.hints == [None, None]


async def test_a_qemu_that_is_not_root_is_told_what_it_may_not_reach() -> None:
    hypervisor.need()
    with Libvirtd(user="libvirt-qemu") as other:
        async with mirrored(other) as web:
            user = await web.machines.qemu_user()
            assert user is not None
            with pytest.raises(errors.Usage, match=f"QEMU runs as user {user[0]} and may not write to .*nbd.sock"):
                await web.arm()
            os.chown(web.tap.order.socket, -1, user[1])
            with pytest.raises(errors.Usage, match=f"may not write to {web.place}, where its socket live.sock"):
                await web.arm()
            assert await web.left() == []
            os.chown(web.place, *user)
            await web.ready()
            await web.beats()
            view = await web.mirrors.open_view()
            assert [device.size for device in view.devices] == [SIZE, SIZE]
