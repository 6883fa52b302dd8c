"""The writing side of one embedded topic.  Synchronous, and all on one thread but the middle of a sync; the lock is its
caller's business.

The order of what becomes durable: records into the segment, fdatasync, and only then the index, from which readers
learn that the records are there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import errors
from engine.bus import recovery, segments, trouble
from engine.bus.index import Index, Mark


@dataclass(frozen=True, slots=True)
class Syncing:
    """A sync that has begun: all before `tail` is in the segment of `fd` (-1: durable already), or in closed ones."""

    directory: Path
    fd: int
    tail: Mark
    marks: list[Mark]

    def wait(self) -> Syncing:
        """Return when it is durable.  Once."""
        if self.fd >= 0:
            try:
                with trouble.named(str(self.directory)):
                    os.fdatasync(self.fd)
            finally:
                os.close(self.fd)
        return self


class Appender:
    """Appends behind the end that recovery found.  After an error of `write` or `sync` it is of no more use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._index: Index = recovery.recover(directory)
        self._tail = self._synced = self._index.state().tail
        self._marks: list[Mark] = []
        self._marked = self._tail.position
        self._fd = -1

    def refresh(self) -> None:
        """Go on behind what others have appended since, whose torn tail may have to be cut.  Only with the lock."""
        recovery.recover(self._directory, self._index)
        tail = self._index.state().tail
        if tail.segment != self._tail.segment and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._tail = self._synced = tail
        self._marks, self._marked = [], tail.position

    def write(self, records: Sequence[bytes]) -> int:
        """Put `records` into the page cache.  Gives the bytes they took."""
        with trouble.named(str(self._directory)):
            return self._write(records)

    def _write(self, records: Sequence[bytes]) -> int:
        taken, first = 0, 0
        while first < len(records):
            self._ready_segment()
            buffers: list[bytes] = []
            start = self._tail
            position, room = start.position, segments.SEGMENT_SIZE
            while first < len(records) and position < room:
                data = records[first]
                self._mark(position)
                buffers += (segments.record_header(self._tail.offset, data), data)
                position += segments.RECORD_HEADER + len(data)
                self._tail = Mark(self._tail.offset + 1, start.segment, position)
                first += 1
            segments.write_all(self._fd, buffers, start.position)
            taken += position - start.position
        return taken

    def _mark(self, position: int) -> None:
        """Let the index know of the record that begins here, when the last mark is far enough back."""
        if position == segments.FILE_HEADER or position - self._marked >= recovery.MARK_EVERY:
            self._marks.append(Mark(self._tail.offset, self._tail.segment, position))
            self._marked = position

    def _ready_segment(self) -> None:
        tail = self._tail
        if tail.position >= segments.SEGMENT_SIZE:
            self._close_segment()
            tail = Mark(tail.offset, tail.offset, 0)
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CLOEXEC | (0 if tail.position else os.O_CREAT | os.O_EXCL)
            self._fd = os.open(segments.path(self._directory, tail.segment), flags, 0o644)
        if not tail.position:
            # A crash before the directory is synced may lose the file; nothing of it was acknowledged then.
            segments.write_all(self._fd, [segments.file_header(tail.segment)], 0)
            segments.sync_directory(self._directory)
            tail = Mark(tail.offset, tail.segment, segments.FILE_HEADER)
            self._marked = 0
        self._tail = tail

    def _close_segment(self) -> None:
        """Synced before the next one is made: so only the last segment of a log can have a torn tail."""
        if self._fd >= 0:
            os.fdatasync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def sync(self) -> int:
        """Make all that was written durable, then visible.  Gives the offset just past it."""
        return self.end_sync(self.begin_sync().wait())

    def begin_sync(self) -> Syncing:
        """What has to become durable now.  Its `wait` may run on another thread, beside further writes."""
        marks, self._marks = self._marks, []
        # A descriptor of its own: the next write may close this segment.
        fd = os.dup(self._fd) if self._tail != self._synced else -1
        return Syncing(self._directory, fd, self._tail, marks)

    def end_sync(self, done: Syncing) -> int:
        """Make visible what is durable.  One sync after the other, in the order in which they began."""
        if done.tail != self._synced:
            # A crash here leaves records that no index row names: recovery keeps them, nobody was promised them.
            self._index.commit(done.tail, done.marks)
            self._synced = done.tail
        return self._synced.offset

    def close(self) -> None:
        """What was not synced may be lost."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._index.close()


def check_size(topic: str, records: Sequence[bytes]) -> None:
    """Raises Unsafe when one of them is larger than any reader would take."""
    for record in records:
        if len(record) > segments.RECORD_LIMIT:
            raise errors.Unsafe(f"{topic}: a record of {len(record)} bytes; at most {segments.RECORD_LIMIT}: split it")
