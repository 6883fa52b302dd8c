"""Changes that are written at the same time: never two to one block, and always in the order that counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from consumers import pieces
from schemas import events
from schemas.identity import Volume

BLOCK = 64
VOLUMES = (Volume("vda", 20 * BLOCK, BLOCK), Volume("vdb", 10 * BLOCK + 7, BLOCK))


@some.composite
def changes(draw: some.DrawFn) -> list[pieces.Change]:
    found: list[pieces.Change] = []
    for _ in range(draw(some.integers(0, 12))):
        volume = draw(some.integers(0, 1))
        size = VOLUMES[volume].size
        start = draw(some.integers(0, size - 1))
        end = draw(some.integers(start + 1, size))
        if draw(some.booleans()):
            start, end = start // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, size)
        if draw(some.booleans()):
            found.append(events.Zeroed(volume, start, end - start))
        else:
            found.append(events.Written(volume, start, b"", bytes(end - start)))
    return found


def blocks(change: pieces.Change) -> set[tuple[int, int]]:
    last = (change.start + pieces.length(change) - 1) // BLOCK
    return {(change.volume, block) for block in range(change.start // BLOCK, last + 1)}


@given(changes())
def test_a_wave_writes_no_block_twice_and_nothing_is_lost_or_moved(given_: list[pieces.Change]) -> None:
    waves = list(pieces.waves(given_, VOLUMES))
    assert [change for wave in waves for change in wave] == given_
    for wave in waves:
        every = [block for change in wave for block in blocks(change)]
        assert len(every) == len(set(every))


def test_whole_blocks_that_do_not_overlap_go_together() -> None:
    apart: list[pieces.Change] = [events.Written(0, at * BLOCK, b"", bytes(BLOCK)) for at in range(20)]
    tail: list[pieces.Change] = [events.Written(1, 10 * BLOCK, b"", bytes(7))]
    assert list(pieces.waves(apart + tail, VOLUMES)) == [apart + tail]
