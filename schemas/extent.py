"""Half-open ranges of bytes or blocks: how they split at block boundaries, and sets of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes from `start`, in volume coordinates; `zero` when it is known to read as zeros."""

    start: int
    length: int
    zero: bool = False

    @property
    def end(self) -> int:
        return self.start + self.length


class Ranges:
    """A set of whole numbers kept as sorted, disjoint, half-open ranges.

    Millions of blocks that travel as one range of zeros cost one entry.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        """How many ranges (not how many numbers: that is `total`)."""
        return len(self._starts)

    @property
    def total(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def add(self, start: int, end: int) -> None:
        """Put [start, end) in; adjacent ranges melt together."""
        if start >= end:
            return
        left = bisect_left(self._ends, start)
        right = bisect_right(self._starts, end)
        if left < right:
            start = min(start, self._starts[left])
            end = max(end, self._ends[right - 1])
        self._starts[left:right] = [start]
        self._ends[left:right] = [end]

    def remove(self, start: int, end: int) -> None:
        """Take [start, end) out."""
        if start >= end:
            return
        left = bisect_right(self._ends, start)
        right = bisect_left(self._starts, end)
        if left >= right:
            return
        keep_left, keep_right = self._starts[left], self._ends[right - 1]
        starts: list[int] = []
        ends: list[int] = []
        if keep_left < start:
            starts.append(keep_left)
            ends.append(start)
        if keep_right > end:
            starts.append(end)
            ends.append(keep_right)
        self._starts[left:right] = starts
        self._ends[left:right] = ends

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, end) that are in the set, in order."""
        at = bisect_right(self._ends, start)
        while start < end and at < len(self._starts) and self._starts[at] < end:
            yield max(start, self._starts[at]), min(end, self._ends[at])
            at += 1

    def missing(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, end) that are not in the set, in order."""
        for left, right in list(self.within(start, end)):
            if start < left:
                yield start, left
            start = right
        if start < end:
            yield start, end

    def copy(self) -> Ranges:
        other = Ranges()
        other._starts, other._ends = self._starts.copy(), self._ends.copy()
        return other


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Rising `numbers` as half-open runs: 1 2 3 7 gives (1, 4), (7, 8)."""
    start = end = -1
    for number in numbers:
        if number != end:
            if end > start:
                yield start, end
            start = number
        end = number + 1
    if end > start:
        yield start, end


def pieces(start: int, length: int, block_size: int) -> Iterator[tuple[int, int]]:
    """Split `length` bytes from `start` at block boundaries: (start, length) of each piece, in order."""
    end = start + length
    while start < end:
        stop = min(end, (start // block_size + 1) * block_size)
        yield start, stop - start
        start = stop
