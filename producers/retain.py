"""What of a stream's log is kept: until every registered replica has applied it, a while longer, and never too much.

Trimming has one owner, the producer.  Only replicas that answered it once are registered; who else reads the topic
holds nothing.  No history is needed to heal a replica, so that one for whom too much would be kept is told so, and
comes back by comparing digests.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine import errors, units
from producers import lease
from producers.ship import Shipper
from schemas import events

log = logging.getLogger("vmferry.ship")
FILE = "kept.json"
VERSION = 1
WARN_AT = 0.8
"""Share of the cap from which on it is said aloud that the log nears it."""
STEP = 8
"""Beyond the cap an eighth of it goes at once, so that there is one word of it for many epochs."""
_MARKS = 4096


@dataclass(frozen=True, slots=True)
class Mark:
    """Behind `offset` of the log `sent` bytes had been sent in all, at clock time `at` (seconds since 1970)."""

    offset: int
    sent: int
    at: float


def steady() -> Callable[[], float]:
    """Seconds since 1970 as the clock says now, and from now on by the monotonic one: a clock that is set while we run
    makes nothing old."""
    began = time.time() - time.monotonic()
    return lambda: began + time.monotonic()


class Marks:
    """Which bytes lie where on a topic, remembered from sending them: a bus does not tell.  Pure but for its clock."""

    def __init__(self, marks: list[Mark] | None = None) -> None:
        self.marks: deque[Mark] = deque(marks or ())

    @property
    def sent(self) -> int:
        return self.marks[-1].sent if self.marks else 0

    @property
    def end(self) -> int:
        return self.marks[-1].offset if self.marks else 0

    def add(self, offset: int, size: int, at: float) -> None:
        """`size` more bytes were sent, up to `offset`."""
        if self.marks and self.marks[-1].offset >= offset:
            return
        sent = self.sent + size
        if len(self.marks) > 1 and abs(at - self.marks[-2].at) < 1.0:
            self.marks.pop()
        self.marks.append(Mark(offset, sent, at))
        if len(self.marks) > _MARKS:
            # The first stays, as the count begins there; what is long ago is known less finely.
            self.marks = deque([*list(self.marks)[:-1:2], self.marks[-1]])

    def trimmed(self, offset: int) -> None:
        """All below `offset` is gone."""
        while len(self.marks) > 1 and self.marks[1].offset <= offset:
            self.marks.popleft()

    def between(self, low: int, high: int) -> int:
        """About how many bytes lie between two offsets."""
        return max(0, self._before(high) - self._before(low))

    def _before(self, offset: int) -> int:
        found = 0
        for mark in self.marks:
            if mark.offset > offset:
                break
            found = mark.sent
        return found

    def older_than(self, at: float) -> int:
        """The offset behind what was sent before `at`."""
        return max((mark.offset for mark in self.marks if mark.at <= at), default=0)

    def within(self, cap: int) -> int:
        """The first offset from which on no more than `cap` bytes follow."""
        floor = self.sent - cap
        if floor <= 0:
            return 0
        return next((mark.offset for mark in self.marks if mark.sent >= floor), 0)


class Retain:
    """The rule at work for one stream.  `keep` seconds; `cap` bytes, 0 for none.  Raises Newer for its file.

    Without `directory` nothing of it outlives the process.
    """

    def __init__(self, directory: Path | None, keep: float, cap: int, clock: Callable[[], float]) -> None:
        self.keep, self.cap = keep, cap
        self._path, self._clock = directory / FILE if directory else None, clock
        self._marks, self._trimmed = _load(self._path, clock()) if self._path else (Marks(), 0)
        self._sent = 0
        self._saved = 0.0
        self._kept = self._marks.end, self._trimmed
        self.dropped: tuple[str, ...] = ()
        "Replicas for which no more is kept."

    @property
    def size(self) -> int:
        """About how many bytes of the stream are on the bus."""
        return self._marks.between(self._trimmed, 1 << 62)

    @property
    def warning(self) -> str:
        if self.dropped:
            return (
                f"the log reached its cap of {units.shown(self.cap)}: nothing is kept any more for replica"
                f" {', '.join(self.dropped)}, which comes back by comparing digests"
            )
        if self.cap and self.size > self.cap * WARN_AT:
            return (
                f"the log holds {units.shown(self.size)} of its cap of {units.shown(self.cap)} for a replica that has"
                " not applied it: start its target, or `vmferry forget` it; beyond the cap it will be healed by digests"
            )
        return ""

    async def trim(self, shipper: Shipper, now: float) -> None:
        """Let go of what the rule lets go.  After an epoch was sealed or a word was heard."""
        self._note(shipper)
        end = shipper.state.offset
        applied = {replica: min(self._position(shipper, replica), end) for replica in shipper.state.peers}
        upto = min(applied.values(), default=end)
        if self.keep:
            upto = min(upto, self._marks.older_than(self._clock() - self.keep))
        least = min(self._marks.within(self.cap), end) if self.cap else 0
        passed = {replica.hex()[:8] for replica, offset in applied.items() if offset < least}
        if passed and least > self._trimmed:
            upto = max(least, self._step([offset for offset in applied.values() if offset >= least], end))
        out = {replica.hex()[:8] for replica, offset in applied.items() if offset <= self._trimmed} & {*self.dropped}
        gone = await self._let_go(shipper, max(upto, least), now)
        self._drop(sorted(out | passed if gone else out))

    def _position(self, shipper: Shipper, replica: bytes) -> int:
        """Behind what it has applied.  Who has said nothing, since our start or at all, needs what there still is."""
        peer = shipper.peers.get(replica)
        return (peer.passed(shipper.state.attempt) if peer is not None else 0) or self._trimmed

    def _step(self, spared: list[int], end: int) -> int:
        """Up to where is let go of for the cap's sake: of those who are within it, only what they have applied."""
        return min([self._marks.within(self.cap - self.cap // STEP), end, *spared])

    def _drop(self, names: list[str]) -> None:
        if tuple(names) != self.dropped:
            self.dropped = tuple(names)
            if names:
                log.warning("%s", self.warning)

    async def _let_go(self, shipper: Shipper, upto: int, now: float) -> bool:
        gone = upto > self._trimmed and await lease.let_go(shipper, upto, events.Why.CAP, self.size, self.cap)
        if gone:
            self._trimmed = upto
            self._marks.trimmed(upto)
        if self._path and now - self._saved > 5.0 and self._kept != (self._marks.end, self._trimmed):
            self._saved, self._kept = now, (self._marks.end, self._trimmed)
            _save(self._path, self._marks, self._trimmed)
        return gone

    def _note(self, shipper: Shipper) -> None:
        """Bytes behind the last seal count once they are sealed, too."""
        if shipper.state.offset < self._marks.end:  # the log was lost, and begun anew
            self._marks, self._trimmed = Marks(), 0
        if shipper.sent > self._sent and shipper.state.offset > self._marks.end:
            self._marks.add(shipper.state.offset, shipper.sent - self._sent, self._clock())
            self._sent = shipper.sent

    def refuse(self, shipper: Shipper, data: int) -> None:
        """Raises Full when what is missing cannot be held for a replica that is away, before any of it is sent."""
        missing = sum(one.unsure.count * one.volume.block_size for one in shipper.map.volumes)
        travels = min(missing, data)
        answered = {peer.replica for peer in shipper.ear.waited_for()}
        away = [replica.hex()[:8] for replica in shipper.state.peers if replica not in answered]
        room = self.cap - self.size
        if self.cap and away and not answered and travels > room:
            raise errors.Full(
                f"{units.shown(travels)} have to travel, no replica answers ({', '.join(away)} is away), and of the"
                f" cap of {units.shown(self.cap)} {units.shown(max(0, room))} are left: start the target, or raise"
                " `cap`; nothing was sent"
            )


def _load(path: Path, now: float) -> tuple[Marks, int]:
    """The marks, and up to where was trimmed; nothing, where that cannot be read: it only bounds how much is kept.

    Marks of the future were made under a clock that was set back since: they are as old as they can be, which is now.
    Raises Newer.
    """
    try:
        said = json.loads(path.read_text())
        if (version := int(said.get("version", VERSION))) > VERSION:
            raise errors.Newer(path, version, VERSION)
        marks = [Mark(int(offset), int(sent), min(float(at), now)) for offset, sent, at in said["marks"]]
        return Marks(marks), int(said.get("trimmed", 0))
    except FileNotFoundError:
        return Marks(), 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as why:
        log.warning("%s cannot be read (%s): how much of the log is old is counted anew", path, why)
        return Marks(), 0


def _save(path: Path, marks: Marks, trimmed: int) -> None:
    """Not durable on purpose: an older one, or none, is as good; nothing ends because there is no room for it."""
    fresh = path.with_suffix(".new")
    text = json.dumps(
        {"version": VERSION, "trimmed": trimmed, "marks": [[one.offset, one.sent, one.at] for one in marks.marks]}
    )
    try:
        fresh.write_text(text)
        os.rename(fresh, path)
    except OSError as why:
        log.info("%s cannot be written (%s): after a restart the log is measured anew", path, why)
