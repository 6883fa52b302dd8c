"""The tree: RFC 6962's shape by hand, and after any changes what a plain computation gives."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import merkle
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from schemas.identity import Volume


def leaf(content: bytes) -> bytes:
    return sha256(b"\x00" + len(content).to_bytes(4, "big") + blake3(content).digest()).digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


A, B, C, D, E, F, G = BLOCKS = [bytes([65 + at]) * 4 for at in range(6)] + [b"Gs"]
AB, CD, EF = node(leaf(A), leaf(B)), node(leaf(C), leaf(D)), node(leaf(E), leaf(F))
BY_HAND = {
    1: leaf(A),
    2: AB,
    3: node(AB, leaf(C)),
    4: node(AB, CD),
    5: node(node(AB, CD), leaf(E)),
    6: node(node(AB, CD), EF),
    7: node(node(AB, CD), node(EF, leaf(G))),
}


def leaves_of(blocks: list[bytes]) -> Leaves:
    leaves = Leaves(Volume("vda", sum(map(len, blocks)), 4), MemoryFile(), MemoryFile())
    leaves.write(0, b"".join(blake3(one).digest() for one in blocks))
    return leaves


@pytest.mark.parametrize("count", BY_HAND)
def test_the_shape_is_that_of_rfc_6962(count: int) -> None:
    blocks = BLOCKS[:count]
    assert merkle.root((len(one), blake3(one).digest()) for one in blocks) == BY_HAND[count]
    assert leaves_of(blocks).root() == BY_HAND[count]


def test_a_volume_without_blocks_has_the_hash_of_nothing() -> None:
    assert merkle.root([]) == sha256(b"").digest()
    assert leaves_of([]).root() == sha256(b"").digest()


def test_the_length_of_the_last_block_is_part_of_its_leaf() -> None:
    roots = {Leaves(Volume("vda", 4 + last, 4), MemoryFile(), MemoryFile()).tree.root() for last in range(1, 5)}
    assert len(roots) == 4


def test_nodes_are_those_of_each_level_from_the_leaves_up() -> None:
    tree = leaves_of(list(BLOCKS)).tree
    assert [tree.width(level) for level in range(tree.height + 1)] == [7, 4, 2, 1]
    assert tree.nodes(0, 0, 7) == [leaf(one) for one in BLOCKS]
    assert tree.nodes(1, 0, 9) == [AB, CD, EF, leaf(G)]
    assert tree.nodes(2, 1, 1) == [node(EF, leaf(G))]
    assert tree.nodes(3, 0, 1) == [BY_HAND[7]]


def test_holes_are_the_blocks_of_zeros_that_they_stand_for() -> None:
    volume = Volume("vda", 4 * 10 + 1, 4)
    sparse, plain = (Leaves(volume, MemoryFile(), MemoryFile()) for _ in range(2))
    plain.write(0, b"".join(blake3(bytes(volume.length(at))).digest() for at in range(volume.blocks)))
    sparse.zero(0, volume.blocks)
    assert sparse.root() == plain.root()


def test_an_untouched_sparse_tree_hashes_its_edge_only() -> None:
    read: list[tuple[int, int]] = []

    def digests(first: int, count: int) -> bytes:
        read.append((first, count))
        return bytes(32 * count)

    volume = Volume("vda", 4 * 100_000, 4)
    tree = merkle.Tree(volume, digests)
    assert tree.root() == merkle.root((4, blake3(bytes(4)).digest()) for _ in range(volume.blocks))
    assert sum(count for _, count in read) <= 2


def test_only_what_was_touched_is_read_again() -> None:
    content = bytearray(random.Random(1).randbytes(32 * 1000))
    read: list[int] = []

    def digests(first: int, count: int) -> bytes:
        read.append(count)
        return bytes(content[first * 32 : (first + count) * 32])

    tree = merkle.Tree(Volume("vda", 4000, 4), digests)
    tree.touch(0, 1000)
    tree.root()
    read.clear()
    tree.root()
    assert read == []
    content[32 * 500 : 32 * 501] = bytes(32)
    tree.touch(500, 1)
    changed = [bytes(content[at : at + 32]) for at in range(0, len(content), 32)]
    assert tree.root() == merkle.root((4, one if any(one) else blake3(bytes(4)).digest()) for one in changed)
    assert set(read) == {2}


STEP = st.tuples(st.sampled_from(["write", "zero", "resize", "root"]), st.integers(0, 1 << 30), st.integers(1, 60))


class Model:
    """Leaves, and a plain list of the digests that they should hold."""

    def __init__(self, size: int, block_size: int) -> None:
        self.leaves = Leaves(Volume("vda", size, block_size), MemoryFile(), MemoryFile())
        self.digests = [b""] * self.leaves.volume.blocks
        self.leaves.zero(0, len(self.digests))

    def step(self, what: str, number: int, count: int) -> None:
        volume = self.leaves.volume
        if what == "root":
            assert self.leaves.tree.root() == self.plain()
        elif what == "resize":
            self.resize(number % (130 * volume.block_size))
        elif volume.blocks:
            first = number % volume.blocks
            count = min(count, volume.blocks - first)
            chance = random.Random(number)
            values = [chance.choice([b"", chance.randbytes(32)]) for _ in range(count)]
            if what == "zero":
                self.leaves.zero(first, count)
                values = [b""] * count
            else:
                self.leaves.write(first, b"".join(one or merkle.ZERO for one in values))
            self.digests[first : first + count] = values

    def resize(self, size: int) -> None:
        self.leaves.resize(size)
        blocks = self.leaves.volume.blocks
        self.digests = self.digests[:blocks] + [b""] * (blocks - len(self.digests))

    def plain(self) -> bytes:
        volume = self.leaves.volume
        lengths = (volume.length(at) for at in range(volume.blocks))
        return merkle.root(
            (length, value or blake3(bytes(length)).digest())
            for length, value in zip(lengths, self.digests, strict=True)
        )


@settings(deadline=None, max_examples=120)
@given(st.integers(0, 600), st.sampled_from([1, 4, 7, 64]), st.lists(STEP, max_size=12))
def test_after_any_changes_the_root_is_that_of_the_plain_computation(
    size: int, block_size: int, steps: list[tuple[str, int, int]]
) -> None:
    model = Model(size, block_size)
    for step in steps:
        model.step(*step)
    assert model.leaves.tree.root() == model.plain()


@settings(deadline=None, max_examples=15)
@given(st.integers(8000, 20000), st.lists(st.tuples(st.integers(0, 20000), st.integers(1, 9000)), max_size=4))
def test_a_tree_of_several_chunks_is_no_other(blocks: int, writes: list[tuple[int, int]]) -> None:
    model = Model(blocks * 4 - 1, 4)
    model.leaves.tree.root()
    for number, count in writes:
        model.step("write" if count % 3 else "zero", number, count)
    assert model.leaves.tree.root() == model.plain()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 1 << 30))
def test_the_tree_of_another_size_is_the_one_after_a_resize(size: int, other: int, seed: int) -> None:
    model = Model(size, 4)
    model.step("write", seed, 60)
    seen = model.leaves.tree_of(other).root()
    model.resize(other)
    assert seen == model.plain()


def test_scattered_data_in_a_sparse_volume_costs_its_own_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = (1 << 20) + 5
    leaves = Leaves(Volume("vda", blocks * 4, 4), MemoryFile(), MemoryFile())
    spots = {random.Random(seed).randrange(blocks): bytes([seed + 1]) * 32 for seed in range(20)}
    for spot, value in spots.items():
        leaves.write(spot, value)
    hashed = 0

    def counted(left: bytes, right: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return node(left, right)

    monkeypatch.setattr(merkle, "node", counted)
    found = leaves.tree.root()
    monkeypatch.undo()
    zero = blake3(bytes(4)).digest()
    assert found == merkle.root((4, spots.get(block, zero)) for block in range(blocks))
    assert hashed < len(spots) * 20 * 2 * 17
