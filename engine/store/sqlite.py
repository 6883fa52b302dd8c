"""The stores of both sides on SQLite.  Twins of those in sources.py and replicas.py, and they survive.

What counts is the `body` of a row: msgpack of the record, behind its xxh3-128.  The columns beside it are for people
and for `vmferry epochs`; nothing is decided by them.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from engine import errors
from engine.store import database, replicas
from engine.store.replicas import KeptEpoch, Outgoing, State, Update, surviving
from engine.store.sources import SourceState
from schemas import errors as schema_errors
from schemas import events, wire
from schemas.identity import Attempt
from schemas.receipts import Position

T = TypeVar("T")

_SOURCE = """
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), stream TEXT, label TEXT, generation INTEGER, attempt TEXT,
    epoch INTEGER, body BLOB NOT NULL)
"""
_REPLICA = """
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), replica TEXT, stream TEXT, label TEXT, generation INTEGER,
    epoch INTEGER, root TEXT, undo_end INTEGER, held TEXT, body BLOB NOT NULL);
CREATE TABLE epochs (id INTEGER PRIMARY KEY, epoch INTEGER, generation INTEGER, attempt TEXT, cut TEXT, usable INTEGER,
    missing INTEGER, cut_at TEXT, root TEXT, chain TEXT, undo_start INTEGER, undo_end INTEGER, body BLOB NOT NULL);
CREATE TABLE outbox (number INTEGER PRIMARY KEY, epoch INTEGER, record BLOB NOT NULL);
CREATE TABLE definitions (epoch INTEGER PRIMARY KEY, form TEXT, body BLOB NOT NULL)
"""
"""Without the definitions: version 1."""


@dataclass(frozen=True, slots=True)
class _State:
    """`State` as it is packed: an absent intent is an empty list."""

    replica: bytes
    nonce: bytes
    stream: bytes
    label: str
    position: Position
    undo_end: int
    generation: int
    fence: Attempt
    next_receipt: int
    held: str
    intent: tuple[KeptEpoch, ...]


def _pack(value: Any) -> bytes:
    body = wire.pack_value(value)
    return xxhash.xxh3_128_digest(body) + body


def _unpack(kind: type[T], data: bytes, path: Path) -> T:
    if xxhash.xxh3_128_digest(data[16:]) != data[:16]:
        raise errors.Damaged(f"{path}: a row does not have its checksum: it was changed from outside")
    try:
        return wire.unpack_value(kind, data[16:])
    except schema_errors.SchemaError as why:
        raise errors.Damaged(f"{path}: a row does not read as written: {why}") from why


class _Store:
    """One SQLite file.  For the thread that opened it."""

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self._db = database.open_database(path, schema)

    def _body(self) -> bytes | None:
        with database.named(self.path):
            row = self._db.execute("SELECT body FROM state").fetchone()
        return row[0] if row else None

    @property
    def empty(self) -> bool:
        """Nothing was committed yet."""
        return self._body() is None

    def _known(self) -> bytes:
        body = self._body()
        if body is None:
            raise errors.Damaged(f"{self.path} holds no state")
        return body

    def close(self) -> None:
        """Repeatable."""
        self._db.close()


class SqliteSourceStore(_Store):
    """The SourceStore at `path`.  Raises Damaged (Newer: leave it) when it cannot be read as written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SOURCE)

    def load(self) -> SourceState:
        return _unpack(SourceState, self._known(), self.path)

    def commit(self, state: SourceState) -> None:
        row = (state.stream.hex(), state.label, state.generation, str(state.attempt), state.epoch, _pack(state))
        with database.named(self.path):
            self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?, ?)", row)


class SqliteReplicaStore(_Store):
    """The ReplicaStore at `path`.  Raises as SqliteSourceStore."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _REPLICA)
        try:
            self._kept, self._defined = self._read_kept(), self._read_defined()
        except BaseException:
            self.close()
            raise

    def create(self, state: State) -> None:
        """The first state."""
        self.commit(Update(state))

    def load(self) -> State:
        stored = _unpack(_State, self._known(), self.path)
        fields = {name: getattr(stored, name) for name in _State.__slots__ if name != "intent"}
        return State(**fields, intent=stored.intent[0] if stored.intent else None)

    def commit(self, update: Update) -> None:
        kept, at = list(self._kept), update.state.position.epoch
        with database.named(self.path), self._db.atomic():
            if update.rewound:
                kept = self._drop_later(update.state.position, kept)
            if self._defined[-1:] > [at]:
                self._db.execute("DELETE FROM definitions WHERE epoch > ?", (at,))
            self._put_state(update.state)
            for one in update.keep:
                self._keep(one)
            for receipt in update.receipts:
                self._db.execute("INSERT INTO outbox VALUES (?, ?, ?)", (receipt.number, receipt.epoch, receipt.record))
            for new in update.definitions:
                row = (new.epoch, new.said.form.value, _pack(new.said))
                self._db.execute("INSERT INTO definitions VALUES (?, ?, ?)", row)
        self._kept = kept + list(update.keep)
        self._defined = [each for each in self._defined if each <= at] + [one.epoch for one in update.definitions]

    def _drop_later(self, position: Position, kept: list[KeptEpoch]) -> list[KeptEpoch]:
        self._db.execute("DELETE FROM epochs WHERE epoch > ?", (position.epoch,))
        for one in self._outbox():
            if not surviving(one, position):
                self._db.execute("DELETE FROM outbox WHERE number = ?", (one.number,))
        return [one for one in kept if one.position.epoch <= position.epoch]

    def _put_state(self, state: State) -> None:
        intent = (state.intent,) if state.intent else ()
        fields = {name: getattr(state, name) for name in State.__slots__}
        row = (
            state.replica.hex(), state.stream.hex(), state.label, state.generation, state.position.epoch,
            _root(state.position), state.undo_end, state.held, _pack(_State(**{**fields, "intent": intent})),
        )  # fmt: skip
        self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _keep(self, one: KeptEpoch) -> None:
        at = one.position
        row = (
            at.epoch, at.generation, str(at.attempt), at.cut.value, at.usable, at.missing, _when(at.instant), _root(at),
            at.chain.hex(), one.start, one.end, _pack(one),
        )  # fmt: skip
        self._db.execute("INSERT INTO epochs VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _read_kept(self) -> list[KeptEpoch]:
        with database.named(self.path):
            rows = self._db.execute("SELECT body FROM epochs ORDER BY id").fetchall()
        return [_unpack(KeptEpoch, row[0], self.path) for row in rows]

    def kept(self) -> list[KeptEpoch]:
        # Asked for at every settle: decoding thousands of rows each time would be most of its cost.
        return list(self._kept)

    def _read_defined(self) -> list[int]:
        """The epochs that said what the machine is, oldest first.  What they said is large, and seldom asked for."""
        with database.named(self.path):
            return [row[0] for row in self._db.execute("SELECT epoch FROM definitions ORDER BY epoch").fetchall()]

    def definition(self, epoch: int) -> events.Defined | None:
        said = replicas.held_at(self._defined, epoch)
        if said is None:
            return None
        with database.named(self.path):
            (body,) = self._db.execute("SELECT body FROM definitions WHERE epoch = ?", (said,)).fetchone()
        return _unpack(events.Defined, body, self.path)

    def forget_before(self, epoch: int) -> None:
        kept = [one for one in self._kept if one.position.epoch >= epoch]
        gone = replicas.unneeded(self._defined, kept)
        if gone or len(kept) < len(self._kept):
            with database.named(self.path), self._db.atomic():
                self._db.execute("DELETE FROM epochs WHERE epoch < ?", (epoch,))
                for one in gone:
                    self._db.execute("DELETE FROM definitions WHERE epoch = ?", (one,))
            self._kept, self._defined = kept, [one for one in self._defined if one not in gone]

    def outbox(self) -> list[Outgoing]:
        with database.named(self.path):
            return self._outbox()

    def _outbox(self) -> list[Outgoing]:
        rows = self._db.execute("SELECT number, epoch, record FROM outbox ORDER BY number").fetchall()
        return [Outgoing(*row) for row in rows]

    def published(self, number: int) -> None:
        with database.named(self.path):
            self._db.execute("DELETE FROM outbox WHERE number <= ?", (number,))


def _root(position: Position) -> str:
    return " ".join(root.hex() for root in position.roots)


def _when(instant: int) -> str:
    """Nanoseconds since 1970 as people write them, UTC."""
    return datetime.datetime.fromtimestamp(instant / 1e9, datetime.UTC).isoformat(timespec="milliseconds")
