"""What a service tells its manager: sd_notify(3) by a datagram to $NOTIFY_SOCKET.  Without one nothing is told.

READY=1, STATUS=, RELOADING=1 with MONOTONIC_USEC (systemd 253 and later wants it; older ones pass over it),
STOPPING=1, WATCHDOG=1.  Nothing here raises because of the socket: a service that works is not ended by who watches it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

_log = logging.getLogger("vmferry.service")
_PATIENCE = 1.0
"""Seconds for a manager whose queue is full; the caller's event loop waits so long at most."""


class Notifier:
    """Speaks to the manager that `environment` names.  May be called from any thread."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _interval(environment)
        "Seconds within which `watchdog` is to be called, again and again: do it twice as often.  None: not wanted."
        self._told = False

    def ready(self, status: str = "") -> None:
        """It is up, or has read its settings again.  Repeatable."""
        self._say("READY=1", status)

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._say("", text)

    def reloading(self) -> None:
        """It reads its settings again; `ready` ends that."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """It drains, and will end."""
        self._say("STOPPING=1", status)

    def watchdog(self) -> None:
        """It is alive."""
        self._say("WATCHDOG=1")

    def _say(self, words: str, status: str = "") -> None:
        if not self._address:
            return
        # A line is an assignment: a status of several lines would be read as others.
        lines = [words] if words else []
        lines += [f"STATUS={' '.join(status.split())}"] if status else []
        try:
            # Connected anew each time: a manager that was started again is found at the same address.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(_PATIENCE)
                channel.connect(self._address)
                channel.send("\n".join(lines).encode())
        except OSError as why:
            if not self._told:
                self._told = True
                _log.warning("the service manager at $NOTIFY_SOCKET does not take what it is told: %s", why)


def _address(named: str) -> str:
    """What connect(2) takes: an abstract socket is written @NAME in the environment, and begins with a zero byte."""
    if named.startswith("@"):
        return "\0" + named[1:]
    if named and not named.startswith("/"):
        _log.warning("$NOTIFY_SOCKET is %r: only /PATH and @NAME are known, and nothing is told", named)
        return ""
    return named


def _interval(environment: Mapping[str, str]) -> float | None:
    """sd_watchdog_enabled(3): only the process that is named is watched, and not its children."""
    text, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isdecimal() or not int(text) or process not in ("", str(os.getpid())):
        return None
    return int(text) / 1e6
