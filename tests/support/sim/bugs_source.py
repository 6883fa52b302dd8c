"""Planted in the source: map, stage, start, resync and what is in flight."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

from engine.store.blockmap import VolumeMap
from producers import handshake, lease
from producers.anchor import Anchor
from producers.ledger import Ledger
from producers.pace import Window
from producers.post import Settings
from producers.scan import Scan, Zeros
from producers.ship import Shipper
from producers.start import Start
from schemas import events, receipts
from schemas.identity import Volume
from tests.support.sim.guest import LiveSource
from tests.support.sim.planting import bug, put

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

    put(stack, Shipper, "_emit", emit)


@bug(roots=False)
def map_changed_before_the_seal_is_durable(stack: ExitStack) -> None:
    real = Shipper._committed

    async def committed(self: Shipper, staged: Any, sent: Any) -> None:
        self.ledger.map.apply(staged)
        self.ledger.map.sync()
        await real(self, staged, sent)

    put(stack, Shipper, "_committed", committed)


@bug(roots=False, replicas=2)
def marks_outside_the_stage_and_equal_chains_trusted(stack: ExitStack) -> None:
    """A pair: where answers of an equal chain are compared as well, lost marks come back."""
    emit_real, resync_real = Shipper._emit, Start.resync

    async def emit(self: Shipper, found: Any, cut: Any) -> None:
        count = found.count if isinstance(found, Zeros) else len(found.prints) // 16
        self.map.volumes[found.volume].unsure.put(found.first, count, False)
        self.map.volumes[found.volume].unsure.sync()
        await emit_real(self, found, cut)

    async def resync(self: Start, answers: dict[bytes, receipts.Answered]) -> None:
        differ = {name: one for name, one in answers.items() if one.position.chain != self._state.chain}
        await resync_real(self, differ)

    put(stack, Shipper, "_emit", emit)
    put(stack, Start, "resync", resync)


@bug(roots=False)
def stage_void_though_counted(stack: ExitStack) -> None:
    real = Ledger.take_up

    async def take_up(self: Ledger, seen: Any, volumes: Any) -> None:
        kept = [one for one in self._stage.load() if one.seal.epoch > self.state.epoch]
        with mock.patch.object(self._stage, "load", return_value=kept):
            await real(self, seen, volumes)

    put(stack, Ledger, "take_up", take_up)


@bug(plugs=0.3, crashes=0.2)
def a_new_disk_differs_from_no_cut(stack: ExitStack) -> None:
    """What is unsure only, as in a first baseline: a replica that was whole takes itself for whole without it."""
    real = VolumeMap.resize

    def resize(self: VolumeMap, size: int) -> None:
        new = self.volume.size == 0
        real(self, size)
        if new:
            self.baseline()

    put(stack, VolumeMap, "resize", resize)


@bug(plugs=0.3)
def a_new_disk_counted_with_the_map_of_nothing(stack: ExitStack) -> None:
    """Its size is stored with it, before its map says that all of it has to travel."""

    def add(self: Ledger, volumes: tuple[Volume, ...]) -> None:
        self.map = self._make_map(self.state.volumes + volumes)
        self.map.sync()
        self.keep(volumes=self.state.volumes + volumes)

    put(stack, Ledger, "_add", add)


@bug(roots=False)
def baseline_without_zeros(stack: ExitStack) -> None:
    put(stack, Scan, "_zeros_all", lambda self, first, count: [])


@bug(replicas=2, lost_tails=0.4, roots=False)
def resync_with_one_answer_only(stack: ExitStack) -> None:
    real = Start.resync

    async def resync(self: Start, answers: dict[bytes, receipts.Answered]) -> None:
        await real(self, dict(list(answers.items())[:1]))

    put(stack, Start, "resync", resync)


@bug(lost_tails=0.4, roots=False)
def start_without_resync(stack: ExitStack) -> None:
    async def resync(self: Start, answers: dict[bytes, receipts.Answered]) -> None:
        return None

    put(stack, Start, "resync", resync)


@bug(restores=0.9, lost_tails=0.4, crashes=0.6, ticks=24, replicas=1)
def numbers_used_again(stack: ExitStack) -> None:
    real = Start.resync

    async def resync(self: Start, answers: dict[bytes, receipts.Answered]) -> None:
        await real(self, answers)
        self._ledger.state = replace(self._state, highest=self._state.epoch)

    put(stack, Start, "resync", resync)


@bug(zombies=0.6, crashes=0.2)
def attempts_without_nonce(stack: ExitStack) -> None:
    put(stack, secrets, "token_bytes", lambda length: bytes(length))


@bug(lost_tails=0.0)
def in_flight_bound_by_applied_epochs(stack: ExitStack) -> None:
    real = Shipper.__init__

    def init(self: Shipper, *args: Any, **named: Any) -> None:
        large: Any = {"part": 40 * 32, "window": 200, "batch": 100, "lease": 1e9}
        args = tuple(replace(one, **large) if isinstance(one, Settings) else one for one in args)
        real(self, *args, **named)

    put(stack, Window, "note", lambda *_: None)
    put(stack, Shipper, "__init__", init)


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

    put(stack, handshake.Comparison, "_volume", volume)


@bug(cap=1500, outrun=0.8, replicas=2)
def let_go_of_without_a_word(stack: ExitStack) -> None:
    async def say(self: Shipper, word: events.Lapsed) -> bool:
        return True

    put(stack, Shipper, "say", say)


@bug(cap=1500, outrun=0.8, replicas=2)
def said_after_it_was_let_go_of(stack: ExitStack) -> None:
    async def let_go(shipper: Shipper, offset: int, why: events.Why, held: int = 0, cap: int = 0) -> bool:
        behind = lease.lagging(shipper, offset)
        await shipper.trim_to(offset)
        await shipper.say(events.Lapsed(why, offset, held, cap, 0, behind))
        return True

    put(stack, lease, "let_go", let_go)


@bug(live=True, roots=False)
def checkpoint_kept_before_its_epochs_are_on_the_bus(stack: ExitStack) -> None:
    real = LiveSource.begin

    async def begin(self: LiveSource, cut: bool = True) -> Any:
        volumes = await real(self, cut)
        await self.kept()
        return volumes

    put(stack, LiveSource, "begin", begin)


@bug(live=True, roots=False, crashes=0.2, transient=0.1)
def checkpoint_kept_of_a_pass_that_failed(stack: ExitStack) -> None:
    async def end(self: LiveSource) -> None:
        await self.kept()

    put(stack, LiveSource, "end", end)


@bug(live=True, roots=False, crashes=0.3)
def checkpoint_believed_after_a_revert(stack: ExitStack) -> None:
    real = Anchor.since

    def since(self: Anchor, there: Any, mark: str, disks: Any) -> Any:
        return real(self, there, self.checkpoint, disks)

    put(stack, Anchor, "since", since)


@bug(live=True, roots=False, crashes=0.0, reverts=0.5, slow=0.5)
def checkpoint_kept_though_its_pass_was_reverted_under_it(stack: ExitStack) -> None:
    real = LiveSource.kept

    async def kept(self: LiveSource) -> None:
        self._run = self._guest.runs
        await real(self)

    put(stack, LiveSource, "kept", kept)


@bug(live=True, roots=False, resizes=0.5, crashes=0.3)
def checkpoint_believed_of_another_size(stack: ExitStack) -> None:
    real = Anchor.since

    def since(self: Anchor, there: Any, mark: str, disks: Any) -> Any:
        return real(self, there, mark, self._kept.disks)

    put(stack, Anchor, "since", since)
