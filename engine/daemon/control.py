"""The control socket of a daemon: one JSON object a line, answered by one.  Who may call is its owner and group.

A request is `{"do": NAME, ...}`; the answer `{"ok": true, ...}`, or `{"ok": false, "error": KIND, "message": WORDS}`
with the class of engine/errors.py as KIND.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from engine import errors

log = logging.getLogger("vmferry.control")
Handle = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
LINE = 1 << 16
"""Most bytes of one request."""
ANSWER = 64 << 20
_PATIENCE = 60.0
"""Seconds that a caller may be silent within a connection."""
_MODE = 0o660


class Server:
    """Listens at `path`.  `handle` answers; what it raises is told to the caller and harms nobody else."""

    def __init__(self, path: Path, handle: Handle, group: str = "") -> None:
        self.path, self._handle, self._group = path, handle, group
        self._server: asyncio.AbstractServer | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises InUse when a daemon answers there already, Usage when the socket cannot be made."""
        if self.path.is_socket() and answers(self.path):
            raise errors.InUse(f"a daemon answers at {self.path} already: stop that one first")
        with contextlib.suppress(FileNotFoundError):
            if self.path.is_socket():
                self.path.unlink()
        try:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with _short(self.path) as short:
                listening.bind(short)
            # Nobody can connect before `listen`: by then its rights are what they should be.
            os.chmod(self.path, _MODE if self._group else 0o600)
            if self._group:
                shutil.chown(self.path, group=self._group)
        except (OSError, LookupError) as why:
            listening.close()
            raise errors.Usage(f"the control socket {self.path} cannot be made: {why}") from why
        self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=LINE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        try:
            while line := await asyncio.wait_for(reader.readline(), _PATIENCE):
                writer.write((json.dumps(await self._answer(line), ensure_ascii=False) + "\n").encode())
                await asyncio.wait_for(writer.drain(), _PATIENCE)
        except ValueError:
            writer.write(b'{"ok": false, "error": "Usage", "message": "a request of more than 65,536 bytes"}\n')
        except (TimeoutError, ConnectionError) as why:
            log.info("a caller of the control socket went away: %r", why)
        finally:
            self._calls.discard(call)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict) or not isinstance(asked.get("do"), str):
                raise errors.Usage('a request is an object with a text in "do", on one line')
            return {"ok": True, **await self._handle(asked)}
        except (ValueError, RecursionError) as why:
            return _refusal(errors.Usage(f"a request is JSON, one object a line: {why}"))
        except errors.FerryError as why:
            return _refusal(why)
        except Exception as why:
            log.exception("a control request failed")
            return {"ok": False, "error": "Unexpected", "message": f"unexpected {type(why).__name__}: {why}"}

    async def close(self) -> None:
        """Repeatable."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for call in list(self._calls):
            call.cancel()
        if self._calls:
            await asyncio.wait(list(self._calls))
        self.path.unlink(missing_ok=True)


def _refusal(why: errors.FerryError) -> dict[str, Any]:
    """By the nearest class that the caller can make of the message alone."""
    known = next(
        kind for kind in type(why).__mro__ if kind.__module__ == errors.__name__ and "__init__" not in vars(kind)
    )
    return {"ok": False, "error": known.__name__, "message": str(why)}


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The same place by a name that fits into the 108 bytes of a socket's address."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def answers(path: Path) -> bool:
    """Whether somebody listens at `path`.  Raises Usage when we may not know."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(2.0)
            with _short(path) as short:
                caller.connect(short)
    except PermissionError as why:
        raise refused(path) from why
    except OSError:
        return False
    return True


def ask(path: Path, request: dict[str, Any], seconds: float = 30.0) -> dict[str, Any]:
    """The answer of the daemon at `path`.  Raises what it raised; Transient when it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(seconds)
            with _short(path) as short:
                caller.connect(short)
            caller.sendall((json.dumps(request) + "\n").encode())
            with caller.makefile("rb") as lines:
                line = lines.readline(ANSWER)
    except PermissionError as why:
        raise refused(path) from why
    except OSError as why:
        raise errors.Transient(f"no daemon answers at {path}: {why.strerror or why}") from why
    if not line:
        raise errors.Transient(f"the daemon at {path} hung up: it is ending, perhaps; try again")
    said: dict[str, Any] = json.loads(line)
    if not said.pop("ok"):
        kind = getattr(errors, str(said.get("error")), None)
        raise (kind if isinstance(kind, type) and issubclass(kind, errors.FerryError) else errors.FerryError)(
            str(said.get("message"))
        )
    return said


def refused(path: Path) -> errors.Usage:
    """What is said to somebody who may not call the daemon at `path`."""
    return errors.Usage(
        f"{path}: permission denied: a daemon's owner and group may call it{_who(path)}.  Call it by `sudo`, or have"
        " its config name a group of yours: control_group"
    )


def _who(path: Path) -> str:
    """Nothing, where even that may not be seen."""
    with contextlib.suppress(OSError, KeyError):
        return f", {path.owner()} and {path.group()}, mode {stat.S_IMODE(path.stat().st_mode):o}"
    return ""
