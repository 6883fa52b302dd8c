"""What must stand on the medium, piece by piece: which writer counts, how it is read, what a mismatch says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from engine import digest, errors
from schemas import events
from schemas.extent import Ranges
from schemas.identity import Volume

T = TypeVar("T")
Change = events.Written | events.Zeroed

READ = 4 << 20
"""Bytes read at once for pre-images and read-back."""
GROUP = 1 << 20
"""Bytes of small things that are done in one go: a thread's wake-up costs as much as reading 64 KiB."""
AHEAD = 3
"""What is under way at any time beside one more: threads and the medium have something to do, memory stays bounded."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What must stand on the medium: `length` bytes from `start` with this BLAKE3, or zeros where it is empty."""

    volume: int
    start: int
    length: int
    digest: bytes = b""


async def side_by_side(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run `work`, a few of it at any time.  Raises the first failure, once nothing runs any more."""
    running: deque[asyncio.Task[None]] = deque()
    try:
        for one in work:
            running.append(asyncio.ensure_future(one))
            if len(running) > AHEAD:
                await running.popleft()
        while running:
            await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def groups(items: Iterable[T], size: Callable[[T], int], kind: Callable[[T], object]) -> Iterator[list[T]]:
    """Neighbours of one kind together, until they have `GROUP` bytes."""
    group: list[T] = []
    total = 0
    for one in items:
        if group and (total >= GROUP or kind(one) != kind(group[0])):
            yield group
            group, total = [], 0
        group.append(one)
        total += size(one)
    if group:
        yield group


def waves(changes: Sequence[Change], volumes: Sequence[Volume]) -> Iterator[list[Change]]:
    """Changes that may be written at the same time: of whole blocks, and of none that another one of them writes."""
    wave: list[Change] = []
    taken: dict[int, Ranges] = {}
    for change in changes:
        volume, end = volumes[change.volume], change.start + length(change)
        whole = change.start % volume.block_size == 0 and (end % volume.block_size == 0 or end == volume.size)
        ranges = taken.setdefault(change.volume, Ranges())
        if wave and (not whole or not alone(ranges, change.start, end)):
            yield wave
            wave, taken = [], {}
            ranges = taken.setdefault(change.volume, Ranges())
        wave.append(change)
        ranges.add(change.start, end)
        if not whole:
            yield wave
            wave, taken = [], {}
    if wave:
        yield wave


def alone(ranges: Ranges, start: int, end: int) -> bool:
    """Whether [start, end) touches none of `ranges`."""
    return list(ranges.missing(start, end)) == [(start, end)]


def length(change: Change) -> int:
    """Bytes that it changes."""
    return len(change.data) if isinstance(change, events.Written) else change.length


def uncovered(piece: Piece, covered: Ranges) -> Iterable[Piece]:
    """The parts of a piece that nothing newer has written; a data piece that is written to in part is left out."""
    end = piece.start + piece.length
    open_ = list(covered.missing(piece.start, end))
    covered.add(piece.start, end)
    if piece.digest:
        return [piece] if open_ == [(piece.start, end)] else []
    return [Piece(piece.volume, low, high - low) for low, high in open_]


def batches(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Neighbouring data pieces together, up to a bounded size; each piece of zeros alone."""
    batch: list[Piece] = []
    for piece in pieces:
        if batch and not (
            piece.digest
            and batch[0].digest
            and piece.volume == batch[0].volume
            and piece.start == batch[-1].start + batch[-1].length
            and piece.start - batch[0].start < READ
        ):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def span(batch: Sequence[Piece]) -> tuple[int, int]:
    """(start, length) of pieces that follow each other."""
    return batch[0].start, batch[-1].start + batch[-1].length - batch[0].start


def first_bad(batch: Sequence[Piece], data: memoryview) -> Piece | None:
    """The first piece of a batch that `data`, read from where it begins, does not hold."""
    for piece in batch:
        at = piece.start - batch[0].start
        if digest.block(data[at : at + piece.length]) != piece.digest:
            return piece
    return None


def differs(piece: Piece, name: str) -> errors.Divergence:
    """The error that names a piece of volume `name`."""
    return errors.Divergence(
        f"volume {name}: bytes {piece.start} to {piece.start + piece.length} read back from the medium are not what "
        f"was written ({'zeros' if not piece.digest else 'BLAKE3 ' + piece.digest.hex()[:16]} wanted)"
    )
