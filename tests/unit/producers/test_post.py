"""What is in flight beside a cap."""

from __future__ import annotations

import pytest

from producers import post

MEBI = 1 << 20


@pytest.mark.parametrize(
    ("cap", "window"), [(0, 128), (1 << 30, 128), (256 * MEBI, 128), (100 * MEBI, 50), (16 * MEBI, 8), (MEBI, 8)]
)
def test_what_is_in_flight_stays_below_the_cap(cap: int, window: int) -> None:
    found = post.beside(cap)
    assert found.window == window * MEBI
    assert cap == 0 or cap < 16 * MEBI or found.window < cap
