"""The source's map beside a plain one: changes come in once and for all, and no crash makes it know too much."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from engine import merkle
from engine.store import blockmap
from engine.store.blockmap import BlockMap, MapFiles, VolumeMap
from engine.store.memory import MemoryFile
from engine.store.stage import Staged, StagedBlocks, StagedZeros
from schemas.identity import GENESIS, Attempt, SealId, Volume

BLOCK = 8
ZERO = (blockmap.ZERO_PRINT, merkle.ZERO)
SEAL = SealId(1, Attempt(1), 1)


@dataclass
class Plain:
    """Of each block (print, digest) or nothing, and whether it is unsure."""

    entries: list[tuple[bytes, bytes] | None]
    unsure: list[bool]


@dataclass
class Disk:
    """The files of one volume's map, which outlive it."""

    files: list[MemoryFile] = field(default_factory=lambda: [MemoryFile() for _ in range(4)])

    def map(self, size: int) -> VolumeMap:
        return VolumeMap(Volume("vda", size, BLOCK), MapFiles(*self.files))

    def lose(self, chance: random.Random) -> None:
        for file in self.files:
            file.lose(chance)


def state(known: VolumeMap) -> Plain:
    blocks = range(known.volume.blocks)
    entries = [(known.prints(at, 1), known.leaves.read(at, 1)) if at in known.known else None for at in blocks]
    return Plain(entries, [at in known.unsure for at in blocks])


CHANGE = st.tuples(st.integers(0, 60), st.integers(1, 9), st.booleans(), st.integers(0, 1 << 20))


def staged(volume: Volume, changes: list[tuple[int, int, bool, int]], index: int = 0) -> tuple[Staged, Plain]:
    """An epoch of disjoint blocks and zeros, as a scan gives them; and what it makes of an empty plain map."""
    free, written, zeroed = set(range(volume.blocks)), [], []
    plain = Plain([None] * volume.blocks, [True] * volume.blocks)
    for start, count, zero, seed in changes:
        if not volume.blocks:
            break
        first = start % volume.blocks
        blocks = range(first, min(first + count, volume.blocks))
        if not free.issuperset(blocks):
            continue
        free.difference_update(blocks)
        chance = random.Random(seed)
        values = [ZERO if zero else (chance.randbytes(16), chance.randbytes(32)) for _ in blocks]
        if zero:
            zeroed.append(StagedZeros(index, first, len(blocks)))
        else:
            prints, digests = (b"".join(value[which] for value in values) for which in (0, 1))
            written.append(StagedBlocks(index, first, prints, digests))
        for at, value in zip(blocks, values, strict=True):
            plain.entries[at], plain.unsure[at] = value, False
    return Staged(SEAL, GENESIS, (volume,), tuple(written), tuple(zeroed)), plain


def over(below: Plain, above: Plain) -> Plain:
    """What a map holds once an epoch came in."""
    pairs = zip(below.entries, above.entries, strict=True)
    entries = [old if new is None else new for old, new in pairs]
    unsure = [old and new is None for old, new in zip(below.unsure, above.entries, strict=True)]
    return Plain(entries, unsure)


EPOCHS = st.lists(st.lists(CHANGE, max_size=6), max_size=4)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 500), EPOCHS, st.integers(0, 1 << 20))
def test_epochs_come_in_as_into_a_plain_map_and_again_without_effect(
    size: int, epochs: list[list[tuple[int, int, bool, int]]], seed: int
) -> None:
    disk = Disk()
    known = disk.map(size)
    known.baseline()
    maps, model = BlockMap([known]), state(known)
    done: list[Staged] = []
    for changes in epochs:
        entry, made = staged(known.volume, changes)
        maps.apply(entry)
        model = over(model, made)
        assert state(known) == model
        done.append(entry)
    maps.sync()
    assert maps.missing == sum(model.unsure)
    for entry in done[-1:]:
        maps.apply(entry)
    assert state(known) == model
    disk.lose(random.Random(seed))
    assert state(disk.map(size)) == model


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 500), st.lists(CHANGE, min_size=1, max_size=6), EPOCHS, st.integers(0, 1 << 20))
def test_an_epoch_that_came_in_half_before_a_crash_comes_in_whole_after_it(
    size: int, before: list[tuple[int, int, bool, int]], epochs: list[list[tuple[int, int, bool, int]]], seed: int
) -> None:
    disk = Disk()
    known = disk.map(size)
    known.baseline()
    maps = BlockMap([known])
    maps.apply(staged(known.volume, before)[0])
    maps.sync()
    wanted = state(known)
    for changes in epochs:
        entry, made = staged(known.volume, changes)
        maps.apply(entry)
        disk.lose(random.Random(seed))
        known = disk.map(size)
        maps = BlockMap([known])
        maps.apply(entry)
        maps.sync()
        wanted = over(wanted, made)
        assert state(known) == wanted


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 500), EPOCHS, st.integers(0, 500))
def test_the_root_that_is_expected_is_the_one_that_comes(
    size: int, epochs: list[list[tuple[int, int, bool, int]]], other: int
) -> None:
    disk = Disk()
    known = disk.map(size)
    known.baseline()
    maps = BlockMap([known])
    for changes in epochs:
        entries = [staged(known.volume, changes)[0], staged(known.volume, changes[::-1])[0]]
        before, files = known.leaves.tree.root(), [file.read(0, 1 << 20) for file in disk.files]
        first, both = known.expect(entries[:1], 0), known.expect(entries, 0)
        assert known.expect(entries, 1) == before, "another volume's changes"
        assert [file.read(0, 1 << 20) for file in disk.files] == files
        assert known.leaves.tree.root() == before, "what is expected may never come"
        maps.apply(entries[0])
        assert known.leaves.tree.root() == first
        maps.apply(entries[1])
        assert known.leaves.tree.root() == both
        assert known.leaves.tree.root() == disk.map(size).leaves.tree.root()
    known.mark_edge(other)
    known.resize(other)
    entry, _ = staged(known.volume, [change for changes in epochs for change in changes])
    wanted = known.expect([entry], 0)
    maps.apply(entry)
    assert known.leaves.tree.root() == wanted


def test_an_epoch_goes_to_the_volumes_that_it_names() -> None:
    maps = BlockMap([Disk().map(40), Disk().map(80)])
    for one in maps.volumes:
        one.baseline()
    maps.apply(staged(maps.volumes[1].volume, [(0, 9, False, 1)], index=1)[0])
    assert [one.known.count for one in maps.volumes] == [0, 9]
    assert maps.missing == 5 + 1


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 300), st.integers(0, 300), st.lists(CHANGE, max_size=6), st.randoms(use_true_random=False))
def test_a_torn_resize_leaves_nothing_unknown_and_sure_and_nothing_known_at_the_edge(
    old: int, new: int, changes: list[tuple[int, int, bool, int]], chance: random.Random
) -> None:
    # As producers/ledger.py does it: mark the edge, sync, store the smaller size, resize, sync, store the new one.
    disk = Disk()
    known = disk.map(old)
    known.baseline()
    maps = BlockMap([known])
    maps.apply(staged(known.volume, changes)[0])
    maps.sync()
    edge, died = min(old, new) // BLOCK, chance.randrange(4)
    whole = state(known)
    known.mark_edge(new)
    stored = old
    if died > 0:
        known.sync()
        stored = min(old, new)
    if died > 1:
        known.resize(new)
    if died > 2:
        known.sync()
        stored = new
    disk.lose(chance)
    left = state(disk.map(stored))
    for at, (entry, unsure) in enumerate(zip(left.entries, left.unsure, strict=True)):
        assert entry is not None or unsure, f"block {at} of {len(left.entries)} is unknown and sure"
        if at < edge:
            assert (entry, unsure) == (whole.entries[at], whole.unsure[at])
        elif died and old != new:
            assert unsure
            assert entry is None or entry[0] == blockmap.NO_PRINT or at > edge
    again = disk.map(stored)
    again.mark_edge(new)
    again.resize(new)
    for at, (entry, unsure) in enumerate(zip(state(again).entries, state(again).unsure, strict=True)):
        assert entry is not None or unsure
        assert at < edge or old == new or unsure
        assert at < edge or old == new or entry is None or entry[0] == blockmap.NO_PRINT


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.integers(0, 300))
def test_after_a_resize_what_is_new_is_known_to_differ_and_what_stays_is_as_it_was(old: int, new: int) -> None:
    known = Disk().map(old)
    known.baseline()
    maps = BlockMap([known])
    maps.apply(staged(known.volume, [(0, 1 << 10, False, 1)])[0])
    before = state(known)
    known.mark_edge(new)
    known.resize(new)
    after, keep = state(known), min(old, new) // BLOCK
    assert after.entries[:keep] == before.entries[:keep]
    assert after.unsure == [False] * keep + [True] * (known.volume.blocks - keep) or old == new
    if old != new:
        assert all(entry is not None and entry[0] == blockmap.NO_PRINT for entry in after.entries[keep:])
