"""When mirrors of QEMU's say that they are in step, against a QEMU that does only what it is told: no I/O."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine import errors
from engine.hypervisor.connection import Hypervisor
from producers.machine.phase import Phase
from producers.machine.qemu_mirrors import QemuMirrors


class Qemu:
    """One disk, vda, mirrored.  `unsent`: bytes in the mirror's bitmap; `copying`: of it, begun and not ended;
    `writing`: what the guest has under way."""

    def __init__(self) -> None:
        self.unsent = self.copying = self.writing = 0
        self.status, self.error, self.told = "ready", "ok", list[str]()
        self.synced: bool | None = None
        self.away = 0
        "How often it finds no tap when it is told to go on."
        self.fails_while_parked = False

    async def domain(self, name: str) -> Any:
        return SimpleNamespace(disks=[SimpleNamespace(name="vda", alias="virtio-disk0")])

    async def qmp(self, uuid: str, command: str, **words: Any) -> Any:
        self.told.append(command)
        return getattr(self, command.replace("-", "_"))(**words)

    def query_block_jobs(self) -> list[dict[str, Any]]:
        job = {"device": "vmferry-vda", "status": self.status, "ready": True, "paused": self.status == "standby",
               "io-status": self.error, "offset": 0, "len": self.unsent + self.copying + self.writing}  # fmt: skip
        return [job if self.synced is None else job | {"actively-synced": self.synced}]

    def query_block(self) -> list[dict[str, Any]]:
        top = {"node-name": "vmferry-vda", "drv": "mirror_top", "file": "/a"}
        return [{"device": "", "qdev": "/machine/peripheral/virtio-disk0/virtio-backend", "inserted": top}]

    def query_named_block_nodes(self, flat: bool) -> list[dict[str, Any]]:
        counts = [{"recording": False, "count": self.unsent}]
        return [{"node-name": "libvirt-1-format", "drv": "qcow2", "file": "/a", "dirty-bitmaps": counts}]

    def block_job_pause(self, device: str) -> None:
        assert self.status == "ready"
        self.status, self.copying = "standby", 0
        if self.fails_while_parked:
            self.error, self.unsent = "failed", 4096

    def block_job_resume(self, device: str) -> None:
        assert self.status == "standby"
        if self.away:
            self.away -= 1
            return
        self.status, self.error = "ready", "ok"


def mirrors(qemu: Qemu) -> QemuMirrors:
    made = QemuMirrors(cast(Hypervisor, qemu), "uuid")
    made.doubt(["vda"])
    return made


async def phase(made: QemuMirrors) -> Phase:
    return (await made.state(["vda"])).phase


async def test_one_with_something_unsent_is_not_in_step_and_is_not_paused() -> None:
    qemu = Qemu()
    qemu.unsent = 4096
    made = mirrors(qemu)
    assert await phase(made) is Phase.ARMING
    assert "block-job-pause" not in qemu.told
    qemu.unsent = 0
    assert await phase(made) is Phase.READY
    assert "block-job-pause" not in qemu.told


async def test_what_is_under_way_on_a_busy_disk_is_found_out_by_a_pause() -> None:
    qemu = Qemu()
    qemu.writing = 4096  # never nothing
    qemu.copying = 1 << 20
    made = mirrors(qemu)
    assert await phase(made) is Phase.READY
    assert qemu.copying == 0
    assert qemu.status == "ready"
    qemu.told.clear()
    assert await phase(made) is Phase.READY
    assert qemu.told == ["query-block-jobs"]  # cheap from then on


async def test_one_that_fails_while_it_is_looked_at_is_stopped_and_stays_so() -> None:
    qemu = Qemu()
    qemu.writing, qemu.fails_while_parked = 4096, True
    made = mirrors(qemu)
    assert await phase(made) is Phase.ARMING
    assert "block-job-resume" not in qemu.told
    assert await phase(made) is Phase.STOPPED


async def test_a_pause_that_a_killed_run_left_ends() -> None:
    qemu = Qemu()
    qemu.status = "standby"
    assert await phase(mirrors(qemu)) is Phase.READY
    assert qemu.status == "ready"


async def test_a_newer_qemu_is_believed() -> None:
    qemu = Qemu()
    qemu.writing, qemu.synced = 4096, False
    made = mirrors(qemu)
    assert await phase(made) is Phase.ARMING
    qemu.synced = True
    assert await phase(made) is Phase.READY
    assert set(qemu.told) == {"query-block-jobs"}


async def test_one_that_stopped_is_looked_at_anew_once_it_goes_on() -> None:
    qemu = Qemu()
    made = mirrors(qemu)
    assert await phase(made) is Phase.READY
    qemu.status, qemu.error, qemu.unsent, qemu.away = "standby", "failed", 8192, 2
    assert await phase(made) is Phase.STOPPED
    await made.resume(60)
    assert qemu.told.count("block-job-resume") == 3
    assert await phase(made) is Phase.ARMING
    qemu.unsent = 0
    assert await phase(made) is Phase.READY


async def test_a_tap_that_does_not_come_again_is_not_waited_for_for_ever() -> None:
    qemu = Qemu()
    qemu.status, qemu.error, qemu.away = "standby", "failed", 1000
    with pytest.raises(errors.Transient, match="has not come back"):
        await mirrors(qemu).resume(0)


async def test_after_resume_nothing_is_believed() -> None:
    qemu = Qemu()
    made = mirrors(qemu)
    assert await phase(made) is Phase.READY
    await made.resume(60)
    qemu.unsent = 4096
    assert await phase(made) is Phase.ARMING
