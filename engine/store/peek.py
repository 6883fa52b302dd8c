"""The stores of both sides, opened to look: no lock, no write, and no word to whoever has them open."""

from __future__ import annotations

from pathlib import Path

from engine.store import database, replicas
from engine.store.sources import SourceState
from engine.store.sqlite import SqliteReplicaStore, SqliteSourceStore


class _ReplicaView(SqliteReplicaStore):
    """A SqliteReplicaStore to read from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = database.open_read_only(path)
        try:
            self._kept = self._read_kept()
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
    view = _ReplicaView(path)
    try:
        return view.load(), view.kept(), len(view.outbox())
    finally:
        view.close()


def source(path: Path) -> SourceState:
    """The state of a source side.  Raises NotFound, Damaged."""
    view = _SourceView(path)
    try:
        return view.load()
    finally:
        view.close()
