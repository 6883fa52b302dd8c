"""What a run shows while it goes on: a bar on a terminal, a line now and then elsewhere, objects with --json."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Protocol

from engine import units
from engine.cli import ending, logs
from engine.cli.replication import Numbers

_LINE_SECONDS = 3.0
_JSON_SECONDS = 1.0
_SAME = 5.0
"""Seconds within which the same words are not said again."""
_WINDOW = 5.0
"""Seconds over which a rate is taken."""


class View(Protocol):
    """Told of the numbers many times a second; shows them as often as it sees fit."""

    def show(self, numbers: Numbers) -> None: ...

    def close(self) -> None: ...


class Speed:
    """Bytes read per second lately, and what they say of the time that is left."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def take(self, numbers: Numbers) -> tuple[float, float | None]:
        """(bytes per second, seconds left or None)."""
        now = time.monotonic()
        self._seen = [one for one in self._seen if now - one[0] < _WINDOW] + [(now, numbers.read)]
        since, read = self._seen[0]
        rate = max(0.0, numbers.read - read) / (now - since) if now > since else 0.0
        left = max(0, numbers.total - numbers.read)
        return rate, left / rate if rate and numbers.phase == "shipping" else None


class Quiet:
    """Shows nothing."""

    def show(self, numbers: Numbers) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """A line every few seconds, on stderr."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._next = time.monotonic() + _LINE_SECONDS

    def show(self, numbers: Numbers) -> None:
        rate, left = self._speed.take(numbers)
        if time.monotonic() < self._next or numbers.phase == "following":
            return
        self._next = time.monotonic() + _LINE_SECONDS
        sys.stderr.write(f"{sentence(numbers, rate, left)}\n")

    def close(self) -> None:
        """Nothing is held."""


class Objects:
    """An object every second, on stdout."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._next = time.monotonic() + _JSON_SECONDS

    def show(self, numbers: Numbers) -> None:
        rate, left = self._speed.take(numbers)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _JSON_SECONDS
        ending.emit(
            {
                "event": "progress", "phase": numbers.phase, "read": numbers.read, "total": numbers.total,
                "sent": numbers.sent, "rate": round(rate), "seconds_left": None if left is None else round(left, 1),
                "sealed_epoch": numbers.sealed, "applied_epoch": numbers.applied.epoch,
            }
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is held."""


def sentence(numbers: Numbers, rate: float, left: float | None) -> str:
    """Where it stands, on one line."""
    return f"{numbers.phase}: {amounts(numbers, rate, left)}"


def amounts(numbers: Numbers, rate: float, left: float | None) -> str:
    """The numbers for people: "read 512 MiB of 1 GiB (50 %), sent 500 MiB, 91 MiB/s, 6 s left, applied 60 of 64"."""
    if not numbers.total:
        return ""
    share = min(100, 100 * numbers.read // numbers.total)
    parts = [f"read {units.shown(numbers.read)} of {units.shown(numbers.total)} ({share} %)"]
    parts += [f"sent {units.shown(numbers.sent)}", f"{units.shown(rate)}/s"]
    if left is not None:
        parts.append(f"{units.duration(left)} left")
    if numbers.sealed:
        parts.append(f"epoch {numbers.applied.epoch} of {numbers.sealed} applied")
    return ", ".join(parts)


class _Plain(logging.Formatter):
    """`vmferry: warning: MESSAGE`."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"vmferry: {level}{record.getMessage()}"


class _Once(logging.Filter):
    """What both sides say of the same thing is said once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message, now = record.getMessage(), time.monotonic()
        again = now - self._said.get(message, -_SAME) < _SAME
        self._said[message] = now
        return not again


class _AsObjects(logging.Handler):
    """Log records as objects on stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        ending.emit({"event": "log", "level": record.levelname.lower(), "message": record.getMessage()})


def make(as_json: bool, quiet: bool, debug: bool = False) -> View:
    """The view that fits, and the log beside it."""
    handler: logging.Handler
    view: Any = Quiet()
    if as_json:
        handler = _AsObjects()
        view = Quiet() if quiet else Objects()
    elif sys.stderr.isatty() and not quiet:
        from engine.cli import bar  # it loads rich, for which no run should wait that nobody watches

        handler, view = bar.make()
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_Plain())
        view = Quiet() if quiet else Lines()
    handler.addFilter(_Once())
    logs.install(handler, logging.DEBUG if debug else logging.WARNING)
    shown: View = view
    return shown
