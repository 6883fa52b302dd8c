"""What the holder of the lock does before it appends: bring segments and index of one topic into one state.

With an index: what it says is there, and is not scanned.  Behind its end may stand what a killed writer did not
sync.  Whole records there are written once more before they count (after a failed fdatasync the kernel may call pages
clean that never reached the disk); the rest is cut.
Without an index, or with one that does not read: it is rebuilt from the segments.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

from engine import errors
from engine.bus import index, segments, trouble
from engine.bus.index import Index, Mark, State
from engine.bus.segments import Torn

MARK_EVERY = 1 << 20
"""Bytes of a segment between two marks of the index: bounds what a reader scans to find an offset."""

_COPY_BLOCK = 4 << 20
_log = logging.getLogger("vmferry.bus")


def recover(directory: Path, opened: Index | None = None) -> Index:
    """The open index of a topic whose segments end exactly where it says.  Only for the holder of the lock."""
    with trouble.named(str(directory)):
        bases = [base for base in segments.firsts(directory) if segments.check_file(directory, base)]
        found = opened or _open(directory)
        try:
            if found.ready:
                _continue(directory, found, bases)
            else:
                _rebuild(directory, found, bases)
        except BaseException:
            if opened is None:
                found.close()
            raise
        return found


def _open(directory: Path) -> Index:
    try:
        return Index(directory)
    except errors.Newer:
        raise
    except errors.Damaged as why:
        _log.warning("%s: the index does not read and is rebuilt from the segments: %s", directory, why)
        for name in (index.NAME, index.NAME + "-wal", index.NAME + "-shm"):
            (directory / name).unlink(missing_ok=True)
        return Index(directory)


def _continue(directory: Path, opened: Index, bases: list[int]) -> None:
    state = opened.state()
    tail = state.tail
    file = segments.path(directory, tail.segment)
    held = file.stat().st_size if tail.segment in bases else 0
    if held < tail.position:
        raise errors.Damaged(
            f"{file} holds {held} bytes, and {tail.position} were synced: restore it from a copy, or go on with what "
            f"is there by deleting {directory / index.NAME} while nothing uses the log"
        )
    end, marks = _survey(directory, tail, bases, verify=True)
    # A crash in here leaves the index as it was: the next recovery finds the same records, and fewer bytes to cut.
    _cut(directory, end)
    if end.offset > tail.offset:
        _log.warning("%s: kept %d whole records that were not synced", directory, end.offset - tail.offset)
        _rewrite(directory, tail, end, bases)
    if end != tail:
        opened.commit(end, marks)


def _rebuild(directory: Path, opened: Index, bases: list[int]) -> None:
    begin = bases[0] if bases else 0
    end, marks = _survey(directory, Mark(begin, begin, 0), bases, verify=False)
    _refuse_damage(directory, end, bases)
    if bases:
        _log.warning("%s: index rebuilt from segments, which hold %d to %d", directory, begin, end.offset)
    # Earlier segments were synced before the last one was made; a crash in here leaves an index that is not ready.
    _cut(directory, end)
    _rewrite(directory, Mark(end.segment, end.segment, 0), end, bases)
    opened.create(State(begin, end), marks)


def _survey(directory: Path, start: Mark, bases: list[int], verify: bool) -> tuple[Mark, list[Mark]]:
    """(where whole records end, marks on the way) from `start` on, over the segments that follow without a gap.

    Without `verify` hashes are checked only in the last segment, where a torn tail can be.
    """
    marks: list[Mark] = []
    while start.position or start.segment in bases:
        if not start.position:
            start = Mark(start.offset, start.segment, segments.FILE_HEADER)
            marks.append(start)
        end, whole = _survey_segment(directory, start, marks, verify or start.segment == bases[-1])
        if not whole or end.offset == start.segment or end.offset not in bases:
            return end, marks
        start = Mark(end.offset, end.offset, 0)
    return start, marks


def _survey_segment(directory: Path, at: Mark, marks: list[Mark], verify: bool) -> tuple[Mark, bool]:
    """(where whole records end in this segment, whether that is the end of the file)."""
    fd = os.open(segments.path(directory, at.segment), os.O_RDONLY | os.O_CLOEXEC)
    try:
        size, marked = os.fstat(fd).st_size, at.position
        while at.position < size:
            position = segments.step(fd, at.position, at.offset, verify)
            if position > size:
                return at, False
            at = Mark(at.offset + 1, at.segment, position)
            if position - marked >= MARK_EVERY:
                marked = position
                marks.append(at)
    except Torn:
        return at, False
    finally:
        os.close(fd)
    return at, True


def _refuse_damage(directory: Path, end: Mark, bases: list[int]) -> None:
    """Raises Damaged when records follow what does not read: then it is no torn tail, and cutting would lose them."""
    file = segments.path(directory, end.segment)
    later = [base for base in bases if base > end.segment]
    if not later and not (end.position and _holds(file, end, end.offset + 1)):
        return
    follows = f"the segment that begins with {later[0]}" if later else f"the whole record {end.offset + 1}"
    raise errors.Damaged(
        f"{file} byte {end.position}: record {end.offset} does not read as written, and {follows} comes after it: "
        "nothing was changed; restore the file from a copy, or let go of this topic and replicate anew"
    )


def _holds(file: Path, end: Mark, offset: int) -> bool:
    """Whether a whole record `offset` stands anywhere behind `end`."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        rest = os.pread(fd, os.fstat(fd).st_size - end.position, end.position)
        wanted = struct.pack(">I Q", 0, offset)
        at = rest.find(wanted)
        while at >= 0:
            try:
                segments.step(fd, end.position + at - 4, offset, verified=True)
            except Torn:
                at = rest.find(wanted, at + 1)
                continue
            return True
    finally:
        os.close(fd)
    return False


def _cut(directory: Path, end: Mark) -> None:
    """Remove all that stands behind `end`, durably: else an old record could come back behind a new one."""
    for base in segments.firsts(directory):
        file = segments.path(directory, base)
        if base > end.segment or (base == end.segment and not end.position):
            _log.warning("%s: cut whole (%d bytes that were never synced)", file, file.stat().st_size)
            file.unlink()
            segments.sync_directory(directory)
        elif base == end.segment and file.stat().st_size > end.position:
            _log.warning("%s: cut at byte %d of %d: a torn tail", file, end.position, file.stat().st_size)
            fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.ftruncate(fd, end.position)
                os.fsync(fd)
            finally:
                os.close(fd)


def _rewrite(directory: Path, tail: Mark, end: Mark, bases: list[int]) -> None:
    """Make what stands between `tail` and `end` durable, whatever an earlier fdatasync said of it."""
    for base in bases:
        if not tail.segment <= base <= end.segment:
            continue
        position = tail.position if base == tail.segment else 0
        fd = os.open(segments.path(directory, base), os.O_RDWR | os.O_CLOEXEC)
        try:
            while block := os.pread(fd, _COPY_BLOCK, position):
                segments.write_all(fd, [block], position)
                position += len(block)
            os.fsync(fd)
        finally:
            os.close(fd)
    segments.sync_directory(directory)
