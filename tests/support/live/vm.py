"""One guest under a private libvirtd (tests/support/hypervisor.py)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from xml.sax.saxutils import quoteattr

from tests.support.live import machine

if TYPE_CHECKING:
    from tests.support.hypervisor import Libvirtd

MIB = 1 << 20
PATIENCE = 120.0
"""Seconds: a guest is up in about 5, and machines that run tests are busy."""

_DOMAIN = """<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>192</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{command}</cmdline></os>
  <features><acpi/></features><cpu mode='maximum'/>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    {devices}
    <serial type='file'><source path={console} append='on'/><target port='0'/></serial>
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
  <seclabel type='none'/>
</domain>
"""

_CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


def wait_until(true: Callable[[], object], what: str, seconds: float = PATIENCE, said: Callable[[], str] = str) -> None:
    """Look ten times a second until `true`.  Raises AssertionError with what is `said` by then."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}\n{said()}"
        time.sleep(0.1)


class Vm:
    """A defined guest; in the end it is destroyed and undefined.

    Its disks `disks` have `size` bytes and a mounted ext4 each, in `format` "qcow2" or "raw"; those of `raw` are raw.
    `agent`: "on", "none" (the channel is there and nobody listens), "hangs" (it is stopped after the start), "" (no
    channel).  `beat` and `file` are the pauses of the load in seconds, `load` off leaves the disks alone.  `more` is
    XML of further devices.
    """

    def __init__(
        self, libvirtd: Libvirtd, name: str = "guest", disks: Sequence[str] = ("vda", "vdb"), size: int = 64 * MIB,
        format: str = "qcow2", agent: str = "on", load: bool = True, beat: float = 0.02, file: float = 0.05,
        more: str = "", raw: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.libvirtd, self.name, self.uuid, self.format = libvirtd, name, str(uuid.uuid4()), format
        self.folder = libvirtd.folder / f"vm-{name}"
        self.formats = {disk: "raw" if disk in raw else format for disk in disks}
        self.disks = {
            disk: self.folder / f"{disk}.{'img' if kind == 'raw' else kind}" for disk, kind in self.formats.items()
        }
        self.console = self.folder / "console"
        self._size, self._agent, self._more = size, agent, more
        self._load = f" vmferry.beat={beat * 1e6:.0f} vmferry.file={file * 1e6:.0f}" if load else ""

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)  # what an earlier one of this name left
        self.folder.mkdir()
        for disk, path in self.disks.items():
            machine.make_disk(path, self._size, self.formats[disk])
        self.define()
        return self

    def __exit__(self, kind: object, why: BaseException | None, trace: object) -> None:
        if why is not None:
            why.add_note(self.last_words())
        self.libvirtd.virsh("destroy", self.name, check=False)
        self.libvirtd.virsh("undefine", self.name, "--checkpoints-metadata", "--nvram", check=False)

    def xml(self) -> str:
        """Its definition."""
        command = f"console=ttyS0 quiet panic=-1 nokaslr vmferry.disks={len(self.disks)} vmferry.agent={self._agent}"
        devices = [self.disk_xml(disk, path, self.formats[disk]) for disk, path in self.disks.items()]
        devices += [_CHANNEL] if self._agent else []
        return _DOMAIN.format(
            name=self.name, uuid=self.uuid, kernel=self.libvirtd.kernel, initrd=self.libvirtd.initrd,
            command=command + self._load, devices="\n    ".join([*devices, self._more]),
            console=quoteattr(str(self.console)),
        )  # fmt: skip

    @staticmethod
    def disk_xml(disk: str, path: Path, format: str) -> str:
        """One disk, as a part of a definition or for `virsh attach-device`."""
        return (
            f"<disk type='file' device='disk'><driver name='qemu' type='{format}' discard='unmap'/>"
            f"<source file={quoteattr(str(path))}/><target dev='{disk}' bus='virtio'/></disk>"
        )

    def define(self) -> None:
        path = self.folder / "domain.xml"
        path.write_text(self.xml())
        self.libvirtd.virsh("define", path)

    def start(self, wait: bool = True) -> None:
        """Power on; with `wait` until it is up, its load runs and its agent answers."""
        mark = self.mark()
        self.libvirtd.virsh("start", self.name)
        if wait:
            self.wait_for(machine.UP, mark)
            if self._load:
                wait_until(lambda: self.reports(mark), "the load reports", said=self.last_words)
            if self._agent == "on":
                ping = ("qemu-agent-command", self.name, '{"execute": "guest-ping"}')
                wait_until(lambda: "return" in self.libvirtd.virsh(*ping, check=False), "its agent answers")

    def shut_down(self) -> None:
        """An orderly end, asked for through the agent: disks are unmounted.  Asked again while it is frozen."""
        words = ("shutdown", self.name, "--mode", "agent")
        wait_until(lambda: "error" not in self.libvirtd.virsh(*words, check=False), "its agent takes the shutdown")
        wait_until(lambda: self.state() == "shut off", f"{self.name} is shut off", said=self.last_words)

    def destroy(self) -> None:
        """Pull the plug."""
        self.libvirtd.virsh("destroy", self.name)

    def kill(self) -> None:
        """kill -9 of its QEMU; libvirt has noticed when it returns."""
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: self.state() == "shut off", f"libvirt sees that {self.name} is gone", said=self.last_words)

    def state(self) -> str:
        """As virsh says it: "running", "paused", "shut off"."""
        return self.libvirtd.virsh("domstate", self.name).strip()

    @property
    def pid(self) -> int:
        """The process id of its QEMU.  Raises ProcessLookupError when it does not run."""
        return self.libvirtd.pid(self.name)

    def said(self) -> str:
        """Its console, whole."""
        with contextlib.suppress(FileNotFoundError):
            return self.console.read_text(errors="replace")
        return ""

    def last_words(self) -> str:
        return f"console of {self.name}:\n{self.said()[-2000:]}"

    def mark(self) -> int:
        """Now, for what looks at what came `since`."""
        return len(self.said())

    def wait_for(self, words: str, since: int = 0, seconds: float = PATIENCE) -> None:
        """Until it says `words` on its console."""
        wait_until(lambda: words in self.said()[since:], f"{self.name} says {words!r}", seconds, self.last_words)

    def reports(self, since: int = 0) -> list[machine.Report]:
        """What its load reported, four times a second."""
        return machine.reports(self.said()[since:])

    def longest(self, since: int = 0) -> float:
        """Seconds that one write of the load waited at most, by the guest's clock."""
        wait_until(lambda: self.reports(since), "the load reports", said=self.last_words)
        return max(report.longest for report in self.reports(since))

    def wait_beats(self, count: int, seconds: float = PATIENCE) -> None:
        """Until the load has done `count` more rounds of its counter, and each disk has got a file more."""
        before = self.reports()[-1]

        def done() -> bool:
            last = self.reports()[-1]
            return last.beat >= before.beat + count and all(
                now > then for now, then in zip(last.files, before.files, strict=True)
            )

        wait_until(done, f"{self.name}'s counter passes {before.beat + count}", seconds, self.last_words)

    def ask_agent(self, command: str, **arguments: Any) -> Any:
        """One command of the guest agent's, through libvirt; gives what it returns."""
        request = {"execute": command, "arguments": arguments}
        return json.loads(self.libvirtd.virsh("qemu-agent-command", self.name, json.dumps(request)))["return"]

    def run(self, *words: str) -> str:
        """A program in the guest, through the agent; gives its stdout.  Raises AssertionError when it fails."""
        program, *rest = words
        started = self.ask_agent("guest-exec", path=f"/bin/{program}", arg=rest, **{"capture-output": True})
        ended: dict[str, Any] = {}
        until = time.monotonic() + PATIENCE
        while not ended.get("exited"):
            assert time.monotonic() < until, f"{words} did not end"
            ended = self.ask_agent("guest-exec-status", pid=started["pid"])
            time.sleep(0.05)
        out, err = (base64.b64decode(ended.get(name, "")).decode() for name in ("out-data", "err-data"))
        assert ended.get("exitcode") == 0, f"{words}: {ended.get('exitcode')} {out}{err}"
        return out
