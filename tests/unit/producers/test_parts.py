"""How large parts are, and what goes into one."""

from __future__ import annotations

import pytest

from engine import epoch
from producers import parts
from producers.scan import Blocks, Zeros
from schemas import events
from schemas.identity import Attempt, Volume

MEBI = 1 << 20
VOLUME = Volume("vda", 10 * 64 + 5, 64)


@pytest.mark.parametrize(
    ("total", "most", "wanted"),
    [
        (0, 8 * MEBI, 8 * MEBI), (32 * MEBI, 8 * MEBI, 8 * MEBI), (48 * MEBI, 8 * MEBI, parts.LEAST),
        (128 * MEBI, 8 * MEBI, MEBI), (1024 * MEBI, 8 * MEBI, 8 * MEBI), (1 << 40, 8 * MEBI, 8 * MEBI),
    ],
)  # fmt: skip
def test_parts_are_less_than_one_percent_of_what_is_worth_it(total: int, most: int, wanted: int) -> None:
    assert parts.bound(total, most) == wanted
    if total >= 64 * MEBI:
        assert wanted < total / 100


def test_a_part_knows_what_it_changes() -> None:
    part = parts.Part(epoch.Writer(1, Attempt(1, bytes(8)), 1, (VOLUME,), ()))
    data, prints, digests = b"x" * 128, b"p" * 32, b"d" * 64
    assert part.put(Blocks(0, 2, data, prints, digests), VOLUME) == events.Written(0, 128, digests, data)
    assert part.put(Zeros(0, 8, 3), VOLUME) == events.Zeroed(0, 512, 133)
    assert part.size == 128
    assert [(one.first, one.prints, one.digests) for one in part.blocks] == [(2, prints, digests)]
    assert [(one.first, one.count) for one in part.zeros] == [(8, 3)]
