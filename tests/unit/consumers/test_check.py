"""A check compares every block that is claimed with the medium, and no other."""

from __future__ import annotations

import hashlib
import random

import pytest

from consumers.check import Check, Finding
from engine import digest, merkle
from engine.device.memory import MemoryDevice
from engine.ports import inline
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from schemas.identity import Volume

BLOCK = 4096
SIZE = 20 * BLOCK + 1000
"""The last block is short."""


@pytest.fixture
def content() -> bytes:
    """Data, a block that is a hole in part, a whole hole, zeros that are data, and a short last block."""
    chance = random.Random(5)
    parts = [chance.randbytes(5 * BLOCK + 700), bytes(6 * BLOCK), chance.randbytes(SIZE - 11 * BLOCK - 700)]
    return b"".join(parts)


async def made(content: bytes, claimed: bool = True) -> tuple[Leaves, MemoryDevice]:
    device = MemoryDevice(len(content))
    for start in range(0, len(content), BLOCK):
        if any(content[start : start + BLOCK]):
            await device.write(start, content[start : start + BLOCK])
    leaves = Leaves(Volume("vda", len(content), BLOCK), MemoryFile(), MemoryFile())
    if claimed:
        leaves.write(0, digest.of_pieces(0, content, BLOCK))
    return leaves, device


async def check(leaves: Leaves, device: MemoryDevice, sha256: bool = False) -> tuple[Finding, int]:
    told: list[int] = []
    found = await Check(leaves, device, inline, told.append).run(sha256)
    return found, sum(told)


async def test_an_equal_volume_makes_its_root_and_its_sha256(content: bytes) -> None:
    found, told = await check(*await made(content), sha256=True)
    lengths = [min(BLOCK, SIZE - start) for start in range(0, SIZE, BLOCK)]
    digests = digest.of_pieces(0, content, BLOCK)
    pairs = [(length, digests[at * 32 : at * 32 + 32]) for at, length in enumerate(lengths)]
    assert found.root == merkle.root(pairs)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert (found.bad_blocks, found.unclaimed, told) == (0, 0, SIZE)


@pytest.mark.parametrize("block", [0, 5, 8, 11, 20])
async def test_one_byte_is_one_block(content: bytes, block: int) -> None:
    leaves, device = await made(content)
    at = min(block * BLOCK + 900, SIZE - 1)
    await device.write(at, bytes([content[at] ^ 1]))
    found, _ = await check(leaves, device)
    assert list(found.bad) == [(block, block + 1)]
    assert found.bad_bytes() == [(block * BLOCK, min((block + 1) * BLOCK, SIZE))]
    assert found.root == b""


@pytest.mark.parametrize("first", [0, 12, 20])
async def test_data_that_became_a_hole_is_found(content: bytes, first: int) -> None:
    leaves, device = await made(content)
    await device.zero(first * BLOCK, min(BLOCK, SIZE - first * BLOCK))
    found, _ = await check(leaves, device)
    assert list(found.bad) == [(first, first + 1)]


async def test_what_is_not_claimed_is_not_compared(content: bytes) -> None:
    leaves, device = await made(content)
    await device.write(2 * BLOCK, b"another")
    leaves.unclaim(2, 1)
    found, _ = await check(leaves, device)
    assert (found.bad_blocks, found.unclaimed, found.root) == (0, 1, b"")
    nothing, _ = await check(*await made(content, claimed=False))
    assert (nothing.bad_blocks, nothing.unclaimed) == (0, 21)


@pytest.mark.parametrize("size", [0, 3 * BLOCK + 1, 20 * BLOCK])
async def test_a_medium_that_is_too_short_differs_from_there_on(content: bytes, size: int) -> None:
    leaves, device = await made(content)
    await device.resize(size)
    found, _ = await check(leaves, device, sha256=True)
    assert list(found.bad) == [(size // BLOCK, 21)]
    assert found.sha256 == ""
