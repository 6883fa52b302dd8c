"""How old what a replica holds can be, by durations alone: no clock of one site is compared with one of another."""

from __future__ import annotations

from collections import deque

_PENDING = 1024
_WORDS = 3


class Age:
    """`heard` what a source says of itself, and asked what that means for a replica at some epoch.  Seconds, of one
    monotonic clock.  Pure."""

    def __init__(self) -> None:
        self._pending: deque[tuple[int, float]] = deque(maxlen=_PENDING)
        self._as_of: float | None = None

    def heard(self, epoch: int, age: float, now: float) -> None:
        """The source was seen to be what `epoch` holds `age` seconds before `now`.  How long the word travelled is not
        known: what holds is at most so much older."""
        if self._pending and self._pending[-1][0] == epoch:
            age = min(age, now - self._pending.pop()[1])
        self._pending.append((epoch, now - age))

    def of(self, epoch: int, now: float) -> float | None:
        """Seconds since the source was what a replica at `epoch` holds; None where nobody has said so."""
        while self._pending and self._pending[0][0] <= epoch:
            at = self._pending.popleft()[1]
            self._as_of = at if self._as_of is None else max(at, self._as_of)
        return None if self._as_of is None else max(0.0, now - self._as_of)


class Difference:
    """By how much two clocks differ, about: each word's time of travel is in it, so the least of a few counts.

    Of so few that a clock which is set is seen soon: at once where that makes the difference less, else after them.
    """

    def __init__(self) -> None:
        self._found: deque[float] = deque(maxlen=_WORDS)

    def heard(self, sent: float, arrived: float) -> None:
        """Seconds since 1970: by the sender's clock, and by ours."""
        self._found.append(arrived - sent)

    @property
    def seconds(self) -> float | None:
        """How far ours is ahead of the sender's; None before a word was heard."""
        return min(self._found, default=None)
