"""A guest's disk as QEMU sees it, mirrored: qemu-storage-daemon with one NBD export per disk for a writer, and for
each disk an active mirror into somebody's NBD socket."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.support import tools


class Host:
    """A storage daemon with raw images `names` of `size` bytes, or with disks that keep nothing (`null`).  Writers
    connect to `socket`, export by name."""

    def __init__(self, where: Path, size: int, *names: str, null: bool = False) -> None:
        tools.need("qemu-storage-daemon")
        where.mkdir(parents=True, exist_ok=True)
        self.where, self.size, self.names = where, size, names
        self.socket, monitor = where / "guest.sock", where / "qmp.sock"
        command = ["qemu-storage-daemon", "--chardev", f"socket,id=m,path={monitor},server=on,wait=off"]
        command += ["--monitor", "chardev=m"]
        command += ["--nbd-server", f"addr.type=unix,addr.path={self.socket},max-connections=9"]
        for name in names:
            self.image(name).touch()
            with open(self.image(name), "r+b") as file:
                file.truncate(size)
            below = f"file.driver=file,file.filename={self.image(name)}"
            below = f"file.driver=null-co,file.size={size},file.read-zeroes=on" if null else below
            command += ["--blockdev", f"raw,node-name={name},{below}"]
            command += ["--export", f"nbd,id=e-{name},node-name={name},name={name},writable=on"]
        self.process = subprocess.Popen(command)
        self._events: list[dict[str, Any]] = []
        self._monitor = socket.socket(socket.AF_UNIX)
        self._monitor.settimeout(100)
        deadline = time.monotonic() + 60
        while self._monitor.connect_ex(str(monitor)):
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self._lines = self._monitor.makefile("rb")
        self._next()
        self.qmp("qmp_capabilities")

    def image(self, name: str) -> Path:
        return self.where / f"{name}.img"

    def qmp(self, command: str, **arguments: Any) -> Any:
        """What it returns; an error of it is an assertion."""
        self._monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "return" not in (said := self._next()):
            if "error" in said:
                raise AssertionError(f"{command}: {said['error']['desc']}")
            self._events.append(said)
        return said["return"]

    def mirror(self, target: Path, sync: str = "full", stop: bool = True, export: str | None = None) -> None:
        """Arm a mirror of every disk into the socket `target`, and wait until all of them are ready.  The exports
        there are named as the disks unless `export` says how."""
        for name in self.names:
            self.qmp("blockdev-add", driver="raw", **{"node-name": f"t-{name}"}, file={
                "driver": "nbd", "server": {"type": "unix", "path": str(target)}, "reconnect-delay": 0,
                "export": name if export is None else export,
            })  # fmt: skip
            self.qmp("blockdev-mirror", device=name, target=f"t-{name}", sync=sync, granularity=4096, **{
                "job-id": f"j-{name}", "copy-mode": "write-blocking", "on-target-error": "stop" if stop else "report",
            })  # fmt: skip
        for name in self.names:
            self.event("BLOCK_JOB_READY", f"j-{name}")

    def event(self, name: str, device: str) -> dict[str, Any]:
        """The next such event, which may have come already."""
        while True:
            for at, said in enumerate(self._events):
                if said["event"] == name and said["data"].get("device") == device:
                    return self._events.pop(at)
            said = self._next()
            assert "event" in said, said
            self._events.append(said)

    def _next(self) -> dict[str, Any]:
        line = self._lines.readline()
        assert line, "the storage daemon closed its monitor"
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        self._lines.close()
        self._monitor.close()
        self.process.kill()
        self.process.wait(20)
