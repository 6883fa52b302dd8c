"""Which hash says what."""

from __future__ import annotations

import xxhash
from blake3 import blake3

from engine import digest

DATA = bytes(range(256)) * 5


def test_a_block_is_named_by_its_blake3() -> None:
    assert digest.block(DATA) == blake3(DATA).digest()
    assert digest.block(memoryview(DATA)[3:77]) == blake3(DATA[3:77]).digest()
    assert [digest.zeros(length) for length in (0, 1, 4096)] == [blake3(bytes(n)).digest() for n in (0, 1, 4096)]


def test_a_print_depends_on_the_secret_and_is_seeded_with_all_of_it() -> None:
    assert digest.fingerprint(DATA, 7) == xxhash.xxh3_128_digest(DATA, seed=7)
    prints = {digest.fingerprint(DATA, seed) for seed in (0, 1, 1 << 32, 1 << 63, (1 << 64) - 1)}
    assert len(prints) == 5
    assert {len(one) for one in prints} == {digest.PRINT_SIZE}


def test_pieces_are_cut_at_the_blocks_of_the_volume_and_not_of_the_data() -> None:
    parts = [DATA[:3], DATA[3:67], DATA[67:131], DATA[131:140]]
    assert digest.of_pieces(61, DATA[:140], 64) == b"".join(digest.block(part) for part in parts)
    assert digest.of_pieces(64, DATA[:64], 64) == digest.block(DATA[:64])
    assert digest.of_pieces(65, DATA[:63], 64) == digest.block(DATA[:63])
    assert digest.of_pieces(5, b"", 64) == b""
