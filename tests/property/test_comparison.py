"""Random maps beside random trees of a replica: what is marked is exactly what differs or is not claimed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import digest, merkle
from engine.store.blockmap import BlockMap, MapFiles, VolumeMap
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from producers.handshake import Ask, Comparison
from schemas.identity import NO_NONCE, Attempt, Volume
from schemas.receipts import Answered, Position
from tests.support.sim.loop import run

BLOCK = 4
REPLICA = b"a replica of one"
CONTENT = st.sampled_from([b"", b"", b"a", b"b", b"?"])
"""Of a block: a hole, one of two contents, or nothing known."""


def leaves_of(blocks: list[bytes], size: int) -> Leaves:
    leaves = Leaves(Volume("vda", size, BLOCK), MemoryFile(), MemoryFile())
    fill(leaves, blocks)
    return leaves


def fill(leaves: Leaves, blocks: list[bytes]) -> None:
    for at, content in enumerate(blocks):
        if content == b"?":
            leaves.write(at, digest.block(b"of before"), claim=False)
        elif content:
            leaves.write(at, digest.block(content * leaves.volume.length(at)))
        else:
            leaves.zero(at, 1)


def map_of(blocks: list[bytes], size: int, unsure: set[int]) -> VolumeMap:
    known = VolumeMap(Volume("vda", size, BLOCK), MapFiles(*(MemoryFile() for _ in range(4))))
    fill(known.leaves, blocks)
    for at in unsure | {at for at, content in enumerate(blocks) if content == b"?"}:
        known.doubt(at, 1)
    return known


def marked(known: VolumeMap) -> set[int]:
    return {at for at in range(known.volume.blocks) if at in known.unsure}


def asking(volumes: list[Leaves]) -> tuple[Ask, list[int]]:
    """What a replica answers, and how many nodes it was asked for."""
    asked: list[int] = []

    async def ask(replica: bytes, volume: int, level: int, first: int, count: int) -> tuple[bytes, ...]:
        assert replica == REPLICA
        asked.append(count)
        leaves = volumes[volume]
        assert level <= leaves.tree.height
        assert first + count <= leaves.tree.width(level)
        return leaves.nodes(level, first, count)

    return ask, asked


def compare(maps: list[VolumeMap], theirs: list[Leaves]) -> tuple[int, list[int]]:
    ask, asked = asking(theirs)
    answer = Answered(Attempt(1), Position(), NO_NONCE, 0, tuple(one.claim() for one in theirs))
    return run(Comparison(ask, REPLICA).run(BlockMap(maps), answer)), asked


@st.composite
def volumes(draw: Callable[[st.SearchStrategy[object]], object]) -> tuple[list[bytes], list[bytes], int, set[int]]:
    """Our blocks, theirs (mostly alike), the length of the last block, and what is unsure before."""
    chance = random.Random(str(draw(st.integers(0, 1 << 40))))
    count = chance.choice([1, 2, 3, 7, 8, 9, 64, 255, 256, 257, 300, 600])
    some = [chance.choice([b"", b"a", b"b"]) for _ in range(count)] if chance.random() < 0.8 else [b""] * count
    theirs = list(some)
    for _ in range(chance.choice([0, 0, 1, 2, 20, count])):
        theirs[chance.randrange(count)] = chance.choice([b"", b"a", b"b", b"?"])
    for _ in range(chance.choice([0, 0, 1, 5])):
        some[chance.randrange(count)] = b"?"
    unsure = {chance.randrange(count) for _ in range(chance.choice([0, 0, 3, count]))}
    return some, theirs, chance.randint(1, BLOCK), unsure


@settings(deadline=None, max_examples=150)
@given(st.lists(volumes(), min_size=1, max_size=2))
def test_what_differs_or_is_not_claimed_is_marked_and_nothing_else(
    drawn: list[tuple[list[bytes], list[bytes], int, set[int]]],
) -> None:
    maps, theirs, wanted = [], [], []
    for ours, replicas, last, unsure in drawn:
        size = (len(ours) - 1) * BLOCK + last
        maps.append(map_of(ours, size, unsure))
        theirs.append(leaves_of(replicas, size))
        before = marked(maps[-1])
        pairs = enumerate(zip(ours, replicas, strict=True))
        wanted.append((before, before | {at for at, (one, other) in pairs if one != other or other == b"?"}))
    count, _ = compare(maps, theirs)
    assert [marked(one) for one in maps] == [after for _, after in wanted]
    assert count == sum(len(after) - len(before) for before, after in wanted)


@settings(deadline=None, max_examples=150)
@given(volumes(), st.integers(1, 320 * BLOCK))
def test_a_replica_of_another_size_has_its_edge_and_what_it_lacks_marked(
    drawn: tuple[list[bytes], list[bytes], int, set[int]], other: int
) -> None:
    ours, replicas, last, unsure = drawn
    size = (len(ours) - 1) * BLOCK + last
    blocks = -(-other // BLOCK)
    replicas = (replicas * (blocks // len(replicas) + 1))[:blocks]
    known, theirs = map_of(ours, size, unsure), leaves_of(replicas, other)
    before = marked(known)
    compare([known], [theirs])
    edge = min(size, other) // BLOCK if size != other else len(ours)
    for at, content in enumerate(ours):
        same = at < edge and content == replicas[at] != b"?"
        assert (at in known.unsure) == (at in before or not same), at


@pytest.mark.parametrize("claims", ["no volume", "nothing"])
def test_a_replica_that_claims_nothing_lacks_everything_and_is_asked_nothing(claims: str) -> None:
    known = map_of([b"a"] * 50, 200, set())
    theirs = [] if claims == "no volume" else [leaves_of([b"?"] * 50, 200)]
    count, asked = compare([known], theirs)
    assert (count, asked) == (50, [])


def test_equal_roots_are_enough() -> None:
    blocks = [b"a", b"", b"b"] * 300
    assert compare([map_of(blocks, 3600, set())], [leaves_of(blocks, 3600)]) == (0, [])


def test_a_single_difference_among_many_blocks_costs_a_few_questions() -> None:
    ours = [b"a"] * 70_000
    theirs = list(ours)
    theirs[34_567] = b"b"
    known = map_of(ours, 280_000, set())
    count, asked = compare([known], [leaves_of(theirs, 280_000)])
    assert (count, marked(known)) == (1, {34_567})
    assert len(asked) <= 4
    assert sum(asked) <= 3 * 256 + 1


def test_what_is_unsure_already_is_not_asked_about() -> None:
    ours = [b"a"] * 1024
    known = map_of(ours, 4096, set(range(512)))
    theirs = leaves_of([b"b"] * 512 + ours[512:], 4096)
    count, asked = compare([known], [theirs])
    assert count == 0
    assert sum(asked) <= 1 + 256


@settings(deadline=None, max_examples=60)
@given(st.lists(volumes(), min_size=1, max_size=1), st.integers(0, 1 << 30), st.integers(0, 9))
def test_an_answer_that_is_cut_short_marks_too_much_and_never_too_little(
    drawn: list[tuple[list[bytes], list[bytes], int, set[int]]], seed: int, keep: int
) -> None:
    ours, replicas, last, unsure = drawn[0]
    size = (len(ours) - 1) * BLOCK + last
    known, theirs = map_of(ours, size, unsure), leaves_of(replicas, size)
    honest, _ = asking([theirs])
    chance = random.Random(seed)

    async def ask(*question: bytes | int) -> tuple[bytes, ...]:
        answers: Awaitable[tuple[bytes, ...]] = honest(*question)  # type: ignore[arg-type]
        nodes = await answers
        return nodes if chance.random() * 10 < keep else nodes[: chance.randrange(len(nodes) + 1)]

    answer = Answered(Attempt(1), Position(), NO_NONCE, 0, (theirs.claim(),))
    run(Comparison(ask, REPLICA).run(BlockMap([known]), answer))
    lacking = {at for at, (one, other) in enumerate(zip(ours, replicas, strict=True)) if one != other or other == b"?"}
    assert lacking <= marked(known)


def test_hashes_never_tell_a_hole_from_written_zeros() -> None:
    ours, theirs = map_of([b""] * 9, 36, set()), leaves_of([b""] * 9, 36)
    theirs.write(3, digest.block(bytes(4)))
    assert theirs.tree.root() == merkle.root([(4, digest.block(bytes(4)))] * 9)
    assert compare([ours], [theirs]) == (0, [])
