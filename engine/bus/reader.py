"""The reading side of one embedded topic.  Synchronous, and all on one thread; needs no lock.

It sees what the index has committed and nothing else, so it may run beside a writer in this or another process.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine import errors
from engine.bus import segments, trouble
from engine.bus.index import Index, Mark, State
from engine.bus.segments import Torn
from engine.ports import Entry


class Reader:
    """Remembers where its last read ended, so that reading on needs no search."""

    def __init__(self, topic: str, directory: Path) -> None:
        self._topic, self._directory = topic, directory
        self._index = Index(directory)
        self._at: Mark | None = None
        self._fd, self._segment = -1, -1

    def state(self) -> State:
        return self._index.state()

    def read(self, offset: int, limit: int) -> list[Entry]:
        """As ports.Log.read, without waiting."""
        state = self._index.state()
        if not state.begin <= offset <= state.end:
            raise errors.OffsetGone(self._topic, offset, state.begin, state.end)
        entries: list[Entry] = []
        limit = max(limit, 1)
        try:
            while offset < state.end and limit > 0:
                got = self._read_segment(offset, state, limit)
                entries += got
                offset += len(got)
                limit -= sum(len(entry.data) for entry in got)
        except errors.Damaged:
            if not entries:
                raise
        return entries

    def _read_segment(self, offset: int, state: State, limit: int) -> list[Entry]:
        try:
            with trouble.named(str(self._directory)):
                at = self._find(offset)
                got, position = segments.take(self._fd, at.position, offset, state.end, limit)
        except Torn as torn:
            raise self._blame(offset, torn) from torn
        self._at = Mark(offset + len(got), at.segment, position)
        if not got:
            self._step_over(offset, position)
        return got

    def _find(self, offset: int) -> Mark:
        """Where record `offset` begins, its segment open."""
        at = self._at
        if at is None or at.offset != offset:
            at = self._index.before(offset)
            if at is None:
                raise self._vanished(offset)
            self._open(at.segment, offset)
            while at.offset < offset:
                position = segments.step(self._fd, at.position, at.offset, verified=False)
                at = Mark(at.offset + 1, at.segment, position)
        self._open(at.segment, offset)
        return at

    def _step_over(self, offset: int, position: int) -> None:
        """The segment ends here and the log does not: the next segment begins with this very record."""
        mark = self._index.before(offset)
        if mark is None or mark.offset != offset or mark.segment != offset:
            raise self._blame(offset, Torn(position, "the file ends before it"))
        self._at = mark

    def _open(self, segment: int, offset: int) -> None:
        if segment == self._segment:
            return
        self._let_go()
        try:
            # Whoever appends may have been upgraded since: by its header, before any byte behind it is believed.
            segments.check_file(self._directory, segment)
            self._fd = os.open(segments.path(self._directory, segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as gone:
            raise self._vanished(offset) from gone
        self._segment = segment

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._segment, self._at = -1, -1, None

    def _blame(self, offset: int, torn: Torn) -> errors.FerryError:
        """Which record is damaged: `offset`, or one before it whose length led astray."""
        at = self._index.before(offset)
        while at is not None and at.offset < offset:
            try:
                position = segments.step(self._fd, at.position, at.offset, verified=True)
            except Torn as earlier:
                return self._damaged(at.offset, earlier.position, earlier.reason)
            at = Mark(at.offset + 1, at.segment, position)
        return self._damaged(offset, torn.position, torn.reason)

    def _damaged(self, offset: int, position: int, reason: str) -> errors.FerryError:
        file = segments.path(self._directory, self._segment)
        return errors.Damaged(
            f"{file} byte {position}: record {offset} of {self._topic} does not read as it was written: {reason}"
        )

    def _vanished(self, offset: int) -> errors.FerryError:
        """A segment is gone: trimmed since the state was read, or lost."""
        state = self._index.state()
        if offset < state.begin:
            return errors.OffsetGone(self._topic, offset, state.begin, state.end)
        return errors.Damaged(f"{self._directory}: the segment that holds record {offset} is missing")

    def trim(self, offset: int) -> None:
        """As ports.Log.trim.  The index lets go first: a crash then leaves files that nothing names, to be found here
        the next time."""
        state = self._index.state()
        if offset > state.end:
            raise errors.OffsetGone(self._topic, offset, state.begin, state.end)
        keep = self._index.advance(offset)
        with trouble.named(str(self._directory)):
            for first in segments.firsts(self._directory):
                if first < keep:
                    segments.path(self._directory, first).unlink(missing_ok=True)
            segments.sync_directory(self._directory)

    def close(self) -> None:
        self._let_go()
        self._index.close()
