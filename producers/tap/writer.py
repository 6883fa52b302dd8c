"""The writing side of the spool: appended to by the thread that answers NBD, made durable by another.

The order of what becomes durable is the embedded log's (engine/bus/appender.py): records into the segment, fdatasync,
and only then the index, from which a reader learns that they are there.  Here those who wait are told when the
fdatasync is done, and the index is committed behind that, for several syncs at once: a crash between the two leaves
whole records behind the end that the index knows, which recovery keeps.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from engine import errors, linux
from engine.bus import segments, trouble
from engine.bus.appender import Syncing
from engine.bus.opening import Exclusive
from engine.bus.room import Room
from producers.tap import spool as spooled

STRIDE = 1 << 32
"""A tap begins with the next multiple of this: what an earlier one numbered, and a power cut took, stays used."""

_log = logging.getLogger("vmferry.tap")


@dataclass(frozen=True, slots=True)
class Synced:
    """All below `number` is durable; or `error`, after which nothing more is."""

    number: int
    error: errors.FerryError | None = None


class Writer:
    """`append` and `sync` on one thread.  Raises InUse when another tap has the spool, Full, Damaged, DeviceFailed.

    `number` is the next one; `told` is called on the other thread after each sync, and `done` then gives what came.
    Readers see what is durable `commit_every` seconds later at most: a commit costs as much as a sync.
    """

    def __init__(self, spool: Path, quota: int, commit_every: float, told: Callable[[], None], first: int = 0) -> None:
        self._spool, self._directory = spool, spool / spooled.TOPIC
        self._told, self._commit_every, self._first = told, commit_every, first
        self._committed = 0.0
        self._uncommitted: Syncing | None = None
        self._room = Room(spool, quota)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: deque[Synced] = deque()
        self._syncing = False
        self.spent = False
        """Nothing more is made durable: the medium failed."""
        self.since = 0.0
        """When the oldest was appended that no sync covers (monotonic)."""
        self.number = self.durable = 0
        self._synced = 0
        self._thread = threading.Thread(target=self._work, name="sync spool", daemon=True)
        self._thread.start()
        # SQLite's connection stays on the thread that made it, which is the one that commits.
        try:
            self._log: Exclusive = self._call(self._open)
        except BaseException:
            self._jobs.put(None)
            raise

    def append(self, records: Sequence[bytes], past: int) -> None:
        """Put them into the page cache; the next number is `past`.  Raises Full and DeviceFailed: then the gap begins
        with `number`, and nothing may be appended any more."""
        amount = sum(len(one) + segments.RECORD_HEADER for one in records)
        self._room.take(amount)
        try:
            self._log.write(list(records))
        except errors.FerryError:
            self.spent = True
            raise
        self._room.landed(amount)
        if self.number == self._synced:
            self.since = time.monotonic()
        self.number = past

    @property
    def unsynced(self) -> bool:
        """Whether something was appended since the last sync began, and none is under way."""
        return self.number != self._synced and not self._syncing and not self.spent

    def sync(self) -> None:
        """Begin to make all that was appended durable.  Only while `unsynced`."""
        begun, number = self._log.begin_sync([]), self.number
        self._syncing, self._synced = True, number
        self._jobs.put(lambda: self._sync(begun, number))

    def done(self) -> Synced | None:
        """What came of the sync that was under way, once; None while it is."""
        if not self._done:
            return None
        self._syncing = False
        found = self._done.popleft()
        if found.error is None:
            self.durable = found.number
        else:
            self.spent = True
        return found

    def fill(self) -> int:
        """Bytes of the spool as last measured."""
        return self._room.used

    def broke(self, number: int, why: str) -> None:
        """Say durably that a gap begins at `number`; in the background, as the medium may hang."""
        self._jobs.put(lambda: self._say_broken(number, why))

    def close(self, patience: float) -> None:
        """What was not synced may be lost.  Waits so many seconds for the other thread."""
        self._jobs.put(self._end)
        self._jobs.put(None)
        self._thread.join(patience)

    # On the other thread.

    def _open(self) -> Exclusive:
        with trouble.named(str(self._directory)):
            # What a guest writes is nobody else's to read.
            self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.mkdir(exist_ok=True)
            for directory in (self._directory, self._spool):
                linux.sync_directory(str(directory))
        log = Exclusive(self._directory)
        try:
            past = max(spooled.past(self._directory), self._first)
            self.number = self.durable = self._synced = -(-past // STRIDE) * STRIDE
            spooled.write_broken(self._spool, "")
        except BaseException:
            log.close()
            raise
        return log

    def _sync(self, begun: Syncing, number: int) -> None:
        try:
            done = begun.wait()
            marks = self._uncommitted.marks if self._uncommitted else []
            self._uncommitted = replace(done, marks=[*marks, *done.marks])
            self._say(Synced(number))
            if self._due() <= 0:
                self._commit()
        except Exception as why:  # whatever it is, nothing more may count as durable
            _log.exception("%s: a sync failed", self._directory)
            self._say(Synced(number, errors.DeviceFailed(f"{self._directory}: a sync failed: {why}")))

    def _due(self) -> float:
        """Seconds until readers have to be told."""
        return self._committed + self._commit_every - time.monotonic()

    def _commit(self) -> None:
        """Let readers see what is durable."""
        done, self._uncommitted = self._uncommitted, None
        if done is not None:
            self._log.end_sync(done)
            self._committed = time.monotonic()

    def _end(self) -> None:
        try:
            self._commit()
        finally:
            self._log.close()

    def _say_broken(self, number: int, why: str) -> None:
        try:
            spooled.write_broken(self._spool, f"{number} {why}")
        except OSError:
            _log.exception("%s: that a gap begins at %d could not be written down", self._spool, number)

    def _say(self, what: Synced) -> None:
        self._done.append(what)
        self._told()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=max(self._due(), 0.0) if self._uncommitted else None)
            except queue.Empty:
                job = self._commit_later
            if job is None:
                return
            job()

    def _commit_later(self) -> None:
        try:
            self._commit()
        except errors.FerryError as why:
            self._say(Synced(self._synced, why))

    def _call(self, function: Callable[[], Exclusive]) -> Exclusive:
        """Run on the other thread, and wait for it."""
        answer: Future[Exclusive] = Future()

        def job() -> None:
            try:
                answer.set_result(function())
            except BaseException as why:
                answer.set_exception(why)

        self._jobs.put(job)
        return answer.result()
