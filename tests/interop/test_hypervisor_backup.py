"""Backups in pull mode with checkpoints, of real machines through a real libvirt, read through our NBD client."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine import errors
from engine.hypervisor import calls, domain, trouble
from engine.hypervisor.connection import Hypervisor
from engine.hypervisor.domain import BackupDisk
from tests.support import hypervisor
from tests.support.hypervisor import Libvirtd, Vm
from tests.support.live import disks, pulling

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
async def ours(libvirtd: Libvirtd) -> AsyncIterator[Hypervisor]:
    opened = await Hypervisor.connect(libvirtd.uri)
    yield opened
    await opened.close()


def parts(vm: Vm, since: str = "") -> list[BackupDisk]:
    return [BackupDisk(name, str(vm.folder / f"{name}.scratch"), since) for name in vm.disks]


def socket(vm: Vm) -> str:
    return str(vm.folder / "backup")


def raws(vm: Vm) -> list[Path]:
    return [vm.folder / f"{name}.pulled" for name in vm.disks]


async def pull(vm: Vm, incremental: bool = False) -> list[pulling.Pulled]:
    return [
        await pulling.pull(socket(vm), name, raw, domain.bitmap_of(name) if incremental else "")
        for name, raw in zip(vm.disks, raws(vm), strict=True)
    ]


async def in_thread(call: Any, *words: Any) -> Any:
    return await asyncio.to_thread(call, *words)


async def test_two_disks_are_read_of_one_instant_and_then_only_what_changed(
    ours: Hypervisor, libvirtd: Libvirtd
) -> None:
    with Vm(libvirtd, "whole") as vm:
        vm.start()
        vm.wait_beats(10)
        await ours.begin_backup(vm.uuid, socket(vm), parts(vm), "cp-1")
        assert (await ours.job(vm.uuid), await ours.backup_socket(vm.uuid)) == ("backup", socket(vm))
        vm.wait_beats(10)
        whole = await pull(vm)
        await ours.end_backup(vm.uuid)
        await ours.end_backup(vm.uuid)
        assert (await ours.job(vm.uuid), await ours.backup_socket(vm.uuid)) == ("", None)
        assert not list(vm.folder.glob("*.scratch"))
        before = disks.look_together([await in_thread(copied, raw) for raw in raws(vm)])

        vm.wait_beats(10)
        vm.run("sh", "-c", "dd if=/dev/urandom of=/mnt/vda/big bs=1M count=8; sync")
        await ours.begin_backup(vm.uuid, socket(vm), parts(vm, "cp-1"), "cp-2")
        changed = await pull(vm, incremental=True)
        await ours.end_backup(vm.uuid)
        after = disks.look_together([await in_thread(copied, raw) for raw in raws(vm)])
        assert all(now.beat > then.beat for now, then in zip(after, before, strict=True))
        assert changed[0].copied >= 8 << 20
        assert changed[1].copied + changed[1].zeroed < whole[1].size // 4

        # A file that is removed and trimmed is dirty, and a hole: zeros to be written.
        vm.run("sh", "-c", "rm /mnt/vda/big; sync; fstrim /mnt/vda")
        await ours.begin_backup(vm.uuid, socket(vm), parts(vm, "cp-2"), "cp-3")
        trimmed = await pull(vm, incremental=True)
        await ours.end_backup(vm.uuid)
        assert trimmed[0].zeroed >= 8 << 20
        disks.look_together([await in_thread(copied, raw) for raw in raws(vm)])

        assert [(one.name, one.parent, one.disks) for one in await ours.checkpoints(vm.uuid)] == [
            ("cp-1", "", ("vda", "vdb")), ("cp-2", "cp-1", ("vda", "vdb")), ("cp-3", "cp-2", ("vda", "vdb")),
        ]  # fmt: skip
        assert {"cp-1", "cp-2", "cp-3"} <= await ours.bitmaps(vm.uuid)
        for name in ("cp-1", "cp-3", "cp-2", "cp-2"):
            await ours.drop_checkpoint(vm.uuid, name)
        assert await ours.checkpoints(vm.uuid) == []
        assert await ours.bitmaps(vm.uuid) == frozenset()


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def serving(copy: Path, place: Path) -> subprocess.Popen[bytes]:
    """A qemu-nbd that serves a new raw image `copy`, as large as a guest's disk, on the socket `place`."""
    copy.touch()
    os.truncate(copy, 64 << 20)
    sink = subprocess.Popen(["qemu-nbd", "--persistent", "-f", "raw", "-x", "vda", "-k", place, copy])
    hypervisor.wait_until(place.exists, "the sink is there")
    return sink


def copied(raw: Path) -> Path:
    """Where a journal may be replayed, while the next increment goes onto the one that was pulled."""
    made = raw.with_suffix(".looked")
    run("cp", "--sparse=always", raw, made)
    return made


async def test_dropping_a_checkpoint_in_between_forgets_no_change(ours: Hypervisor, libvirtd: Libvirtd) -> None:
    with Vm(libvirtd, "union", disks=["vda"]) as vm:
        vm.start()
        for name, since in (("cp-1", ""), ("cp-2", "cp-1")):
            await ours.begin_backup(vm.uuid, socket(vm), parts(vm, since), name)
            if not since:
                await pull(vm)
            await ours.end_backup(vm.uuid)
            vm.wait_beats(10)
        # What cp-2 counted, and nobody read, is not lost with it: cp-1 counts on by itself.
        nodes = await ours.qmp(vm.uuid, "query-named-block-nodes", flat=True)
        marks = [bitmap for node in nodes for bitmap in node.get("dirty-bitmaps", ())]
        assert {one["name"]: one["recording"] for one in marks} == {"cp-1": True, "cp-2": True}
        await ours.drop_checkpoint(vm.uuid, "cp-2")
        await ours.begin_backup(vm.uuid, socket(vm), parts(vm, "cp-1"), "cp-3")
        await pull(vm, incremental=True)
        await ours.end_backup(vm.uuid)
        disks.look_together(raws(vm))


async def test_a_bitmap_that_was_left_is_named_and_can_be_removed(ours: Hypervisor, libvirtd: Libvirtd) -> None:
    with Vm(libvirtd, "left", load=False) as vm:
        path = vm.disks["vdb"]
        run("qemu-img", "bitmap", "--add", "-f", "qcow2", path, "cp-1")
        assert await ours.bitmaps(vm.uuid) == {"cp-1"}
        vm.start()
        with pytest.raises(trouble.BitmapLeft, match=r"cp-1.*left by an earlier run"):
            await ours.begin_backup(vm.uuid, socket(vm), parts(vm), "cp-1")
        assert await ours.backup_socket(vm.uuid) is None
        assert await ours.checkpoints(vm.uuid) == []
        assert await ours.bitmaps(vm.uuid) == {"cp-1"}
        await ours.drop_checkpoint(vm.uuid, "cp-1")
        await ours.begin_backup(vm.uuid, socket(vm), parts(vm), "cp-1")
        await ours.end_backup(vm.uuid)
        with pytest.raises(errors.InUse, match="has a checkpoint cp-1 already"):
            await ours.begin_backup(vm.uuid, socket(vm), parts(vm), "cp-1")
        vm.shut_down()
        assert await ours.bitmaps(vm.uuid) == {"cp-1"}
        with pytest.raises(errors.Usage, match="shut off"):
            await ours.begin_backup(vm.uuid, socket(vm), parts(vm), "cp-2")
        await ours.drop_checkpoint(vm.uuid, "cp-1")
        assert (await ours.bitmaps(vm.uuid), await ours.checkpoints(vm.uuid)) == (frozenset(), [])


async def test_a_raw_disk_has_no_checkpoint_and_is_backed_up_whole(ours: Hypervisor, libvirtd: Libvirtd) -> None:
    with Vm(libvirtd, "raw", format="raw") as vm:
        vm.start()
        vm.wait_beats(5)
        with pytest.raises(errors.Usage, match="qcow2 images of version 3 only"):
            await ours.begin_backup(vm.uuid, socket(vm), parts(vm), "cp-1")
        assert await ours.backup_socket(vm.uuid) is None
        await ours.begin_backup(vm.uuid, socket(vm), parts(vm))
        await pull(vm)
        await ours.end_backup(vm.uuid)
        disks.look_together(raws(vm))


async def test_one_job_at_a_time(ours: Hypervisor, libvirtd: Libvirtd) -> None:
    with Vm(libvirtd, "busy", disks=["vda"], load=False) as vm:
        vm.start()
        await ours.begin_backup(vm.uuid, socket(vm), parts(vm), "cp-1")
        with pytest.raises(errors.InUse, match="another job"):
            await ours.begin_backup(vm.uuid, socket(vm) + "2", parts(vm), "cp-2")
        with pytest.raises(errors.InUse, match="another job"):
            await ours.begin_mirror(vm.uuid, "vda", str(vm.folder / "none"), "vda")
        assert [one.name for one in await ours.checkpoints(vm.uuid)] == ["cp-1"]
        await ours.end_backup(vm.uuid)


async def test_a_mirror_of_libvirts_copies_and_stops(ours: Hypervisor, libvirtd: Libvirtd) -> None:
    with Vm(libvirtd, "mirror", disks=["vda"]) as vm:
        vm.start()
        copy, place = vm.folder / "copy.img", vm.folder / "sink"
        sink = serving(copy, place)
        try:
            ready = asyncio.Event()
            await ours.watch(lambda told: ready.set() if told.what == "job ready" and told.uuid == vm.uuid else None)
            await ours.begin_mirror(vm.uuid, "vda", str(place), "vda")
            async with asyncio.timeout(100):
                await ready.wait()
            assert (await ours.domain(vm.uuid)).disks[0].mirror == "copy"
            with pytest.raises(errors.InUse, match="another job"):
                await ours.begin_backup(vm.uuid, socket(vm), parts(vm))
            await in_thread(vm.wait_beats, 10)
            beats = vm.reports()[-1].beat
            await ours.end_mirror(vm.uuid, "vda")
            await ours.end_mirror(vm.uuid, "vda")
            assert (await ours.domain(vm.uuid)).disks[0].mirror == ""
        finally:
            sink.terminate()
            sink.wait()
        assert disks.look(copy).beat >= beats


async def test_a_machine_that_is_killed_loses_its_bitmaps_and_says_so(ours: Hypervisor, libvirtd: Libvirtd) -> None:
    with Vm(libvirtd, "killed", disks=["vda"]) as vm:
        vm.start()
        await ours.begin_backup(vm.uuid, socket(vm), parts(vm), "cp-1")
        vm.wait_beats(5)
        await in_thread(vm.kill)
        assert await ours.backup_socket(vm.uuid) is None
        assert not list(vm.folder.glob("*.scratch"))
        await ours.end_backup(vm.uuid)
        with pytest.raises(errors.Usage, match="shut off"):
            await ours.begin_backup(vm.uuid, socket(vm), parts(vm, "cp-1"), "cp-2")
        vm.start()
        assert [one.name for one in await ours.checkpoints(vm.uuid)] == ["cp-1"]
        with pytest.raises(trouble.BitmapLost, match="cp-1"):
            await ours.begin_backup(vm.uuid, socket(vm), parts(vm, "cp-1"), "cp-2")
        assert [one.name for one in await ours.checkpoints(vm.uuid)] == ["cp-1"]
        await ours.drop_checkpoint(vm.uuid, "cp-1")
        assert (await ours.bitmaps(vm.uuid), await ours.checkpoints(vm.uuid)) == (frozenset(), [])
        await ours.begin_backup(vm.uuid, socket(vm), parts(vm), "cp-2")
        await pull(vm)
        await ours.end_backup(vm.uuid)
        disks.look_together(raws(vm))


async def test_a_socket_that_qemus_user_cannot_make_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hypervisor.need()
    with Libvirtd(user="libvirt-qemu") as libvirtd, Vm(libvirtd, "user", disks=["vda"], load=False) as vm:
        vm.start()
        ours = await Hypervisor.connect(libvirtd.uri)
        closed = vm.folder / "closed"
        closed.mkdir(mode=0o700)
        where, found = str(closed / "backup"), await ours.qemu_user()
        assert found == (64055, 64055)
        with pytest.raises(errors.Usage, match=f"QEMU runs as user 64055 and may not write to {closed}"):
            await ours.begin_backup(vm.uuid, where, parts(vm), "cp-1")
        # What the look beforehand cannot see (access lists, AppArmor), QEMU says.
        with monkeypatch.context() as blind:
            blind.setattr(calls, "check_socket", lambda *words: None)
            with pytest.raises(errors.Usage, match="must be writable for QEMU's user"):
                await ours.begin_backup(vm.uuid, where, parts(vm), "cp-1")
        assert await ours.checkpoints(vm.uuid) == []
        assert await ours.bitmaps(vm.uuid) == frozenset()
        os.chown(closed, 64055, 64055)
        await ours.begin_backup(vm.uuid, where, parts(vm), "cp-1")
        await pulling.pull(where, "vda", raws(vm)[0])
        await ours.end_backup(vm.uuid)
        await ours.close()
