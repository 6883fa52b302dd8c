"""The socket shell round the NBD server's codec: one thread, a selector, any number of connections to a UNIX socket.

Not asyncio: the same codec under its protocols answered 25 to 40 % fewer small writes (docs/TAP.md has the figures).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import shutil
import socket
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from engine import errors, linux
from engine.nbd.constants import ProtocolError
from engine.nbd.handshake import Export
from engine.nbd.server_handshake import GREETING_BYTES, ServerHandshake
from engine.nbd.server_transmission import Request, ServerTransmission

MOST_CONNECTIONS = 64
"""Beyond it one that never ended its handshake makes room, or a new one is turned away: bounds memory."""

MOST_OWED = 1 << 20
"""Bytes of replies that a client has not taken, from which on nothing more is read from it."""

_GREETING_BUFFER = 4096
_log = logging.getLogger("vmferry.nbd")


class Handler(Protocol):
    """What a server serves."""

    def take(self, connection: Connection, requests: list[Request]) -> None:
        """Requests in the order in which they came; answer each, now or later, by `connection.send`.  Their data is
        valid during this call only."""

    def gone(self, connection: Connection) -> None:
        """The connection, whose handshake had ended, is closed; what is sent to it from now on goes nowhere."""


class Connection:
    """One client.  `codec` is there once its handshake has ended."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.codec: ServerTransmission | None = None
        self.sock = sock
        self.open = True
        self._server = server
        self._handshake = ServerHandshake(server.exports)
        self._owed: deque[memoryview] = deque()
        self._owed_bytes = 0
        self._events = selectors.EVENT_READ
        server.selector.register(sock, self._events, self.ready)

    def ready(self, events: int) -> None:
        """The socket can be read or written."""
        try:
            if events & selectors.EVENT_WRITE:
                self._drain()
            if events & selectors.EVENT_READ and self.open:
                self._read()
        except ProtocolError as why:
            _log.warning("%s: a client is dropped: %s", self._server.path, why)
            self.close()
        except OSError as why:
            _log.info("%s: a client went away: %s", self._server.path, why)
            self.close()

    def send(self, data: bytes) -> None:
        """Send it, or keep what the socket does not take.  After `close` it goes nowhere."""
        if not self.open:
            return
        done = 0
        if not self._owed:
            try:
                done = self.sock.send(data)
            except BlockingIOError:
                done = 0
            except OSError as why:
                _log.info("%s: a client went away: %s", self._server.path, why)
                self.close()
                return
        if done < len(data):
            self._owed.append(memoryview(data)[done:])
            self._owed_bytes += len(data) - done
            self._listen()

    def close(self) -> None:
        """Let go of the client; repeatable."""
        if not self.open:
            return
        self.open = False
        self._server.selector.unregister(self.sock)
        self.sock.close()
        self._owed.clear()
        self._server.forget(self)

    def _read(self) -> None:
        codec = self.codec
        if codec is None:
            self._greet()
            return
        try:
            count = self.sock.recv_into(codec.buffer())
        except BlockingIOError:
            return
        if not count:
            self.close()
            return
        self._hand_on(codec, codec.filled(count))

    def _greet(self) -> None:
        data = self.sock.recv(_GREETING_BUFFER)
        if not data:
            self.close()
            return
        answer = self._handshake.receive(data)
        if answer:
            self.send(answer)
        if self._handshake.ended:
            self.close()
        elif self._handshake.export is not None:
            self.codec = ServerTransmission(self._handshake.export)
            _log.info("%s: a client attached to %r", self._server.path, self._handshake.export.name)
            self._hand_on(self.codec, self.codec.feed(self._handshake.leftover))

    def _hand_on(self, codec: ServerTransmission, requests: list[Request]) -> None:
        if codec.refused:
            refused, codec.refused = codec.refused, []
            self.send(b"".join(refused))
        if requests:
            self._server.handler.take(self, requests)
        if codec.closing:
            self.close()

    def _drain(self) -> None:
        while self._owed:
            try:
                done = self.sock.send(self._owed[0])
            except BlockingIOError:
                break
            self._owed_bytes -= done
            if done == len(self._owed[0]):
                self._owed.popleft()
            else:
                self._owed[0] = self._owed[0][done:]
        self._listen()

    def _listen(self) -> None:
        """Read unless the client owes it to us to read first; write while there is something."""
        events = selectors.EVENT_READ if self._owed_bytes <= MOST_OWED else 0
        events |= selectors.EVENT_WRITE if self._owed else 0
        if self.open and events != self._events:
            self._events = events
            self._server.selector.modify(self.sock, events, self.ready)


class Server:
    """Listens on the UNIX socket `path`; `selector` is run by the caller, who calls each key's data with its events."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        path: Path,
        exports: Mapping[str, Export],
        handler: Handler,
        mode: int = 0o600,
        group: str = "",
    ) -> None:
        self.selector, self.path, self.exports, self.handler = selector, path, exports, handler
        self.connections: list[Connection] = []
        self._listening = listen(path, mode, group)
        selector.register(self._listening, selectors.EVENT_READ, self._accept)

    @property
    def attached(self) -> list[Connection]:
        """Those whose handshake has ended."""
        return [one for one in self.connections if one.codec is not None]

    def forget(self, connection: Connection) -> None:
        """It was closed."""
        self.connections.remove(connection)
        if connection.codec is not None:
            self.handler.gone(connection)

    def close(self) -> None:
        """Close every connection and take the socket's path away."""
        for connection in list(self.connections):
            connection.close()
        self.selector.unregister(self._listening)
        self._listening.close()
        self.path.unlink(missing_ok=True)

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listening.accept()
        except OSError as why:  # gone before it was taken, or no descriptor is left: the next one may have better luck
            _log.warning("%s: a client could not be taken: %s", self.path, why)
            return
        sock.setblocking(False)
        if len(self.connections) >= MOST_CONNECTIONS and not self._make_room():
            _log.warning("%s: a client was turned away: %d are here", self.path, MOST_CONNECTIONS)
            sock.close()
            return
        connection = Connection(self, sock)
        self.connections.append(connection)
        connection.send(GREETING_BYTES)  # last: who is gone by now is closed, and forgotten, at once

    def _make_room(self) -> bool:
        for connection in self.connections:
            if connection.codec is None:
                connection.close()
                return True
        return False


def listen(path: Path, mode: int = 0o600, group: str = "") -> socket.socket:
    """A listening UNIX socket with these rights, of that group or of ours.  Raises InUse when somebody answers there,
    NotFound, Usage.

    One that nobody answers on is left over from a process that was killed, and replaced.
    """
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        found = probe.connect_ex(str(path))
    if found == 0:
        raise errors.InUse(f"{path}: another process listens there")
    if found == errno.ECONNREFUSED and path.is_socket():
        path.unlink()
    listening = socket.socket(socket.AF_UNIX)
    try:
        # Under the mask from the first moment: between bind and chmod nobody else gets in.
        old = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(old)
        if group:
            shutil.chown(path, group=group)
        os.chmod(path, mode)
        listening.listen(MOST_CONNECTIONS)
        listening.setblocking(False)
    except LookupError as why:
        listening.close()
        raise errors.Usage(f"{path}: this host has no group {group!r}") from why
    except OSError as why:
        listening.close()
        raise linux.failure(why, str(path), "listen there", opening=True) from why
    return listening
