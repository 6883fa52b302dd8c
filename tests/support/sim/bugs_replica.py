"""Planted in the replica: undo, settle, rewind, admit and answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

from consumers.block import Target, Touched
from consumers.replay import Replay
from engine import errors
from engine.replica import Replica, Skip
from engine.store import replicas, undo
from engine.store.replicas import KeptEpoch
from engine.store.undo import UndoLog
from producers.ear import Ear
from schemas import events, receipts
from tests.support.sim.planting import bug, put
from tests.support.sim.process import SimDevice

OUTRUN = {"roots": False, "blocks": 2, "outrun": 0.95, "slow": 1.5, "ticks": 30}
"""Several epochs over the same few blocks, none of them settled."""


def dies_soon(log: UndoLog, steps: int) -> None:
    """The moment after the bug is when a crash finds it: half of those that are doomed die within so many steps."""
    process = log._file._process  # type: ignore[attr-defined]
    if process.countdown is not None and process.chance.random() < 0.5:
        process.countdown = process.chance.randrange(1, steps)


# -- undo --------------------------------------------------------------------------------------------------------------


@bug()
def undo_never_synced(stack: ExitStack) -> None:
    put(stack, UndoLog, "sync", lambda self: None)


@bug()
def undo_synced_after_the_write(stack: ExitStack) -> None:
    real = Target.apply

    async def apply(self: Target, changes: Any, touched: Touched) -> None:
        await real(self, changes, touched)
        self.undo.sync()

    put(stack, Target, "_save", lambda self, images: self.undo.append(images))
    put(stack, Target, "apply", apply)


@bug(**OUTRUN)
def undone_oldest_first(stack: ExitStack) -> None:
    real = UndoLog.newest_first
    put(stack, UndoLog, "newest_first", lambda self, start: reversed(list(real(self, start))))


@bug(**OUTRUN)
def only_the_newest_epoch_undone(stack: ExitStack) -> None:
    real = UndoLog.newest_first

    def newest_first(self: UndoLog, start: int) -> Iterator[undo.PreImage]:
        seen: set[tuple[int, int]] = set()
        for image in real(self, start):
            blocks = {(image.volume, block) for block in range(image.first, image.first + image.count)}
            if seen & blocks:
                return
            seen |= blocks
            yield image

    put(stack, UndoLog, "newest_first", newest_first)


@bug()
def recovery_truncates_before_it_flushes(stack: ExitStack) -> None:
    real = Target.restore

    async def restore(self: Target, start: int, volumes: Any) -> int:
        count = await real(self, start, volumes)
        self.undo.truncate(start)
        return count

    put(stack, Target, "restore", restore)


@bug(roots=False, ticks=40, zombies=0.0, lost_tails=0.0, restores=0.0)
def appended_after_a_torn_tail(stack: ExitStack) -> None:
    def truncate(self: UndoLog, end: int) -> None:
        if self._file.size() > end:
            dies_soon(self, 60)
        self.end = max(end, self._file.size())

    put(stack, UndoLog, "truncate", truncate)


@bug(roots=False, transient=0.0)
def pre_images_owned_by_who_settles(stack: ExitStack) -> None:
    """The range of an epoch ends where the log ends when it is settled, open epochs included."""
    real = replicas.at
    put(stack, replicas, "at", real)

    async def settle(self: Replay) -> None:
        for one in self._waiting:
            one.undo_end = self.target.undo.end
        await original(self)

    original = Replay.settle
    put(stack, Replay, "settle", settle)


@bug(roots=False, rewinds=0.5, resizes=0.0)
def first_touch_per_group(stack: ExitStack) -> None:
    real = Target.begin

    async def begin(self: Target, opened: events.Open) -> Touched:
        touched = await real(self, opened)
        held = getattr(self, "_group", None)
        if held is not None and held[0] == self.undo.begin and held[1] <= touched.undo_start:
            for volume, ranges in held[2].items():
                for start, end in ranges:
                    touched.of(volume).add(start, end)
        self._group = (self.undo.begin, touched.undo_start, touched.blocks)  # type: ignore[attr-defined]
        return touched

    put(stack, Target, "begin", begin)


@bug(roots=False)
def abandoning_truncates(stack: ExitStack) -> None:
    real = Replay._abandon

    async def abandon(self: Replay) -> None:
        touched = self._touched
        await real(self)
        if touched is not None:
            self.target.undo.truncate(touched.undo_start)
            dies_soon(self.target.undo, 12)

    put(stack, Replay, "_abandon", abandon)


@bug()
def undo_trimmed_before_the_position(stack: ExitStack) -> None:
    real = Replay._verified

    async def verified(self: Replay, waiting: Any) -> bool | None:
        self.target.undo.trim(self.target.undo.end)
        self.target.undo.sync()
        return await real(self, waiting)

    put(stack, Replay, "_verified", verified)


@bug(resizes=0.0)
def claims_survive_a_rollback(stack: ExitStack) -> None:
    real = Target._put_back

    async def put_back(self: Target, image: undo.PreImage, volume: Any) -> None:
        leaves = self.leaves[image.volume]
        before = leaves.read(image.first, image.count)
        await real(self, image, volume)
        leaves.write(image.first, before[: image.count * 32], True)

    put(stack, Target, "_put_back", put_back)


# -- settle ------------------------------------------------------------------------------------------------------------


@bug()
def nothing_flushed(stack: ExitStack) -> None:
    async def flush(self: Target) -> None:
        return None

    put(stack, Target, "flush", flush)


@bug(volumes=2)
def only_the_first_disk_flushed(stack: ExitStack) -> None:
    async def flush(self: Target) -> None:
        await self.devices[0].flush()
        for leaves in self.leaves:
            leaves.sync()

    put(stack, Target, "flush", flush)


@bug()
def receipt_before_position(stack: ExitStack) -> None:
    real = Replay._verified

    async def verified(self: Replay, waiting: Any) -> bool | None:
        applied = [receipts.Applied(one.position) for one in waiting]
        said = [self.journal.outgoing(self.state.next_receipt, one, self.state).record for one in applied]
        await self.journal._answers.append(said)
        await self.journal._answers.sync()
        return await real(self, waiting)

    put(stack, Replay, "_verified", verified)


@bug(fail_flush=0.2)
def failed_flush_tried_again_and_the_cache_read_back(stack: ExitStack) -> None:
    """A pair: read back from the medium, the lost pages are noticed."""
    real = Target.flush

    async def flush(self: Target) -> None:
        for _ in range(5):
            try:
                return await real(self)
            except errors.DeviceFailed:
                continue
        return None

    async def evict(self: SimDevice, ranges: Sequence[tuple[int, int]]) -> None:
        return None

    put(stack, Target, "flush", flush)
    put(stack, SimDevice, "evict", evict)


@bug(drop=0.05)
def nothing_read_back(stack: ExitStack) -> None:
    async def read_back(self: Target, epochs: Sequence[Touched], but: Touched | None = None) -> None:
        self.restored.clear()

    put(stack, Target, "read_back", read_back)


@bug(drop=0.05, roots=False)
def restored_blocks_not_read_back(stack: ExitStack) -> None:
    real = Target.read_back

    async def read_back(self: Target, epochs: Sequence[Touched], but: Touched | None = None) -> None:
        self.restored.clear()
        await real(self, epochs, but)

    put(stack, Target, "read_back", read_back)


# -- rewind ------------------------------------------------------------------------------------------------------------


@bug(rewinds=0.5)
def rewind_without_intent(stack: ExitStack) -> None:
    async def rewind(self: Replay, goal: KeptEpoch) -> receipts.Position:
        await self._finish_rewind(goal)
        return self.state.position

    put(stack, Replay, "rewind", rewind)


@bug(rewinds=0.5)
def second_rewind_over_an_unfinished_one(stack: ExitStack) -> None:
    real = Replay.recover

    async def recover(self: Replay) -> int:
        if self.state.intent is not None:
            self.journal.commit(replace(self.state, intent=None))
        return await real(self)

    put(stack, Replay, "recover", recover)


@bug(rewinds=0.5)
def receipts_left_in_the_outbox_by_a_rewind(stack: ExitStack) -> None:
    put(stack, replicas, "surviving", lambda entry, position: True)


# -- admit and answer --------------------------------------------------------------------------------------------------


@bug(replicas=2, lost_tails=0.4)
def any_chain_fits(stack: ExitStack) -> None:
    put(stack, Replica, "_door", lambda self, event: self.tip.complete)


@bug(replicas=2, lost_stores=0.5, roots=False, crashes=0.2)
def an_asker_comes_in_without_its_nonce(stack: ExitStack) -> None:
    def door(self: Replica, event: events.Open) -> bool | None:
        if event.fits and event.fits[0].chain == self.tip.chain:
            return self.tip.complete
        return False if any(fit.chain == self.tip.chain for fit in event.fits) else None

    put(stack, Replica, "_door", door)


@bug(replicas=2, lost_tails=0.4)
def completeness_by_the_wrong_door(stack: ExitStack) -> None:
    def door(self: Replica, event: events.Open) -> bool | None:
        known = any(fit.chain == self.tip.chain and fit.nonce in (self.nonce, bytes(8)) for fit in event.fits)
        return self.tip.complete if known else None

    put(stack, Replica, "_door", door)


@bug()
def genesis_counts_as_complete(stack: ExitStack) -> None:
    real = Replica._door

    def door(self: Replica, event: events.Open) -> bool | None:
        return None if real(self, event) is None else True

    put(stack, Replica, "_door", door)


@bug(roots=False, slow=0.5, outrun=0.9, blocks=4)
def answered_before_it_is_settled(stack: ExitStack) -> None:
    real = Replay._restart

    async def restart(self: Replay) -> None:
        async def later() -> None:
            return None

        with mock.patch.object(self, "settle", later):
            await real(self)

    put(stack, Replay, "_restart", restart)


@bug()
def open_epoch_kept_on_started(stack: ExitStack) -> None:
    real = Replay._restart

    async def restart(self: Replay) -> None:
        async def kept() -> None:
            self._touched, self._changes = None, []

        with mock.patch.object(self, "_abandon", kept):
            await real(self)

    put(stack, Replay, "_restart", restart)


@bug(zombies=0.5, crashes=0.2)
def fenced_not_said_on_open(stack: ExitStack) -> None:
    """A pair: a producer also learns it from what replicas say to the one that took over."""
    real = Replica._fenced

    def fenced(self: Replica, address: Any, event: Any) -> Any:
        return Skip() if isinstance(event, events.Open) else real(self, address, event)

    put(stack, Replica, "_fenced", fenced)
    put(stack, Ear, "_outdone", lambda self, other: None)


@bug(lost_tails=0.4)
def a_refusal_is_said_only_once(stack: ExitStack) -> None:
    async def silent(self: Replay, address: Any) -> None:
        return None

    put(stack, Replay, "_still_held", silent)


@bug(lost_tails=1.5, duplicates=0.3, roots=False, crashes=0.2)
def seq_and_chain_not_checked(stack: ExitStack) -> None:
    """A pair: each of the two covers for the other."""

    def following(self: Replica, address: Any, event: Any, print_: int) -> Any:
        current = self.open
        if current is None or current.identity != address.seal:
            return real(self, address, event, print_)
        if address.seq < len(current.seen):
            return Skip()
        while len(current.seen) < address.seq:
            current.seen.append(0)
        return real(self, address, event, print_)

    def seal(self: Replica, address: Any, event: events.Seal, current: Any) -> Any:
        with mock.patch.object(current, "chain", mock.Mock(seal=mock.Mock(return_value=event.chain))):
            return real_seal(self, replace(address, seq=event.count), event, current)

    real, real_seal = Replica._next, Replica._seal
    put(stack, Replica, "_next", following)
    put(stack, Replica, "_seal", seal)
