"""The tap's control socket: a line of JSON asks, a line of JSON answers, on the thread that answers NBD.

So an answer means that the guest's writes are answered, too, and silence that they are not.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine import errors
from engine.nbd import server

LONGEST_LINE = 64 << 10
MOST_CALLERS = 16
MOST_OWED = 1 << 20
"""Bytes of answers that a caller has not taken: more, and it is dropped."""

_log = logging.getLogger("vmferry.tap")

Ask = dict[str, Any]
Commands = Mapping[str, Callable[[Ask], Ask]]


class Control:
    """Listens on `path`; `commands` answer by the name that "do" holds."""

    def __init__(self, selector: selectors.BaseSelector, path: Path, commands: Commands) -> None:
        self.selector, self.commands = selector, commands
        self._path, self._callers = path, list[Caller]()
        self._listening = server.listen(path)
        selector.register(self._listening, selectors.EVENT_READ, self._accept)

    @property
    def callers(self) -> int:
        return len(self._callers)

    def forget(self, caller: Caller) -> None:
        self._callers.remove(caller)

    def close(self) -> None:
        for caller in list(self._callers):
            caller.close()
        self.selector.unregister(self._listening)
        self._listening.close()
        self._path.unlink(missing_ok=True)

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listening.accept()
        except OSError as why:
            _log.warning("%s: a caller could not be taken: %s", self._path, why)
            return
        sock.setblocking(False)
        if len(self._callers) >= MOST_CALLERS:
            # The oldest is the likeliest to have been forgotten; the watchdog calls anew when it was that.
            self._callers[0].close()
        self._callers.append(Caller(self, sock))


class Caller:
    """One connection of somebody who asks."""

    def __init__(self, control: Control, sock: socket.socket) -> None:
        self._control, self._sock = control, sock
        self._asked, self._owed = bytearray(), bytearray()
        control.selector.register(sock, selectors.EVENT_READ, self.ready)

    def ready(self, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and not self._read():
                self.close()
                return
            self._write()
        except OSError as why:
            _log.info("a caller went away: %s", why)
            self.close()

    def close(self) -> None:
        self._control.selector.unregister(self._sock)
        self._sock.close()
        self._control.forget(self)

    def _read(self) -> bool:
        """Take what came; False when it was the end, or nothing that we could ever answer."""
        data = self._sock.recv(LONGEST_LINE)
        self._asked += data
        while (end := self._asked.find(b"\n")) >= 0:
            line = bytes(self._asked[:end])
            del self._asked[: end + 1]
            self._owed += json.dumps(self._answer(line)).encode() + b"\n"
        return bool(data) and len(self._asked) < LONGEST_LINE and len(self._owed) < MOST_OWED

    def _write(self) -> None:
        if self._owed:
            try:
                del self._owed[: self._sock.send(self._owed)]
            except BlockingIOError:
                _log.debug("a caller does not read")
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._owed else 0)
        self._control.selector.modify(self._sock, events, self.ready)

    def _answer(self, line: bytes) -> Ask:
        try:
            asked = json.loads(line)
            answer = self._control.commands[asked["do"]](asked)
        except errors.FerryError as why:
            return {"ok": False, "error": str(why)}
        except (ValueError, TypeError, KeyError, RecursionError) as why:
            known = ", ".join(self._control.commands)
            return {"ok": False, "error": f'not a request ({why!r}): {{"do": WHAT}} is one, where WHAT is of {known}'}
        return {"ok": True, **answer}


class Line:
    """The calling side: a connection to a tap's control socket.  Blocks; for callers that are not a tap."""

    def __init__(self, path: Path, patience: float) -> None:
        """Raises Transient when nobody answers within so many seconds, then and at every `ask`."""
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(patience)
        try:
            self._sock.connect(str(path))
        except OSError as why:
            self._sock.close()
            raise errors.Transient(f"{path}: no tap answers: {why}") from why
        self._file = self._sock.makefile("rb")

    def ask(self, do: str, **more: Any) -> Ask:
        """Its answer.  Raises Usage with what it says when it refuses; after Transient the line is of no more use."""
        try:
            self._sock.sendall(json.dumps({"do": do, **more}).encode() + b"\n")
            answer = self._file.readline()
            found: Ask = json.loads(answer) if answer else {}
        except (OSError, ValueError) as why:
            raise errors.Transient(f"{self._path}: the tap does not answer: {why}") from why
        if not found:
            raise errors.Transient(f"{self._path}: the tap has closed the line")
        if not found["ok"]:
            raise errors.Usage(f"{self._path}: {found['error']}")
        return found

    def close(self) -> None:
        """Repeatable."""
        self._file.close()
        self._sock.close()
