"""Log records for journald by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), with fields to search by.

`journalctl VMFERRY_STREAM=web-1` finds what was said of one stream.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct

SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Of syslog(3); what is below all of them is 7, debug."""
_PATIENCE = 1.0
"""Seconds for a journal whose queue is full."""
_BUFFER = 8 << 20
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def encoded(fields: dict[str, str]) -> bytes:
    """NAME=VALUE lines; a value of several lines as NAME, its length in 64 bits little-endian, and the bytes."""
    parts = []
    for name, text in fields.items():
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def fields(record: logging.LogRecord, message: str) -> dict[str, str]:
    """What the journal keeps of a record."""
    stream = getattr(record, "stream", "")
    found = {
        # Named in the words, too: by itself journalctl shows nothing else.
        "MESSAGE": f"[{stream}] {message}" if stream else message,
        "PRIORITY": str(_priority(record.levelno)), "SYSLOG_IDENTIFIER": "vmferry",
        "LOGGER": record.name, "CODE_FILE": record.pathname, "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
    }  # fmt: skip
    for name in ("stream", "site"):
        if value := getattr(record, name, ""):
            found[f"VMFERRY_{name.upper()}"] = str(value)
    return found


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


class Journal(logging.Handler):
    """Sends to the journal, and to `other` what the journal does not take: nothing is lost because of it."""

    def __init__(self, other: logging.Handler, path: str = SOCKET) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter())  # the words alone: the rest are fields
        self._other, self._path = other, path
        self._socket: socket.socket | None = None
        self._away = False
        try:
            self._connected()
        except OSError as why:
            self._tell(why)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(encoded(fields(record, self.format(record))))
            self._away = False
        except OSError as why:
            self._tell(why)
            self._other.handle(record)
        except Exception:  # a record whose arguments do not fit its words: logging says where
            self.handleError(record)

    def _tell(self, why: OSError) -> None:
        """Once for each time that it is away."""
        if self._away:
            return
        self._away = True
        words = f"the journal at {self._path} takes no records ({why}): they are told here"
        level = {"levelno": logging.WARNING, "levelname": "WARNING"}
        self._other.handle(logging.makeLogRecord({"name": "vmferry.log", "msg": words, **level}))

    def _send(self, data: bytes) -> None:
        try:
            self._try(data)
        except OSError as why:
            self._drop()
            if why.errno not in (errno.ECONNREFUSED, errno.ENOTCONN, errno.EPIPE):
                raise
            self._try(data)  # it was started again, and listens on a socket of the same name

    def _try(self, data: bytes) -> None:
        channel = self._connected()
        try:
            channel.send(data)
        except OSError as why:
            if why.errno not in _TOO_LARGE:
                raise
            _send_file(channel, data)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                channel.settimeout(_PATIENCE)
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                channel.connect(self._path)
            except OSError:
                channel.close()
                raise
            self._socket = channel
        return self._socket

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Repeatable."""
        self._drop()
        super().close()


def _send_file(channel: socket.socket, data: bytes) -> None:
    """What is too large for a datagram goes as a sealed file of memory, with an empty datagram."""
    with contextlib.ExitStack() as stack:
        fd = os.memfd_create("vmferry-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        stack.callback(os.close, fd)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        channel.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))])
