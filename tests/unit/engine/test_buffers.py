"""The memory that reads of all devices share."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.daemon import daemon
from engine.device.direct import KEPT, PIECE, SHARED, Buffers
from tests.support.ferry import until


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


def test_of_a_burst_only_a_few_stay_once_it_was_tidied_and_the_last_one_used_is_lent_first() -> None:
    buffers = Buffers()
    with contextlib.ExitStack() as burst:
        for number in range(3 * KEPT):
            burst.enter_context(buffers.lend(1))[:] = bytes([number])
        buffers.tidy()
        assert len(buffers) == 0
    assert len(buffers) == 3 * KEPT
    with buffers.lend(1) as view:
        view[:] = b"x"
    buffers.tidy()
    assert len(buffers) == KEPT
    with buffers.lend(1) as view:
        assert bytes(view) == b"x"


async def test_a_daemon_tidies_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "_TIDY", 0.01)
    with contextlib.ExitStack() as burst:
        for _ in range(3 * KEPT):
            burst.enter_context(SHARED.lend(1))
    tidying = asyncio.create_task(daemon.Daemon._tidy())
    await asyncio.to_thread(until, lambda: len(SHARED) <= KEPT)
    tidying.cancel()
    await asyncio.wait([tidying])
    assert tidying.cancelled()
