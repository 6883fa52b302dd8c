"""The memory that reads of all devices share."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from engine.device.direct import PIECE, Buffers


def test_many_threads_lend_and_give_back_and_each_has_memory_of_its_own() -> None:
    buffers, before = Buffers(), sys.getswitchinterval()

    def lend(number: int) -> bool:
        with buffers.lend(64) as view:
            view[:] = bytes([number % 251]) * 64
            return bytes(view) == bytes([number % 251]) * 64

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lend, range(20_000)))
    finally:
        sys.setswitchinterval(before)
    assert len(buffers) <= 8


def test_what_was_lent_is_lent_again_and_one_that_is_too_small_is_let_go() -> None:
    buffers = Buffers()
    with buffers.lend(10), buffers.lend(10):
        pass
    assert len(buffers) == 2
    with buffers.lend(PIECE + 1) as view:
        assert len(view) == PIECE + 1
    assert len(buffers) == 2
