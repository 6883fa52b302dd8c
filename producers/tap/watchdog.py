"""The watchdog: a process beside the tap that frees the guest's writes when the tap falls silent.

QEMU waits for its mirror's target without a limit, and cancelling the block job waits with it; what frees a write is
the end of the connection.  So the tap's connections are taken from it and shut down, and it is ended by SIGKILL: either
frees the guest, the second only where the tap does not hang in the kernel, as on a spool whose disk does not answer,
the first only where we may.  At most 1.25 s until it is judged silent, and 0.25 s for it to die: below the 2 s that a
guest may wait because of us.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import errors, linux
from producers.tap import identity
from producers.tap.identity import Process
from producers.tap.order import Order

PING = 0.25
"""Seconds between two questions, and that an answer may take before it counts as missing."""
SILENT = 4
"""Missing answers, while a client is attached.  Counted in our own rounds: what we slept through is not silence."""
SILENT_IDLE = 40
"""The same while none is; one that wants to attach waits, too."""
DYING = 0.25
"""Seconds that SIGKILL may take."""

ENDED = "ended.json"
"""In the spool's directory: why the last tap ended that was watched."""
VERSION = 1

_log = logging.getLogger("vmferry.tap")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a watch ended.  `freed`: whoever waited for the tap does not any more; False asks for QMP's `yank`."""

    pid: int
    why: str
    freed: bool
    number: int
    """The next one when the tap was last heard."""
    at: int
    """ns since 1970."""


class Watchdog:
    """Watches the one tap that has the spool of `order`.  `told` hears of its end before that is written down, as a
    medium that hangs may hang us then, too."""

    def __init__(self, order: Order, told: Callable[[Ended], None] = lambda ended: None) -> None:
        self._order, self._told = order, told
        self._line = Line(order.control)

    def run(self) -> Ended:
        """Until the tap has ended, by itself or by us.  Raises NotFound when there is none, DeviceFailed."""
        process = identity.load(self._order.spool)
        if process is None:
            raise errors.NotFound(f"{self._order.spool}: no tap has a spool here")
        with process.held() as held:
            if held is None:
                raise errors.NotFound(f"{self._order.spool}: its last tap, process {process.pid}, has ended")
            try:
                ended = self._watch(process, held)
            finally:
                self._line.close()
        _log.warning("tap %d: %s", ended.pid, ended.why)
        self._told(ended)
        save(self._order.spool, ended)
        return ended

    def _watch(self, process: Process, held: int) -> Ended:
        silent = 0
        while True:
            began = time.monotonic()
            if self._line.answered(held, PING):
                silent = 0
            elif identity.readable(0, held):
                return self._ended(process, "it ended by itself", True)
            else:
                silent += 1
            if silent >= (SILENT if self._line.attached else SILENT_IDLE):
                return self._free(process, held, silent)
            if identity.readable(began + PING - time.monotonic(), held):
                return self._ended(process, "it ended by itself", True)

    def _free(self, process: Process, held: int, silent: int) -> Ended:
        why = f"it did not answer for {silent * PING:g} s with {self._line.attached} clients attached"
        # Before it dies: of a process whose first thread is gone, while another hangs, nothing can be taken any more.
        freed, how = self._sever(process, held)
        if identity.kill(held, DYING):
            return self._ended(process, f"{why}; it was killed", True)
        return self._ended(process, f"{why}; it hangs in the kernel, {how}", freed)

    def _sever(self, process: Process, held: int) -> tuple[bool, str]:
        try:
            count = identity.sever(held, process.pid, self._order.socket)
        except OSError as error:
            return False, f"and keeps its connections ({error})"
        return True, f"with {count} connections shut down"

    def _ended(self, process: Process, why: str, freed: bool) -> Ended:
        return Ended(process.pid, why, freed, self._line.number, time.time_ns())


class Line:
    """Pings, one at a time, on a connection that is made anew when it breaks; never waits longer than it is told."""

    def __init__(self, path: Path) -> None:
        self.attached = 1
        """As it last said; before it said anything somebody may be."""
        self.number = 0
        self._path = path
        self._sock: socket.socket | None = None
        self._asked = False
        self._said = b""

    def answered(self, held: int, patience: float) -> bool:
        """Ask unless an answer is owed; whether one came.  False at once when the process of `held` ends."""
        try:
            if self._sock is None:
                self._sock = socket.socket(socket.AF_UNIX)
                self._sock.setblocking(False)
                self._sock.connect(str(self._path))
            if not self._asked:
                self._sock.sendall(b'{"do": "ping"}\n')
                self._asked = True
            return self._hear(self._sock, held, patience)
        except (OSError, ValueError, KeyError) as why:
            _log.info("%s: %s", self._path, why)
            self.close()
            return False

    def _hear(self, sock: socket.socket, held: int, patience: float) -> bool:
        until = time.monotonic() + patience
        while b"\n" not in self._said:
            if sock.fileno() not in identity.readable(until - time.monotonic(), sock.fileno(), held):
                return False
            data = sock.recv(4096)
            if not data:
                raise ConnectionResetError("the tap closed the line")
            self._said += data
        found = json.loads(self._said)
        self._said, self._asked = b"", False
        self.attached, self.number = int(found["attached"]), int(found["number"])
        return True

    def close(self) -> None:
        """Repeatable; the next question makes a new connection."""
        if self._sock is not None:
            self._sock.close()
        self._sock, self._asked, self._said = None, False, b""


def save(spool: Path, ended: Ended) -> None:
    """Durably.  Raises Full, DeviceFailed."""
    linux.replace_text(spool / ENDED, json.dumps({"version": VERSION, **asdict(ended)}) + "\n")


def load(spool: Path) -> Ended | None:
    """What the last watchdog wrote down; None when none did.  Raises Newer, Damaged."""
    path = spool / ENDED
    try:
        found = json.loads(path.read_text())
        version = found.pop("version")
        if version > VERSION:
            raise errors.Newer(path, version, VERSION)
        return Ended(**found)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as why:
        raise errors.Damaged(f"{path} does not read: {why!r}; delete it") from why
