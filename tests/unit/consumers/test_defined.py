"""What a replica knows of its machine: settled with its epoch, taken back with it, and nothing that was not sealed."""

from __future__ import annotations

import pytest

from consumers.replay import Replay, Settings
from engine import errors
from schemas import events, receipts
from schemas.identity import Address, Attempt
from tests.support.settling import Bench, caught_up, fill, told


def machine(memory: int) -> events.Defined:
    return events.Defined(events.Form.LIBVIRT, f"<domain><memory>{memory}</memory></domain>", b"nvram" * memory)


ONE, TWO, THREE = (machine(number) for number in (1, 2, 3))


def known(bench: Bench, epoch: int | None = None) -> events.Defined | None:
    return bench.store.definition(bench.position.epoch if epoch is None else epoch)


def stored(bench: Bench) -> list[int]:
    return [one.epoch for one in bench.store.disk.definitions]


async def replayed(*machines: events.Defined | None, keep: int = 16) -> tuple[Bench, Replay]:
    """An epoch for each, read one by one."""
    bench, replay = await caught_up(settings=Settings(keep=keep))
    for number, one in enumerate(machines, 1):
        bench.epoch(fill(bytes([number])), machines=[one] if one else [])
        await bench.read(replay)
    assert told(bench, receipts.Applied) == list(range(1, len(machines) + 1))
    return bench, replay


async def test_it_holds_from_its_epoch_on_until_the_next_one() -> None:
    bench, _ = await replayed(None, ONE, None, TWO)
    assert [known(bench, epoch) for epoch in (1, 2, 3, 4)] == [None, ONE, ONE, TWO]


async def test_epochs_that_are_settled_together_each_have_their_own() -> None:
    bench = Bench()
    for number, one in enumerate((ONE, TWO, None, THREE), 1):
        bench.epoch(fill(b"x"), only=number % 4, machines=[one] if one else [])
    replay = await bench.replay()
    await bench.read(replay)
    assert bench.order.count("commit") == 2, "the answer to the start, and one for all four"
    assert [known(bench, epoch) for epoch in (1, 2, 3, 4)] == [ONE, TWO, TWO, THREE]


async def test_of_several_in_one_epoch_the_last_counts() -> None:
    bench = Bench()
    bench.epoch(fill(b"a"), machines=[ONE, THREE, TWO])
    await bench.read(await bench.replay())
    assert (known(bench), stored(bench)) == (TWO, [1])


async def test_what_is_said_again_is_stored_once() -> None:
    bench, _ = await replayed(ONE, ONE, TWO, TWO, ONE)
    assert stored(bench) == [1, 3, 5]
    assert [known(bench, epoch) for epoch in (1, 2, 3, 4, 5)] == [ONE, ONE, TWO, TWO, ONE]


async def test_an_epoch_that_is_not_sealed_says_nothing() -> None:
    bench, replay = await replayed(ONE)
    bench.epoch(fill(b"z"), machines=[TWO], seal=False)
    await bench.read(replay)
    assert known(bench) == ONE
    bench.say(Address(1, Attempt(6, b"attempt6"), 0, 0), events.Started("test", bench.chain))
    await bench.read(replay)
    assert (known(bench), stored(bench)) == (ONE, [1])
    await bench.replay()
    assert (known(bench), stored(bench)) == (ONE, [1])


async def test_a_transaction_that_fails_stores_neither_epoch_nor_machine() -> None:
    bench, replay = await replayed(ONE)
    bench.store.failing = True
    bench.epoch(fill(b"z"), machines=[TWO])
    with pytest.raises(errors.Full):
        await bench.read(replay)
    bench.store.failing = False
    assert (bench.position.epoch, known(bench), stored(bench)) == (1, ONE, [1])
    replay = await bench.replay()
    await bench.read(replay)
    assert (bench.position.epoch, known(bench), stored(bench)) == (2, TWO, [1, 2])


async def test_what_was_not_on_the_medium_is_taken_back_with_its_machine() -> None:
    bench, replay = await replayed(ONE)
    bench.device.dropping = 1
    bench.epoch(fill(b"z"), machines=[TWO])
    await bench.read(replay)
    assert told(bench, receipts.Diverged) == [1]
    assert (bench.position.epoch, known(bench), stored(bench)) == (1, ONE, [1])


@pytest.mark.parametrize(("goal", "expected", "left"), [(1, None, []), (2, ONE, [2]), (3, ONE, [2]), (4, TWO, [2, 4])])
async def test_a_rewind_goes_back_to_the_machine_that_was(
    goal: int, expected: events.Defined | None, left: list[int]
) -> None:
    bench, replay = await replayed(None, ONE, None, TWO, THREE)
    await replay.rewind(replay.retention.goal(goal))
    assert (known(bench), stored(bench)) == (expected, left)


async def test_definitions_of_epochs_that_are_kept_no_more_go() -> None:
    bench, _ = await replayed(ONE, TWO, None, THREE, None, keep=2)
    assert stored(bench) == [4]
    assert [one.position.epoch for one in bench.store.kept()] == [4, 5]
    bench, _ = await replayed(ONE, None, None, TWO, keep=2)
    assert stored(bench) == [1, 4], "the first one held at an epoch that is kept"
