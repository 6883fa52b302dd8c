"""The rate is kept, and felt at once when it changes; the window counts what the slowest has not read."""

from __future__ import annotations

import asyncio

import pytest

from producers.pace import Limiter, Peer, Window
from schemas.identity import Attempt
from schemas.receipts import Progress
from tests.support.sim.loop import run

ATTEMPT = Attempt(5, b"attempt5")


async def seconds(limiter: Limiter, *sizes: int) -> float:
    """How long it takes until all of this may be sent."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    for size in sizes:
        await limiter.take(size)
    return loop.time() - since


@pytest.mark.parametrize("sizes", [[10_000], [1000] * 10, [7] * 1429])
def test_no_more_is_let_through_than_the_rate_and_a_burst(sizes: list[int]) -> None:
    async def main() -> None:
        await asyncio.sleep(100)
        assert await seconds(Limiter(1000), *sizes) == pytest.approx(10 - 0.25, abs=0.05)

    run(main())


def test_no_rate_is_no_limit() -> None:
    async def main() -> None:
        assert await seconds(Limiter(), 1 << 40, 1 << 40) == 0

    run(main())


def test_an_idle_time_saves_up_no_more_than_one_burst() -> None:
    async def main() -> None:
        limiter = Limiter(1000)
        await limiter.take(250)
        await asyncio.sleep(3600)
        assert await seconds(limiter, 250) == 0
        assert await seconds(limiter, 1000) == pytest.approx(1, abs=0.01)

    run(main())


async def changed(old: int, new: int, after: float) -> float:
    """Ten seconds' worth of bytes at 1000 B/s; the rate changes in the middle of the wait."""
    limiter = Limiter(old)
    asyncio.get_running_loop().call_later(after, setattr, limiter, "rate", new)
    return await seconds(limiter, 10_000)


@pytest.mark.parametrize(
    ("new", "wanted"),
    [(0, 2.0), (1 << 30, 2.0), (2000, 2 + 4.0), (500, 2 + 16.0), (1000, 10.0)],
    ids=["off", "without bound", "doubled", "halved", "the same"],
)
def test_a_rate_that_changes_is_felt_by_what_waits_already(new: int, wanted: float) -> None:
    async def main() -> None:
        await asyncio.sleep(100)
        assert await changed(1000, new, 2) == pytest.approx(wanted, abs=0.5)

    run(main())


def test_after_a_limit_is_lifted_nothing_of_it_is_left() -> None:
    async def main() -> None:
        limiter = Limiter(10)
        asyncio.get_running_loop().call_later(1, setattr, limiter, "rate", 0)
        await limiter.take(1 << 30)
        limiter.rate = 1000
        assert await seconds(limiter, 1000) == pytest.approx(1, abs=0.3)

    run(main())


def test_a_limit_that_is_set_where_there_was_none_holds_from_then_on() -> None:
    async def main() -> None:
        limiter = Limiter()
        await limiter.take(1 << 40)
        limiter.rate = 1000
        assert await seconds(limiter, 5000) == pytest.approx(5, abs=0.3)

    run(main())


# -- the window --------------------------------------------------------------------------------------------------------


def sent(*sizes: int) -> Window:
    """Records 7.0, 7.1, ... of these sizes went out."""
    window = Window()
    for seq, size in enumerate(sizes):
        window.add(7, seq, size)
    return window


def at(epoch: int, seq: int) -> Peer:
    return Peer(b"replica", read=(epoch, seq))


@pytest.mark.parametrize(
    ("read", "behind"),
    [((0, 0), 111), ((6, 99), 111), ((7, 0), 110), ((7, 1), 100), ((7, 2), 0), ((8, 0), 0)],
)
def test_what_was_sent_and_not_read_is_behind(read: tuple[int, int], behind: int) -> None:
    assert sent(1, 10, 100).behind([at(*read)]) == behind


def test_the_slowest_of_all_counts() -> None:
    window = sent(1, 10, 100)
    assert window.behind([at(7, 2), at(7, 0), at(8, 5)]) == 110
    assert window.behind([at(7, 2), at(8, 5)]) == 0


def test_without_anybody_to_wait_for_nothing_is_behind() -> None:
    window = sent(1, 10, 100)
    assert window.behind([]) == 0
    window.add(7, 3, 1000)
    assert window.behind([at(0, 0)]) == 1000, "who comes later is not held against what went before"


def test_an_epoch_that_is_not_sealed_yet_can_be_read_as_well() -> None:
    # Counted by applied epochs, an epoch larger than the window would wait for itself.
    window, peer = sent(100, 100, 100), at(0, 0)
    window.note(peer, ATTEMPT, Progress(ATTEMPT, 7, 1))
    assert window.behind([peer]) == 100


def test_progress_only_goes_forward_and_only_counts_of_this_attempt() -> None:
    window, peer = sent(1), at(7, 5)
    for said in (Progress(ATTEMPT, 7, 4), Progress(ATTEMPT, 6, 9), Progress(Attempt(6, b"attempt5"), 9, 9)):
        window.note(peer, ATTEMPT, said)
    window.note(peer, ATTEMPT, Progress(Attempt(5, b"a clone."), 9, 9))
    assert peer.read == (7, 5)
    window.note(peer, ATTEMPT, Progress(ATTEMPT, 8, 0))
    assert peer.read == (8, 0)
