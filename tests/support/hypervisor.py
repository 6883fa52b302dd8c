"""A private libvirtd, and real guests under it (TCG), for tests; as root, and nothing of the machine's own is touched.

    with Libvirtd() as libvirtd, Vm(libvirtd, "web-1") as vm:
        vm.start()                           # up in about 5 s; its load writes to vda and vdb from then on
        mark = vm.mark()
        ...
        vm.wait_beats(20)
        assert vm.longest(mark) < 2          # seconds of the longest write, by the guest's clock
        vm.destroy()                         # or shut_down(), kill()
        disks.look_together([raw images])    # tests/support/live/disks.py: e2fsck, whole files, counters of one instant

`libvirtd.uri` is what our own code connects to, `libvirtd.virsh(...)` the tool that we did not write.  Several may run
side by side: each has mounts, processes, users, sockets and directories of its own, and all of it ends with the test
process, however that ends; of one that is killed its folder in the temporary directory stays.  (Empty directories that
libvirt would make, as /var/lib/libvirt, are made on the machine where they are missing, to be mounted over.)
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.support import initramfs, tools
from tests.support.live import machine
from tests.support.live.vm import Vm, wait_until

__all__ = ["Libvirtd", "Vm", "need", "need_bindings", "wait_until"]

_START = 60.0
_USER = "libvirt-qemu"
"""What Debian lets QEMU run as; known inside only."""

_HOLD = """set -e
mount --make-rprivate /
while read inside outside; do
    [ -e "$inside" ] || mkdir -p "$inside"
    mount --bind "$outside" "$inside"
done < "$1"
echo held
sleep infinity & wait
"""
"""The first process of the namespace: its end is the end of all.  A shell that waits reaps what others left it."""

_DAEMON = """auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
"""

_QEMU = """user = "{user}"
group = "{user}"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
"""


def need_bindings() -> None:
    """Go on when Python can talk to libvirt (else as `tools.need`)."""
    if importlib.util.find_spec("libvirt") is None:
        tools.lack("libvirt-python is not installed; sh tools/setup.sh VENV dev, with libvirt-dev")


def need() -> None:
    """Go on when libvirtd and guests can run here (else as `tools.need`)."""
    need_bindings()
    tools.need("libvirtd", "virsh", "unshare", "nsenter", "setpriv")
    machine.need()
    probe = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True, check=False
    )
    if os.geteuid() or probe.returncode:
        tools.forbidden(
            f"no private libvirtd: namespaces are root's here ({probe.stderr.strip()[-200:] or 'not root'})"
        )


class Libvirtd:
    """`user`: what QEMU runs as, "root" or "libvirt-qemu".  `folder` holds everything of it, images too, and is removed
    in the end; everybody may enter it."""

    def __init__(self, user: str = "root") -> None:
        self.user = user
        # Below the temporary directory itself: pytest's own are closed to other users, and too long for sockets.
        self.folder = Path(tempfile.mkdtemp(prefix="vf-libvirt-"))
        self.folder.chmod(0o755)
        self.kernel, self.initrd = self.folder / "kernel", self.folder / "initrd"
        self._holder: subprocess.Popen[str] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._inner = 0

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.folder}/run/libvirt-sock"

    def __enter__(self) -> Self:
        try:
            self._hold()
            shutil.copy(initramfs.kernel(), self.kernel)
            self.initrd.write_bytes(machine.initrd())
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *why: object) -> None:
        self.close()

    def start(self) -> None:
        """libvirtd again, after `stop` or `kill`; guests that run are found by it."""
        environment = os.environ | {"PATH": tools.PATH, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"}
        with open(self.folder / "libvirtd.log", "ab") as log:
            self._daemon = subprocess.Popen(
                self.inside("libvirtd", "--pid-file", "/run/libvirt/libvirtd.pid"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers, "libvirtd answers", _START, self.said)

    def stop(self) -> None:
        """An orderly end of libvirtd; guests go on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9 of libvirtd; guests go on."""
        self._end(signal.SIGKILL)

    def hang(self) -> None:
        """libvirtd is there, and does nothing, until `go_on`."""
        os.kill(self._daemon_pid(), signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._daemon is not None
        os.kill(self._daemon_pid(), signal.SIGCONT)
        # nsenter stops with its child.
        self._daemon.send_signal(signal.SIGCONT)

    def virsh(self, *words: str | Path, check: bool = True) -> str:
        """What virsh says (with `check` off also when it fails)."""
        command = ["virsh", "--quiet", "-c", self.uri, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0 or not check, f"virsh {' '.join(map(str, words))}: {done.stderr}\n{self.said()}"
        return done.stdout if done.returncode == 0 else done.stderr

    def said(self) -> str:
        """The log of libvirtd, its end."""
        return (self.folder / "libvirtd.log").read_text(errors="replace")[-4000:]

    def inside(self, *words: str) -> list[str]:
        """The command that runs `words` among its processes and mounts."""
        return ["nsenter", "--target", str(self._inner), "--mount", "--pid", *words]

    def outer(self, inner: int) -> int:
        """The process id out here of what has `inner` in there.  Raises ProcessLookupError."""
        ours = os.readlink(f"/proc/{self._inner}/ns/pid")
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError, StopIteration):  # it ended while we looked
                numbers = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:")).split()
                if numbers[-1] == str(inner) and os.readlink(status.with_name("ns") / "pid") == ours:
                    return int(numbers[1])
        raise ProcessLookupError(f"no process {inner} of libvirtd's")

    def pid(self, name: str) -> int:
        """The process id, out here, of the QEMU of domain `name`.  Raises ProcessLookupError when there is none."""
        try:
            return self.outer(int((self.folder / "run" / "qemu" / f"{name}.pid").read_text()))
        except FileNotFoundError as error:
            raise ProcessLookupError(f"{name} does not run") from error

    def close(self) -> None:
        """Everything ends, guests too, and is removed.  Repeatable."""
        if self._inner:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._inner, signal.SIGKILL)
            self._inner = 0
        for process in (self._daemon, self._holder):
            if process is not None:
                # Its child has gone with the namespace; one that was stopped would wait for that for ever.
                process.send_signal(signal.SIGCONT)
                process.wait(_START)
        if self._holder is not None and self._holder.stdout is not None:
            self._holder.stdout.close()
        self._holder = self._daemon = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _hold(self) -> None:
        (self.folder / "mounts").write_text("".join(f"{inside} {outside}\n" for inside, outside in self._mounts()))
        log = (self.folder / "holder.log").open("w")
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL",
             "--mount-proc", "sh", "-c", _HOLD, "sh", self.folder / "mounts"],
            stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
        )  # fmt: skip
        log.close()
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "held\n", (self.folder / "holder.log").read_text()
        parent = self._holder.pid
        self._inner = int(Path(f"/proc/{parent}/task/{parent}/children").read_text())

    def _mounts(self) -> Iterator[tuple[str, Path]]:
        """(where it is inside, where it is out here) of each, made."""
        for name, inside in (
            ("run", "/run/libvirt"), ("lib", "/var/lib/libvirt"), ("log", "/var/log/libvirt"),
            ("cache", "/var/cache/libvirt"), ("etc", "/etc/libvirt"),
        ):  # fmt: skip
            (self.folder / name).mkdir()
            yield inside, self.folder / name
        (self.folder / "etc" / "libvirtd.conf").write_text(_DAEMON)
        (self.folder / "etc" / "qemu.conf").write_text(_QEMU.format(user=self.user))
        # libvirtd does not start without QEMU's usual user, whatever qemu.conf says.
        user = f"{_USER}:x:64055:64055::/nonexistent:/bin/false\n"
        for name, line in (("passwd", user), ("group", f"{_USER}:x:64055:\n")):
            known = Path("/etc", name).read_text()
            (self.folder / name).write_text(known if f"{_USER}:" in known else known + line)
            yield f"/etc/{name}", self.folder / name

    def _end(self, how: signal.Signals) -> None:
        assert self._daemon is not None
        os.kill(self._daemon_pid(), how)
        self._daemon.wait(_START)
        self._daemon = None

    def _daemon_pid(self) -> int:
        return self.outer(int((self.folder / "run" / "libvirtd.pid").read_text()))

    def _answers(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, f"libvirtd ended:\n{self.said()}"
        done = subprocess.run(["virsh", "-c", self.uri, "uri"], capture_output=True, check=False, timeout=_START)
        return done.returncode == 0
