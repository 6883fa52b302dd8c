"""The one law: in which order sealed epochs become ours, what is said and when, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumers.block import Target
from consumers.replay import Settings
from engine import digest, errors
from engine.store import replicas
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from schemas import events, receipts
from schemas.identity import Address, Attempt, Cut, Volume
from tests.support.settling import BLOCK, Bench, caught_up, fill, told

# -- the order ---------------------------------------------------------------------------------------------------------


async def test_flush_then_read_back_then_commit_then_publish_then_trim_in_this_order_and_no_other() -> None:
    bench, replay = await caught_up(fill(b"a"), fill(b"b"), settings=Settings(keep=1))
    bench.epoch(fill(b"c"))
    await bench.read(replay)
    assert bench.order[:8] == [
        "flush", "read back", "commit", "publish", "on the bus", "published", "forget", "trim",
    ]  # fmt: skip


async def test_the_device_shrinks_only_after_the_position_that_says_so() -> None:
    bench, replay = await caught_up(fill(b"a"))
    bench.epoch(fill(b"b", 2))
    await bench.read(replay)
    assert [one for one in bench.order if one in ("commit", "resize to 128", "flush", "read back")] == [
        "flush", "read back", "commit", "resize to 128",
    ]  # fmt: skip
    assert bench.device.content() == fill(b"b", 2)


async def test_several_sealed_epochs_are_settled_by_one_flush_and_one_transaction() -> None:
    bench = Bench()
    replay = await bench.replay()
    for block in range(3):
        bench.epoch(fill(b"a"), only=block)
    await bench.read(replay)
    # The first flush and transaction are the answer to `Started`.
    assert bench.order.count("flush") == 1
    assert bench.order.count("commit") == 2
    assert [number for number, _ in bench.said()] == [1, 2, 3, 4]
    assert told(bench, receipts.Applied) == [1, 2, 3]
    assert [one.position.epoch for one in bench.store.kept()] == [1, 2, 3]


async def test_each_kept_epoch_owns_its_own_range_of_the_undo_log() -> None:
    bench, replay = await caught_up(fill(b"a"), fill(b"b"), fill(b"c"))
    kept = bench.store.kept()
    assert [one.start for one in kept[1:]] == [one.end for one in kept[:-1]]
    assert kept[-1].end == bench.store.load().undo_end == replay.target.undo.end
    assert all(one.start < one.end for one in kept)


async def test_what_is_settled_is_settled_once() -> None:
    bench, replay = await caught_up(fill(b"a"))
    await replay.settle()
    await replay.settle()
    assert bench.order == []


async def test_what_is_open_is_not_settled_with_what_is_sealed() -> None:
    bench, replay = await caught_up()
    bench.epoch(fill(b"a"))
    bench.epoch(fill(b"b"), seal=False)
    await bench.read(replay)
    assert bench.position.epoch == 1
    assert bench.device.content() == fill(b"b"), "it is under way"
    again = await bench.replay()
    assert bench.device.content() == fill(b"a")
    assert again.state.position.epoch == 1


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_a_failed_flush_ends_the_run_and_is_never_tried_again() -> None:
    bench, replay = await caught_up(fill(b"a"))
    before = bench.position
    bench.epoch(fill(b"b"))
    bench.device.failing = True
    with pytest.raises(errors.DeviceFailed):
        await bench.read(replay)
    assert bench.order == ["flush"]
    assert bench.position == before
    assert told(bench, receipts.Applied) == [1]


async def test_after_a_failed_flush_a_new_process_recovers_and_comes_through() -> None:
    bench, replay = await caught_up(fill(b"a"))
    bench.epoch(fill(b"b"))
    bench.device.failing = True
    with pytest.raises(errors.DeviceFailed):
        await bench.read(replay)
    bench.device.failing = False
    again = await bench.replay()
    assert bench.device.content() == fill(b"a")
    await bench.read(again)
    assert bench.device.content() == fill(b"b")
    assert told(bench, receipts.Applied) == [1, 2]


async def test_nothing_is_said_when_the_transaction_fails() -> None:
    bench, replay = await caught_up(fill(b"a"))
    before, words = bench.position, len(bench.answers.records)
    bench.epoch(fill(b"b"))
    bench.store.failing = True
    with pytest.raises(errors.Full):
        await bench.read(replay)
    assert bench.order == ["flush", "read back", "commit"]
    assert bench.position == before
    assert len(bench.answers.records) == words
    assert bench.store.outbox() == []


@pytest.mark.parametrize("operation", ["append", "sync", "synced"])
async def test_a_receipt_that_is_said_again_keeps_its_number(operation: str) -> None:
    bench, replay = await caught_up(fill(b"a"))
    bench.epoch(fill(b"b"))
    bench.away = operation
    with pytest.raises(errors.Transient):
        await bench.read(replay)
    assert bench.position.epoch == 2, "the position does not wait for the bus"
    waiting = [one.number for one in bench.store.outbox()]
    assert waiting == [3]
    bench.away = ""
    again = await bench.replay()
    await bench.read(again)
    words = [(number, one) for number, one in bench.said() if isinstance(one, receipts.Applied)]
    assert {number for number, one in words if one.position.epoch == 2} == {3}
    assert len(words) == (3 if operation == "synced" else 2)
    assert len({one for number, one in words if number == 3}) == 1
    assert bench.store.outbox() == []


async def test_numbers_go_on_after_a_restart() -> None:
    bench, _ = await caught_up(fill(b"a"))
    again = await bench.replay()
    bench.epoch(fill(b"b"))
    await bench.read(again)
    assert [number for number, _ in bench.said()] == [1, 2, 3]


# -- divergence --------------------------------------------------------------------------------------------------------


async def test_a_write_that_the_medium_dropped_is_taken_back_and_said() -> None:
    bench, replay = await caught_up(fill(b"a"))
    before, good = bench.position, Target.flush
    bench.epoch(fill(b"b"))
    bench.device.drops = True

    async def flush(target: Target) -> None:
        await good(target)
        bench.device.drops = False

    replay.target.flush = flush.__get__(replay.target)  # type: ignore[method-assign]
    await bench.read(replay)
    assert bench.position == before
    assert bench.device.content() == fill(b"a")
    assert told(bench, receipts.Applied) == [1]
    said = [one for _, one in bench.said() if isinstance(one, receipts.Diverged)]
    assert [(one.refused.epoch, one.position.epoch) for one in said] == [(2, 1)]
    assert replay.replica.held is not None


async def test_data_under_the_digest_of_what_is_there_is_taken_back_and_said() -> None:
    bench, replay = await caught_up(fill(b"a"))
    before = bench.position
    bench.epoch(fill(b"b"), digests=digest.of_pieces(0, fill(b"a"), BLOCK))
    await bench.read(replay)
    assert bench.position == before
    assert bench.device.content() == fill(b"a")
    assert told(bench, receipts.Applied) == [1]
    assert len(told(bench, receipts.Diverged)) == 1
    assert replay.target.leaves[0].claim().blocks == 4


async def test_roots_that_are_not_ours_are_never_acknowledged() -> None:
    bench, replay = await caught_up(fill(b"a"))
    bench.epoch(fill(b"b"), roots=[b"r" * 32])
    await bench.read(replay)
    assert (bench.position.epoch, bench.device.content()) == (1, fill(b"a"))
    assert told(bench, receipts.Applied) == [1]
    assert told(bench, receipts.Verified) == []


async def test_roots_that_are_ours_prove_the_epoch_in_the_same_breath() -> None:
    bench, replay = await caught_up(fill(b"a"))
    leaves = Leaves(Volume("vda", 4 * BLOCK, BLOCK), MemoryFile(), MemoryFile())
    leaves.write(0, digest.of_pieces(0, fill(b"b"), BLOCK))
    bench.epoch(fill(b"b"), roots=[leaves.root()])
    await bench.read(replay)
    assert told(bench, receipts.Applied) == [1, 2]
    assert told(bench, receipts.Verified) == [2]
    assert bench.order.count("commit") == 1


async def test_a_newer_start_is_answered_from_a_settled_state_with_the_open_epoch_taken_back() -> None:
    bench, replay = await caught_up(fill(b"a"))
    bench.epoch(fill(b"b"))
    bench.epoch(fill(b"c"), seal=False)
    newer = Attempt(6, b"attempt6")
    bench.say(Address(1, newer, 0, 0), events.Started("test", bench.chain))
    await bench.read(replay)
    assert bench.device.content() == fill(b"b")
    answers = [one for _, one in bench.said() if isinstance(one, receipts.Answered)]
    assert (answers[-1].attempt, answers[-1].position.epoch, answers[-1].highest) == (newer, 2, 3)
    assert answers[-1].claims == tuple(leaves.claim() for leaves in replay.target.leaves)
    assert bench.store.load().fence == newer


# -- retention and rewind ----------------------------------------------------------------------------------------------


async def test_only_usable_epochs_are_kept() -> None:
    bench, replay = await caught_up(settings=Settings(keep=2))
    for at, cut in enumerate((Cut.CRASH, Cut.NONE, Cut.NONE, Cut.CRASH, Cut.NONE, Cut.CRASH, Cut.NONE)):
        bench.epoch(fill(bytes([97 + at])), cut)
        await bench.read(replay)
    assert [one.position.epoch for one in bench.store.kept()] == [4, 6]
    assert replay.target.undo.begin == bench.store.kept()[0].end


async def test_of_epochs_that_change_nothing_no_more_are_kept_than_of_others() -> None:
    bench, replay = await caught_up(settings=Settings(keep=3))
    for _ in range(8):
        bench.epoch(fill(b"a"))
        await bench.read(replay)
    assert [one.position.epoch for one in bench.store.kept()] == [6, 7, 8]


async def test_of_a_baseline_no_pre_images_are_kept_once_they_are_settled() -> None:
    bench, replay = await caught_up(settings=Settings(keep=2))
    for at in range(5):
        bench.epoch(fill(bytes([97 + at])), Cut.NONE)
        await bench.read(replay)
    assert bench.store.kept() == []
    assert replay.target.undo.begin == replay.target.undo.end == bench.store.load().undo_end


async def test_an_epoch_whose_pre_images_are_damaged_is_refused_before_anything_is_touched() -> None:
    bench, _ = await caught_up(fill(b"a"), fill(b"b"), fill(b"c"))
    kept = bench.store.kept()
    undo = (await bench.replay()).target.undo
    undo._file.write(kept[1].start + 50, b"rot")
    replay = await bench.replay()
    with pytest.raises(errors.Damaged, match=r"epoch 1 cannot be rewound to; these can: 2, 3\.  Nothing was changed"):
        replay.retention.goal(1)
    assert replay.retention.goal(2) == kept[1]
    with pytest.raises(errors.NotFound, match="epoch 9 cannot be rewound to; these can: 1, 2, 3"):
        replay.retention.goal(9)
    # A rewind that was begun before the damage is not finished over it.
    replay.journal.commit(replace(replay.state, intent=kept[0]))
    with pytest.raises(errors.Damaged, match="a rewind was on its way over it"):
        await (await bench.replay()).recover()


async def test_the_oldest_epochs_go_first_when_the_quota_is_passed_and_the_position_never() -> None:
    bench, replay = await caught_up(settings=Settings(undo_quota=1000))
    seen = list[int]()
    for at in range(8):
        bench.epoch(fill(bytes([97 + at])))
        await bench.read(replay)
        seen.append(len(bench.store.kept()))
    numbers = [one.position.epoch for one in bench.store.kept()]
    assert numbers == list(range(numbers[0], 9))
    assert 1 < numbers[0] < 8
    assert seen == sorted(seen), "one goes for each that comes: never all of them at once"
    assert replay.target.undo.used <= 1000
    await replay.rewind(replay.retention.goal(numbers[0]))
    assert bench.device.content() == fill(bytes([96 + numbers[0]]))


@pytest.mark.parametrize("seal", [False, True])
async def test_what_a_medium_dropped_is_noticed_before_the_next_epoch_overwrites_it(seal: bool) -> None:
    """Else it would become a pre-image: what was never there could be gone back to."""
    bench, replay = await caught_up(fill(b"a"))
    bench.device.dropping = 1
    bench.epoch(fill(b"x"), cut=Cut.NONE)
    bench.epoch(fill(b"y"), seal=seal)
    await bench.read(replay)
    assert told(bench, receipts.Diverged) == [1]
    assert bench.position.epoch == 1
    assert bench.device.content() == fill(b"a")


@pytest.mark.parametrize("kept", [0, 2])
async def test_a_target_that_fills_under_an_epoch_is_not_called_diverged_for_what_was_half_written(kept: int) -> None:
    bench, replay = await caught_up(*(fill(bytes([97 + at])) for at in range(kept)))
    bench.epoch(fill(b"x"), cut=Cut.NONE)  # waits: no root asks for it to be settled at once
    bench.epoch(fill(b"y"), pieces=2)
    bench.device.full = [3]  # of the second epoch the first half is written, and nobody noted it
    await bench.read(replay)
    assert not told(bench, receipts.Diverged)
    assert bench.device.content() == fill(b"y")
    assert bench.position.epoch == kept + 2


async def test_a_rewind_writes_its_intent_first_and_the_position_before_anything_is_dropped() -> None:
    bench, _ = await caught_up(fill(b"a"), fill(b"b"), fill(b"c", 6))
    replay = await bench.replay()
    position = await replay.rewind(replay.retention.goal(1))
    assert bench.order == [
        "intent", "flush", "read back", "commit", "truncate", "resize to 256", "publish", "on the bus", "published",
    ]  # fmt: skip
    assert bench.device.content() == fill(b"a")
    assert position == bench.position
    assert position.epoch == 1
    assert [one.position.epoch for one in bench.store.kept()] == [1]
    assert bench.said()[-1][1] == receipts.Rewound(position, 3)
    assert bench.store.load().held == "rewound from epoch 3"
    assert bench.store.load().intent is None


async def test_a_rewind_drops_what_waits_to_be_said_about_later_epochs() -> None:
    bench, replay = await caught_up(fill(b"a"))
    bench.away = "append"
    bench.epoch(fill(b"b"))
    with pytest.raises(errors.Transient):
        await bench.read(replay)
    assert [one.epoch for one in bench.store.outbox()] == [2]
    bench.away = ""
    replay = await bench.replay()
    await replay.rewind(replay.retention.goal(1))
    assert told(bench, receipts.Applied) == [1]
    assert bench.said()[-1] == (4, receipts.Rewound(bench.position, 2)), "its number is not used twice"


@pytest.mark.parametrize("step", ["flush", "commit"])
async def test_a_rewind_that_was_stopped_is_finished_by_the_next_start(step: str) -> None:
    bench, _ = await caught_up(fill(b"a"), fill(b"b"), fill(b"c"))
    replay = await bench.replay()
    before = bench.position
    real: Callable[..., Any] = bench.store.commit

    def commit(update: replicas.Update) -> None:
        bench.store.failing = update.state.intent is None
        real(update)

    bench.device.failing = step == "flush"
    if step == "commit":
        bench.store.commit = commit  # type: ignore[method-assign]
    with pytest.raises((errors.DeviceFailed, errors.Full)):
        await replay.rewind(replay.retention.goal(1))
    assert bench.position == before
    bench.device.failing = bench.store.failing = False
    bench.store.commit = real  # type: ignore[method-assign]
    await bench.replay()
    assert bench.position.epoch == 1
    assert bench.device.content() == fill(b"a")


@pytest.mark.parametrize("number", [0, 2, 9])
async def test_a_rewind_goes_to_usable_epochs_only_and_says_which_there_are(number: int) -> None:
    bench = Bench()
    for at, cut in enumerate((Cut.CRASH, Cut.NONE, Cut.CRASH)):
        bench.epoch(fill(bytes([97 + at])), cut)
    await bench.read(await bench.replay())
    replay = await bench.replay()
    with pytest.raises(errors.NotFound, match=f"epoch {number} cannot be rewound to; these can: 1, 3"):
        await replay.rewind(replay.retention.goal(number))
    assert bench.order == []


async def test_the_position_is_found_in_the_log_by_its_seal_and_not_by_its_offset() -> None:
    bench, _ = await caught_up(fill(b"a"), fill(b"b"))
    replay = await bench.replay()
    assert await replay.step(0) == 0, "all of it is known"
    del bench.stream.records[-1]
    bench.say(Address(1, Attempt(6, b"attempt6"), 0, 0), events.Started("test", bench.chain))
    replay = await bench.replay()
    assert await replay.step(0) == 3, "it reads on behind the newest epoch whose seal is where it was"
