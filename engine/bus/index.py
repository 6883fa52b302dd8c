"""The index of one embedded topic: how far it is durable, and where some of its records begin.

A cache: it can be deleted, and is rebuilt from the segments.  It is also the word of the writer to its readers: what
is not committed here is not there for them.

Plain sqlite3 and not sqlite-utils: two prepared statements on the path of every sync.  Each connection stays on the
one thread that made it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine import errors
from engine.bus import trouble

NAME = "index.sqlite"
VERSION = 1
_BUSY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Record `offset` begins at byte `position` of the segment whose first offset is `segment`."""

    offset: int
    segment: int
    position: int


@dataclass(frozen=True, slots=True)
class State:
    """Records `begin` to `tail.offset` (excluded) are durable; the next one will stand where `tail` says."""

    begin: int
    tail: Mark

    @property
    def end(self) -> int:
        return self.tail.offset


class Index:
    """An open connection.  Not for two threads."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        with trouble.named(str(self._path)):
            # Before it is opened for writing: whoever closes such a file last moves its WAL into it.
            self._known(_version(self._path))
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=_BUSY_SECONDS)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self.ready = self._known(self._db.execute("PRAGMA user_version").fetchone()[0]) == VERSION
            except BaseException:
                self._db.close()
                raise

    def _known(self, version: int) -> int:
        if version > VERSION:
            raise errors.Newer(self._path, version, VERSION)
        return version

    def create(self, state: State, marks: Iterable[Mark]) -> None:
        """Fill an empty index, all at once."""
        with self._transaction():
            self._db.execute("CREATE TABLE mark (offset INTEGER PRIMARY KEY, segment INTEGER, position INTEGER)")
            self._db.execute(
                "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1),"
                " first INTEGER, next INTEGER, segment INTEGER, position INTEGER)"
            )
            tail = state.tail
            self._db.execute(
                "INSERT INTO state VALUES (1, ?, ?, ?, ?)", (state.begin, tail.offset, tail.segment, tail.position)
            )
            self._add(marks)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        self.ready = True

    def state(self) -> State:
        with trouble.named(str(self._path)):
            begin, *tail = self._db.execute("SELECT first, next, segment, position FROM state").fetchone()
        return State(begin, Mark(*tail))

    def before(self, offset: int) -> Mark | None:
        """The last mark at or before `offset`: a reader goes on from there by the headers."""
        with trouble.named(str(self._path)):
            row = self._db.execute(
                "SELECT offset, segment, position FROM mark WHERE offset <= ? ORDER BY offset DESC LIMIT 1", (offset,)
            ).fetchone()
        return Mark(*row) if row else None

    def commit(self, tail: Mark, marks: Iterable[Mark]) -> None:
        """From now on readers see what stands before `tail`.  Durable when it returns."""
        with self._transaction():
            self._add(marks)
            self._db.execute(
                "UPDATE state SET next = ?, segment = ?, position = ?", (tail.offset, tail.segment, tail.position)
            )

    def advance(self, begin: int) -> int:
        """Let go of all before `begin`.  Gives the first offset of the segment that holds `begin`."""
        with self._transaction():
            self._db.execute("UPDATE state SET first = max(first, ?)", (begin,))
            (begin,) = self._db.execute("SELECT first FROM state").fetchone()
            row = self._db.execute(
                "SELECT segment FROM mark WHERE offset <= ? ORDER BY offset DESC LIMIT 1", (begin,)
            ).fetchone()
            keep = row[0] if row else begin
            self._db.execute("DELETE FROM mark WHERE segment < ?", (keep,))
        return int(keep)

    def close(self) -> None:
        self._db.close()

    def _add(self, marks: Iterable[Mark]) -> None:
        rows = ((mark.offset, mark.segment, mark.position) for mark in marks)
        self._db.executemany("INSERT OR REPLACE INTO mark VALUES (?, ?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with trouble.named(str(self._path)):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _version(path: Path) -> int:
    """PRAGMA user_version of the file, which is not changed by asking; 0 where nothing was stored yet.

    By SQLite, and by its usual locks: a descriptor of our own, and its immutable mode, would let go of every lock that
    this process has on the file once they are closed (POSIX), so that another process takes itself for the last one and
    removes the WAL that our readers look at.  An empty WAL may stay beside the file.
    """
    if not _size(path):
        return 0
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
