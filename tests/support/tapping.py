"""A tap as a process, and its watchdog, for tests."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine import errors
from producers.tap import order as orders
from producers.tap import start
from producers.tap.control import Line
from producers.tap.order import Ack, Order


class Tap:
    """Started when made, and ready; `log` is what it and its watchdog said."""

    def __init__(self, where: Path, ack: Ack = Ack.SPOOL, spool: Path | None = None, **more: Any) -> None:
        where.mkdir(parents=True, exist_ok=True)
        given = {"disks": {"vda": 64 << 20}, **more}
        self.order = Order(spool or where / "spool", where / "nbd.sock", where / "control.sock", ack=ack, **given)
        self.log, self._file = where / "tap.log", where / "order.json"
        orders.save(self._file, self.order)
        self.process = self._run("run")
        self.watchdog: subprocess.Popen[bytes] | None = None
        self.wait()

    def _run(self, what: str) -> subprocess.Popen[bytes]:
        return start.start(what, self._file, self.log)

    def wait(self) -> None:
        """Until it answers."""
        start.ready(self.order, self.process, 60)

    def watch(self) -> None:
        """Begin to watch it; returns once the watchdog has asked."""
        self.watchdog = self._run("watch")
        deadline = time.monotonic() + 60
        while self.ask("status")["callers"] < 2:  # the watchdog, and who asks here
            assert self.watchdog.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        line = Line(self.order.control, 60)
        try:
            return line.ask(do, **more)
        finally:
            line.close()

    def until(self, **wanted: Any) -> dict[str, Any]:
        """Its status, once it answers and that says all that is wanted."""
        deadline = time.monotonic() + 60
        while True:
            try:
                status = self.ask("status")
            except errors.Transient as why:  # its socket is not there yet
                status = {"error": str(why)}
            if all(status.get(name) == value for name, value in wanted.items()):
                return status
            assert time.monotonic() < deadline, status
            time.sleep(0.01)

    def url(self, export: str = "vda") -> str:
        return f"nbd+unix:///{export}?socket={self.order.socket}"

    def again(self) -> Tap:
        """Kill it, and start another one on the same spool."""
        self.kill()
        self.process = self._run("run")
        self.wait()
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def close(self) -> None:
        for one in (self.watchdog, self.process):
            if one is not None:
                one.kill()
                one.wait(60)


@contextlib.contextmanager
def tapping(where: Path, ack: Ack = Ack.SPOOL, spool: Path | None = None, **more: Any) -> Iterator[Tap]:
    """A tap that ends with the test."""
    tap = Tap(where, ack, spool, **more)
    try:
        yield tap
    finally:
        tap.close()
