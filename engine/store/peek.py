"""The stores of both sides, opened to look: no lock, no write, and no word to whoever has them open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine import errors
from engine.store import database, replicas
from engine.store.sources import SourceState
from engine.store.sqlite import SqliteReplicaStore, SqliteSourceStore
from schemas import events

T = TypeVar("T")


class _ReplicaView(SqliteReplicaStore):
    """A SqliteReplicaStore to read from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = database.open_read_only(path)
        try:
            self._db.execute("BEGIN")  # whatever is read is of one moment
            self._kept = self._read_kept()
            older = "definitions" not in self._db.table_names()
            self._defined = [] if older else self._read_defined()
        except BaseException:
            self.close()
            raise


class _SourceView(SqliteSourceStore):
    """A SqliteSourceStore to read from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = database.open_read_only(path)


def replica(path: Path) -> tuple[replicas.State, list[replicas.KeptEpoch], int]:
    """State, kept epochs (oldest first) and how many receipts wait to be said.  Raises NotFound, Damaged."""
    return _seen(path, _replica)


def definition(path: Path, epoch: int) -> events.Defined | None:
    """What the machine was said to be at `epoch`, which is kept or the position's; None where nothing was said.

    Raises NotFound, Damaged.
    """
    return _seen(path, lambda path: _definition(path, epoch))


def source(path: Path) -> SourceState:
    """The state of a source side.  Raises NotFound, Damaged."""
    return _seen(path, _source)


def _seen(path: Path, look: Callable[[Path], T]) -> T:
    """What `look` sees; once more when a process opened the file while we looked at it as nobody's."""
    before = os.path.exists(f"{path}-wal")
    try:
        return look(path)
    except errors.Damaged:
        if before or not os.path.exists(f"{path}-wal"):
            raise
        return look(path)


def _replica(path: Path) -> tuple[replicas.State, list[replicas.KeptEpoch], int]:
    view = _ReplicaView(path)
    try:
        return view.load(), view.kept(), len(view.outbox())
    finally:
        view.close()


def _definition(path: Path, epoch: int) -> events.Defined | None:
    view = _ReplicaView(path)
    try:
        return view.definition(epoch)
    finally:
        view.close()


def _source(path: Path) -> SourceState:
    view = _SourceView(path)
    try:
        return view.load()
    finally:
        view.close()
