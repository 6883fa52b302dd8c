"""What a reader needs of a tap's spool: writes by their numbers, as far as they are durable, and how to let them go.

The spool is an embedded log (docs/EMBEDDED-LOG.md) with one topic; readers take no lock and may be other processes.
Synchronous, and all of one Spool on one thread: callers of asyncio give it a thread of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from engine import errors
from engine.bus import segments
from engine.bus.opening import Exclusive, open_reader
from engine.bus.reader import Reader
from producers.tap import record
from producers.tap.record import Entry

TOPIC = "writes"
BROKEN = "broken"
"""A file of BROKEN_SIZE bytes in the spool's directory, blank until a gap begins: so it needs no room once the disk
is full, and is one sector, which is written whole or not at all."""
BROKEN_SIZE = 512


@dataclass(frozen=True, slots=True)
class Broken:
    """From `number` on writes were answered and not recorded."""

    number: int
    why: str


class Spool:
    """An open spool.  Raises NotFound when there is none at `path`, Damaged, Newer, DeviceFailed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not (path / TOPIC).is_dir():
            raise errors.NotFound(f"{path}: no tap has a spool here")
        self._reader: Reader = open_reader(TOPIC, path / TOPIC)
        # A reader remembers where it is: looking at both ends must not make the next read search.
        self._heads: Reader = open_reader(TOPIC, path / TOPIC)
        self._at = (-1, -1)
        self._begin = (-1, 0)

    def ends(self) -> tuple[int, int]:
        """(the first number that is here, the one past the last that is durable); equal when nothing is here."""
        return self._ends()[:2]

    def _ends(self) -> tuple[int, int, int]:
        """Both, and the offset past the last record, of one and the same moment: the tap goes on writing."""
        state = self._heads.state()
        if state.begin == state.end:
            return 0, 0, state.end
        if self._begin[0] != state.begin:
            self._begin = (state.begin, self._head(state.begin)[0])
        number, count = self._head(state.end - 1)
        return self._begin[1], number + count, state.end

    def read(self, number: int, limit: int) -> list[Entry]:
        """Durable entries from `number` on, in order, until `limit` bytes of records are passed; none when it is the
        next one.  Numbers jump where a tap began anew.  Raises OffsetGone below the first, and above the next."""
        first, past = self.ends()
        if not first <= number <= past:
            raise errors.OffsetGone(str(self._path), number, first, past)
        if number == past:
            return []
        offset = self._at[1] if self._at[0] == number else self._find(number)
        found = self._reader.read(offset, limit)
        entries = [entry for one in found for entry in record.unpack(one.data)]
        self._at = (entries[-1].number + 1, found[-1].offset + 1)
        return [entry for entry in entries if entry.number >= number]

    def trim(self, number: int) -> None:
        """Let go of all below `number`, as far as whole records go; the last one stays, for the numbers to go on
        from.  Space comes back by whole segments.  Repeatable.  Raises OffsetGone above the next."""
        first, past, end = self._ends()
        if number > past:
            raise errors.OffsetGone(str(self._path), number, first, past)
        if number > first:
            self._reader.trim(min(self._find(number) if number < past else end, end - 1))

    def fill(self) -> int:
        """Bytes that its segments take."""
        directory = self._path / TOPIC
        return sum(segments.path(directory, first).stat().st_size for first in segments.firsts(directory))

    def broken(self) -> Broken | None:
        """What the last tap wrote down when it had to let go; None while there is no gap."""
        return broken(self._path)

    def close(self) -> None:
        self._reader.close()
        self._heads.close()

    def _head(self, offset: int) -> tuple[int, int]:
        return record.head(self._heads.read(offset, 1)[0].data)

    def _find(self, number: int) -> int:
        """The offset of the last record that begins at or below `number`, or of the next one where numbers jump."""
        state = self._reader.state()
        low, high = state.begin, state.end - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._head(middle)[0] <= number:
                low = middle
            else:
                high = middle - 1
        first, count = self._head(low)
        return low if number < first + count else low + 1


def broken(path: Path) -> Broken | None:
    """As Spool.broken, of the spool at `path`; None where there is none."""
    try:
        text = (path / BROKEN).read_text(errors="replace")
    except FileNotFoundError:  # also: its first tap was killed before it made the file, and so before any write
        return None
    number, _, why = text.strip().partition(" ")
    return Broken(int(number), why) if number else None


def recover(path: Path) -> None:
    """Make what a killed tap appended and did not sync durable, and let readers see it; cut a torn tail.

    What was answered under `spool` and was not synced is found in no other way until a new tap begins.  Raises InUse
    while one runs, Damaged, Full, DeviceFailed.
    """
    Exclusive(path / TOPIC).close()


def past(directory: Path) -> int:
    """The number past the last one in the topic's `directory`; 0 in an empty one.  Only with the writer's lock."""
    reader = open_reader(TOPIC, directory)
    try:
        end = reader.state().end
        if end == reader.state().begin:
            return 0
        number, count = record.head(reader.read(end - 1, 1)[0].data)
        return number + count
    finally:
        reader.close()


def write_broken(path: Path, text: str) -> None:
    """Have the file say `text` durably, or be blank.  In place: the disk may be full.  Raises OSError."""
    padded = text.encode()[:BROKEN_SIZE].ljust(BROKEN_SIZE)
    fd = os.open(path / BROKEN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(fd, padded, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
