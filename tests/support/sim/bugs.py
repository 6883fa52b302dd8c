"""Bugs to plant: each breaks one rule of the engine, and the simulator must catch it.

A plant is a function that patches the real code; `BUGS` names it, with the luck that brings it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from consumers.block import Target, Touched
from consumers.replay import Replay
from engine import errors
from engine.replica import Replica, Skip
from engine.store import replicas, undo
from engine.store.undo import UndoLog
from producers import handshake, ledger
from producers.pace import Window
from producers.scan import Scan, Zeros
from producers.ear import Ear
from producers.ledger import Ledger
from producers.ship import Shipper
from schemas import events, receipts

Plant = Callable[[ExitStack], None]


@dataclass(frozen=True)
class Bug:
    """`plant` breaks the code; `luck` overrides the plan of a seed."""

    plant: Plant
    luck: dict[str, Any] = field(default_factory=dict)


BUGS: dict[str, Bug] = {}
HARD = {"crashes": 0.9, "power": 1.0, "ticks": 16, "rewinds": 0.0, "lost_stores": 0.0}


def bug(**luck: Any) -> Callable[[Plant], Plant]:
    """Register a plant under its function's name."""

    def take(plant: Plant) -> Plant:
        BUGS[plant.__name__] = Bug(plant, {**HARD, **luck})
        return plant

    return take


def _set(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.enter_context(mock.patch.object(owner, name, value))


# -- undo --------------------------------------------------------------------------------------------------------------


@bug()
def undo_never_synced(stack: ExitStack) -> None:
    _set(stack, UndoLog, "sync", lambda self: None)


@bug()
def undo_synced_after_the_write(stack: ExitStack) -> None:
    real = Target.apply

    async def apply(self: Target, changes: Any, touched: Touched) -> None:
        await real(self, changes, touched)
        self.undo.sync()

    _set(stack, Target, "_save", lambda self, images: self.undo.append(images))
    _set(stack, Target, "apply", apply)


@bug(roots=False)
def undone_oldest_first(stack: ExitStack) -> None:
    real = UndoLog.newest_first
    _set(stack, UndoLog, "newest_first", lambda self, start: reversed(list(real(self, start))))


@bug(roots=False)
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

    _set(stack, UndoLog, "newest_first", newest_first)


@bug()
def recovery_truncates_before_it_flushes(stack: ExitStack) -> None:
    real = Target.restore

    async def restore(self: Target, start: int, volumes: Any) -> int:
        count = await real(self, start, volumes)
        self.undo.truncate(start)
        return count

    _set(stack, Target, "restore", restore)


@bug()
def appended_after_a_torn_tail(stack: ExitStack) -> None:
    def truncate(self: UndoLog, end: int) -> None:
        self.end = max(end, self._file.size())

    _set(stack, UndoLog, "truncate", truncate)


@bug(roots=False, transient=0.0)
def pre_images_owned_by_who_settles(stack: ExitStack) -> None:
    """The range of an epoch ends where the log ends when it is settled, open epochs included."""
    real = replicas.at
    _set(stack, replicas, "at", real)

    async def settle(self: Replay) -> None:
        for one in self._waiting:
            one.undo_end = self.target.undo.end
        await original(self)

    original = Replay.settle
    _set(stack, Replay, "settle", settle)


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

    _set(stack, Target, "begin", begin)


@bug()
def abandoning_truncates(stack: ExitStack) -> None:
    real = Replay._abandon

    async def abandon(self: Replay) -> None:
        touched = self._touched
        await real(self)
        if touched is not None:
            self.target.undo.truncate(touched.undo_start)

    _set(stack, Replay, "_abandon", abandon)


@bug()
def undo_trimmed_before_the_position(stack: ExitStack) -> None:
    real = Replay._verified

    async def verified(self: Replay, waiting: Any) -> bool | None:
        self.target.undo.trim(self.target.undo.end)
        self.target.undo.sync()
        return await real(self, waiting)

    _set(stack, Replay, "_verified", verified)


@bug(resizes=0.0)
def claims_survive_a_rollback(stack: ExitStack) -> None:
    real = Target._put_back

    async def put_back(self: Target, image: undo.PreImage, volume: Any) -> None:
        leaves = self.leaves[image.volume]
        before = leaves.read(image.first, image.count)
        await real(self, image, volume)
        leaves.write(image.first, before[: image.count * 32], True)

    _set(stack, Target, "_put_back", put_back)


# -- settle ------------------------------------------------------------------------------------------------------------


@bug()
def nothing_flushed(stack: ExitStack) -> None:
    async def flush(self: Target) -> None:
        return None

    _set(stack, Target, "flush", flush)


@bug(volumes=2)
def only_the_first_disk_flushed(stack: ExitStack) -> None:
    async def flush(self: Target) -> None:
        await self.devices[0].flush()
        for leaves in self.leaves:
            leaves.sync()

    _set(stack, Target, "flush", flush)


@bug()
def receipt_before_position(stack: ExitStack) -> None:
    real = Replay._verified

    async def verified(self: Replay, waiting: Any) -> bool | None:
        said = [self._outgoing(self.state.next_receipt, receipts.Applied(one.position)).record for one in waiting]
        await self._answers.append(said)
        await self._answers.sync()
        return await real(self, waiting)

    _set(stack, Replay, "_verified", verified)


@bug(fail_flush=0.2)
def failed_flush_tried_again(stack: ExitStack) -> None:
    real = Target.flush

    async def flush(self: Target) -> None:
        for _ in range(5):
            try:
                return await real(self)
            except errors.DeviceFailed:
                continue
        return None

    _set(stack, Target, "flush", flush)


@bug(drop=0.05)
def nothing_read_back(stack: ExitStack) -> None:
    async def read_back(self: Target, epochs: Sequence[Touched], but: Touched | None = None) -> None:
        self.restored.clear()

    _set(stack, Target, "read_back", read_back)


@bug(drop=0.05, roots=False)
def restored_blocks_not_read_back(stack: ExitStack) -> None:
    real = Target.read_back

    async def read_back(self: Target, epochs: Sequence[Touched], but: Touched | None = None) -> None:
        self.restored.clear()
        await real(self, epochs, but)

    _set(stack, Target, "read_back", read_back)


# -- rewind ------------------------------------------------------------------------------------------------------------


@bug(rewinds=0.5)
def rewind_without_intent(stack: ExitStack) -> None:
    async def rewind(self: Replay, epoch: int) -> receipts.Position:
        goal = next(one for one in self.store.kept() if one.position.epoch == epoch)
        await self._finish_rewind(goal)
        return self.state.position

    _set(stack, Replay, "rewind", rewind)


@bug(rewinds=0.5)
def second_rewind_over_an_unfinished_one(stack: ExitStack) -> None:
    real = Replay.recover

    async def recover(self: Replay) -> int:
        if self.state.intent is not None:
            self.state = replace(self.state, intent=None)
            self.store.commit(replicas.Update(self.state))
        return await real(self)

    _set(stack, Replay, "recover", recover)


@bug(rewinds=0.5)
def receipts_left_in_the_outbox_by_a_rewind(stack: ExitStack) -> None:
    _set(stack, replicas, "surviving", lambda entry, position: True)


# -- admit and answer --------------------------------------------------------------------------------------------------


@bug(replicas=2, lost_tails=0.4)
def any_chain_fits(stack: ExitStack) -> None:
    _set(stack, Replica, "_door", lambda self, event: self.tip.complete)


@bug(replicas=2, lost_stores=0.5, roots=False, crashes=0.2)
def an_asker_comes_in_without_its_nonce(stack: ExitStack) -> None:
    def door(self: Replica, event: events.Open) -> bool | None:
        if event.fits and event.fits[0].chain == self.tip.chain:
            return self.tip.complete
        return False if any(fit.chain == self.tip.chain for fit in event.fits) else None

    _set(stack, Replica, "_door", door)


@bug(replicas=2, lost_tails=0.4)
def completeness_by_the_wrong_door(stack: ExitStack) -> None:
    def door(self: Replica, event: events.Open) -> bool | None:
        known = any(fit.chain == self.tip.chain and fit.nonce in (self.nonce, bytes(8)) for fit in event.fits)
        return self.tip.complete if known else None

    _set(stack, Replica, "_door", door)


@bug()
def genesis_counts_as_complete(stack: ExitStack) -> None:
    real = Replica._door

    def door(self: Replica, event: events.Open) -> bool | None:
        return None if real(self, event) is None else True

    _set(stack, Replica, "_door", door)


@bug(roots=False)
def answered_before_it_is_settled(stack: ExitStack) -> None:
    real = Replay._restart

    async def restart(self: Replay) -> None:
        async def later() -> None:
            return None

        with mock.patch.object(self, "settle", later):
            await real(self)

    _set(stack, Replay, "_restart", restart)


@bug()
def open_epoch_kept_on_started(stack: ExitStack) -> None:
    real = Replay._restart

    async def restart(self: Replay) -> None:
        async def kept() -> None:
            self._touched, self._changes = None, []

        with mock.patch.object(self, "_abandon", kept):
            await real(self)

    _set(stack, Replay, "_restart", restart)


@bug(zombies=0.5, crashes=0.2)
def fenced_not_said_on_open(stack: ExitStack) -> None:
    real = Replica._fenced

    def fenced(self: Replica, address: Any, event: Any) -> Any:
        return Skip() if isinstance(event, events.Open) else real(self, address, event)

    _set(stack, Replica, "_fenced", fenced)


@bug(lost_tails=0.4)
def a_refusal_is_said_only_once(stack: ExitStack) -> None:
    async def silent(self: Replay, address: Any) -> None:
        return None

    _set(stack, Replay, "_still_held", silent)


@bug(lost_tails=0.4, duplicates=0.3, roots=False)
def seq_and_chain_not_checked(stack: ExitStack) -> None:
    """A pair: each of the two covers for the other."""

    def following(self: Replica, address: Any, event: Any, print_: int) -> Any:
        current = self.open
        if current is None or isinstance(event, events.Seal):
            return real(self, address, event, print_)
        if address.seq < len(current.seen):
            return Skip()
        while len(current.seen) < address.seq:
            current.seen.append(0)
        return real(self, address, event, print_)

    def seal(self: Replica, address: Any, event: events.Seal, current: Any) -> Any:
        with mock.patch.object(current.chain, "seal", lambda cut, missing: event.chain):
            return real_seal(self, replace(address, seq=event.count), event, current)

    real, real_seal = Replica._next, Replica._seal
    _set(stack, Replica, "_next", following)
    _set(stack, Replica, "_seal", seal)


# -- the source --------------------------------------------------------------------------------------------------------


@bug(roots=False)
def map_changed_in_place(stack: ExitStack) -> None:
    real = Shipper._emit

    async def emit(self: Shipper, found: Any, cut: Any) -> None:
        one = self.map.volumes[found.volume]
        if isinstance(found, Zeros):
            one.put_zeros(found.first, found.count, sure=True)
        else:
            one.put(found.first, found.prints, found.digests, sure=True)
        one.sync()
        await real(self, found, cut)

    _set(stack, Shipper, "_emit", emit)


@bug(roots=False)
def map_changed_before_the_seal_is_durable(stack: ExitStack) -> None:
    real = Shipper._committed

    async def committed(self: Shipper, staged: Any) -> None:
        self.ledger.map.apply(staged)
        self.ledger.map.sync()
        await real(self, staged)

    _set(stack, Shipper, "_committed", committed)


@bug(roots=False, replicas=2)
def marks_outside_the_stage(stack: ExitStack) -> None:
    real = Shipper._emit

    async def emit(self: Shipper, found: Any, cut: Any) -> None:
        count = found.count if isinstance(found, Zeros) else len(found.prints) // 16
        self.map.volumes[found.volume].unsure.put(found.first, count, False)
        self.map.volumes[found.volume].unsure.sync()
        await real(self, found, cut)

    _set(stack, Shipper, "_emit", emit)


@bug(roots=False)
def stage_void_though_counted(stack: ExitStack) -> None:
    real = Ledger.take_up

    async def take_up(self: Ledger, seen: Any, volumes: Any) -> None:
        kept = [one for one in self._stage.load() if one.seal.epoch > self.state.epoch]
        with mock.patch.object(self._stage, "load", lambda: kept):
            await real(self, seen, volumes)

    _set(stack, Ledger, "take_up", take_up)


@bug(roots=False)
def baseline_without_zeros(stack: ExitStack) -> None:
    _set(stack, Scan, "_zeros_all", lambda self, first, count: [])


@bug(replicas=2, lost_tails=0.4, roots=False)
def resync_with_one_answer_only(stack: ExitStack) -> None:
    real = Shipper._resync

    async def resync(self: Shipper, answers: dict[bytes, receipts.Answered]) -> None:
        await real(self, dict(list(answers.items())[:1]))

    _set(stack, Shipper, "_resync", resync)


@bug(lost_tails=0.4, roots=False)
def start_without_resync(stack: ExitStack) -> None:
    async def resync(self: Shipper, answers: dict[bytes, receipts.Answered]) -> None:
        return None

    _set(stack, Shipper, "_resync", resync)


@bug(lost_tails=0.4, replicas=2, roots=False)
def answers_to_an_older_start_taken(stack: ExitStack) -> None:
    real = Ear._take

    def take(self: Ear, about: Any, sender: Any, receipt: receipts.Receipt) -> None:
        if isinstance(receipt, receipts.Answered):
            receipt = replace(receipt, attempt=self._attempt)
        real(self, about, sender, receipt)

    _set(stack, Ear, "_take", take)


@bug(restores=0.6, lost_tails=0.4, crashes=0.3)
def numbers_used_again(stack: ExitStack) -> None:
    real = Shipper._resync

    async def resync(self: Shipper, answers: dict[bytes, receipts.Answered]) -> None:
        await real(self, answers)
        self.ledger.state = replace(self.state, highest=self.state.epoch)

    _set(stack, Shipper, "_resync", resync)


@bug(zombies=0.6, crashes=0.2)
def attempts_without_nonce(stack: ExitStack) -> None:
    _set(stack, ledger.secrets, "token_bytes", lambda length: bytes(length))


@bug()
def in_flight_bound_by_applied_epochs(stack: ExitStack) -> None:
    def note(self: Window, peer: Any, attempt: Any, progress: Any) -> None:
        peer.read = max(peer.read, (peer.applied.epoch, 1 << 30))

    real = Shipper.__init__

    def init(self: Shipper, *args: Any, **named: Any) -> None:
        real(self, *args, **named)
        self.settings = replace(self.settings, part=40 * 32, window=200, batch=100, lease=1e9)

    _set(stack, Window, "note", note)
    _set(stack, Shipper, "__init__", init)


@bug(resizes=0.5, restores=0.3)
def edge_of_another_size_not_doubted(stack: ExitStack) -> None:
    real = handshake.Comparison._volume

    async def volume(self: Any, index: int, known: Any, claim: receipts.Claim) -> None:
        doubt = known.doubt

        def only_beyond(first: int, count: int) -> None:
            edge = -(-claim.size // known.volume.block_size)
            end = first + count
            if first * known.volume.block_size < min(claim.size, known.volume.size) and end == known.volume.blocks:
                first = max(first, edge)
            doubt(first, max(0, end - first))

        with mock.patch.object(known, "doubt", only_beyond):
            await real(self, index, known, claim)

    _set(stack, handshake.Comparison, "_volume", volume)
