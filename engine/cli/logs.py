"""Where log records go, and how they look: for people, for programs, or for the journal."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Annotated, Any

import typer

from engine.cli import journal


class Format(enum.StrEnum):
    """How a daemon's log looks."""

    TEXT = "text"
    JSON = "json"
    JOURNAL = "journal"


class Level(enum.StrEnum):
    """From which weight on it is told."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


FormatOption = Annotated[
    Format, typer.Option("--log-format", help="Lines on stderr, objects on stderr, or journald's own protocol.")
]
LevelOption = Annotated[Level, typer.Option("--log-level", help="From which weight on it is told.")]

_tags: ContextVar[dict[str, str]] = ContextVar("vmferry_log_tags", default={})  # noqa: B039 - never changed in place


@contextlib.contextmanager
def about(**tags: str) -> Iterator[None]:
    """What is logged inside, in this task and in those that it starts, is about this `stream` and `site`."""
    token = _tags.set({**_tags.get(), **tags})
    try:
        yield
    finally:
        _tags.reset(token)


class _Tagged(logging.Filter):
    """Puts the tags on a record; what its caller gave as `extra` stands."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in _tags.get().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


def instant(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    seconds, rest = divmod(int(record.created * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:03d}Z"


class Text(logging.Formatter):
    """`2026-01-31T12:00:00.123Z warning [web-1] MESSAGE`, and indented what does not fit on one line."""

    def format(self, record: logging.LogRecord) -> str:
        # Indented, so that nothing that a peer says can look like a record of its own.
        message = super().format(record).replace("\n", "\n    ")
        stream = getattr(record, "stream", "")
        return f"{instant(record)} {record.levelname.lower()}{f' [{stream}]' if stream else ''} {message}"


class Json(logging.Formatter):
    """An object on a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": instant(record), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(),
        }  # fmt: skip
        for name in ("stream", "site"):
            if value := getattr(record, name, ""):
                said[name] = str(value)
        if record.exc_info and record.exc_info[0] is not None:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


def configure(form: Format = Format.TEXT, level: Level = Level.INFO, socket: str = journal.SOCKET) -> None:
    """Have a daemon's records go where they should.  May be called again, to change it while it runs."""
    lines: logging.Handler = logging.StreamHandler()
    lines.setFormatter(Json() if form is Format.JSON else Text())
    handler = journal.Journal(lines, socket) if form is Format.JOURNAL else lines
    install(handler, logging.getLevelNamesMapping()[level.upper()])


def install(handler: logging.Handler, level: int) -> None:
    """The one handler of this process: of ours from `level` on, of the libraries' warnings and worse."""
    handler.addFilter(_Tagged())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("vmferry").setLevel(level)
