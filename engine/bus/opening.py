"""The three ways to open an embedded topic: as its one writer, as one of several, or only to read."""

from __future__ import annotations

import time
from pathlib import Path

from engine import errors
from engine.bus import segments, trouble
from engine.bus.appender import Appender, Syncing
from engine.bus.index import Index
from engine.bus.lock import Lock
from engine.bus.reader import Reader

_PATIENCE_EXCLUSIVE = 2.0
"""Seconds: a reader that makes a new topic holds the lock for a few milliseconds, on a busy disk for longer."""
_LOOK = 0.1
"""Seconds after which a reader looks whether the topic is right meanwhile."""
_PATIENCE_SHARED = 10.0
"""Seconds: others hold the lock for one sync each."""


class Exclusive:
    """The one writer.  Holds the lock until `close`."""

    def __init__(self, directory: Path) -> None:
        self._lock = Lock(directory)
        try:
            self._lock.acquire(_PATIENCE_EXCLUSIVE)
            self._appender = Appender(directory)
        except BaseException:
            self._lock.close()
            raise

    def write(self, records: list[bytes]) -> int:
        return self._appender.write(records)

    def begin_sync(self, records: list[bytes]) -> Syncing:
        self._appender.write(records)
        return self._appender.begin_sync()

    def end_sync(self, done: Syncing) -> int:
        return self._appender.end_sync(done)

    def close(self) -> None:
        self._appender.close()
        self._lock.close()


class Shared:
    """One of several writers in turn.  Holds the lock for each sync, and nothing is in the log before."""

    def __init__(self, directory: Path) -> None:
        self._lock = Lock(directory)
        try:
            self._lock.acquire(_PATIENCE_SHARED)
            self._appender = Appender(directory)
        except BaseException:
            self._lock.close()
            raise
        self._lock.release()

    def sync(self, records: list[bytes]) -> int:
        self._lock.acquire(_PATIENCE_SHARED)
        try:
            self._appender.refresh()
            self._appender.write(records)
            return self._appender.sync()
        finally:
            self._lock.release()

    write = sync

    def close(self) -> None:
        self._appender.close()
        self._lock.close()


def open_reader(topic: str, directory: Path) -> Reader:
    """A reader; a topic that is new, or whose index is gone, is put right first if nobody else is at it."""
    deadline = time.monotonic() + _PATIENCE_SHARED
    while not _ready(directory):
        lock = Lock(directory)
        try:
            lock.acquire(_LOOK)
            Appender(directory).close()
        except errors.InUse:
            # Who has it may be its one writer, which puts it right and then keeps it: look again.
            if time.monotonic() > deadline:
                raise
        finally:
            lock.close()
    return Reader(topic, directory)


def _ready(directory: Path) -> bool:
    try:
        index = Index(directory)
    except errors.Newer:
        raise
    except errors.Damaged:
        return False
    index.close()
    # A newer writer's segments come last: refused here, and not when a reader has come as far as that.
    with trouble.named(str(directory)):
        for newest in segments.firsts(directory)[-1:]:
            segments.check_file(directory, newest)
    return index.ready
