"""Digests of blocks and which of them are claimed."""

from __future__ import annotations

import pytest

from engine import digest, merkle
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from schemas.identity import Volume
from schemas.receipts import Claim

BLOCK = 4
ONE, TWO = digest.block(b"1111"), digest.block(b"2222")


def leaves_of(size: int) -> Leaves:
    return Leaves(Volume("vda", size, BLOCK), MemoryFile(), MemoryFile())


def claimed(leaves: Leaves) -> list[int]:
    return [at for at in range(leaves.volume.blocks) if at in leaves.claims]


def test_new_leaves_claim_nothing() -> None:
    leaves = leaves_of(33)
    assert claimed(leaves) == []
    assert leaves.claim() == Claim(33, 0, b"")
    assert leaves.nodes(leaves.tree.height, 0, 1) == (b"",)


def test_what_is_written_and_what_is_zeroed_is_claimed_unless_it_is_said_not_to_be() -> None:
    leaves = leaves_of(24)
    leaves.write(1, ONE + TWO)
    leaves.zero(4, 1)
    leaves.write(3, ONE, claim=False)
    leaves.zero(5, 1, claim=False)
    assert claimed(leaves) == [1, 2, 4]
    leaves.write(2, TWO, claim=False)
    leaves.unclaim(4, 1)
    assert claimed(leaves) == [1]
    assert leaves.read(0, 7) == bytes(32) + ONE + TWO + ONE + bytes(96)


def test_a_root_is_told_only_when_every_block_is_claimed() -> None:
    leaves = leaves_of(9)
    leaves.write(0, ONE + TWO)
    assert leaves.root() == b""
    leaves.zero(2, 1)
    assert leaves.root() == merkle.root([(4, ONE), (4, TWO), (1, digest.zeros(1))])
    assert leaves.claim() == Claim(9, 3, leaves.root())


def test_nodes_are_hashes_where_all_is_claimed_a_plus_where_a_part_is_and_empty_where_nothing_is() -> None:
    leaves = leaves_of(4 * 7)
    leaves.write(0, ONE * 5)
    hashes = [leaves.tree.nodes(level, 0, 9) for level in range(4)]
    assert leaves.nodes(0, 0, 7) == (*hashes[0][:5], b"", b"")
    assert leaves.nodes(1, 0, 4) == (*hashes[1][:2], b"+", b"")
    assert leaves.nodes(2, 0, 2) == (hashes[2][0], b"+")
    assert leaves.nodes(3, 0, 1) == (b"+",)
    leaves.write(5, TWO * 2)
    assert leaves.nodes(3, 0, 1) == (leaves.root(),)


def test_nodes_end_at_the_edge_of_their_level() -> None:
    leaves = leaves_of(4 * 7)
    assert len(leaves.nodes(1, 2, 100)) == 2
    assert leaves.nodes(1, 4, 3) == ()
    assert leaves.nodes(1, 9, 3) == ()


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (16, 16, [0, 1, 2, 3]),
        (16, 24, [0, 1, 2, 3]),
        (16, 8, [0, 1]),
        (14, 24, [0, 1, 2]),
        (16, 14, [0, 1, 2]),
        (14, 15, [0, 1, 2]),
        (16, 0, []),
    ],
)
def test_a_resize_claims_no_block_that_changed_its_length_and_none_that_is_new(
    old: int, new: int, kept: list[int]
) -> None:
    leaves = leaves_of(old)
    leaves.write(0, ONE * leaves.volume.blocks)
    leaves.resize(new)
    assert claimed(leaves) == kept
    leaves.resize(64)
    leaves.resize(16)
    assert claimed(leaves) == kept


def test_a_caller_that_sees_to_the_edge_itself_keeps_its_claim() -> None:
    leaves = leaves_of(14)
    leaves.write(0, ONE * 4)
    leaves.resize(24, keep_edge=True)
    assert claimed(leaves) == [0, 1, 2, 3]
    leaves.resize(15, keep_edge=True)
    assert claimed(leaves) == [0, 1, 2, 3]
    leaves.resize(12, keep_edge=True)
    assert claimed(leaves) == [0, 1, 2]


def test_digests_that_fell_away_are_zeros_when_the_volume_grows_again() -> None:
    leaves = leaves_of(16)
    leaves.write(0, ONE * 4)
    leaves.resize(8)
    leaves.resize(16)
    assert leaves.read(0, 4) == ONE * 2 + bytes(64)


def test_a_block_matches_its_claimed_digest_and_a_hole_that_of_zeros() -> None:
    leaves = leaves_of(10)
    leaves.write(0, ONE)
    leaves.zero(1, 2)
    assert leaves.matches(0, ONE)
    assert not leaves.matches(0, TWO)
    assert leaves.matches(1, digest.zeros(4))
    assert leaves.matches(2, digest.zeros(2))
    assert not leaves.matches(2, digest.zeros(4)), "the last block is a short one"
    leaves.unclaim(0, 1)
    assert not leaves.matches(0, ONE)


def test_they_come_back_from_their_files() -> None:
    digests, claims = MemoryFile(), MemoryFile()
    leaves = Leaves(Volume("vda", 22, BLOCK), digests, claims)
    leaves.write(0, ONE * 3)
    leaves.zero(3, 3)
    leaves.sync()
    again = Leaves(Volume("vda", 22, BLOCK), digests, claims)
    assert again.claim() == leaves.claim()
    assert again.root() != b""
