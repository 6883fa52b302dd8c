"""Planted in what is known of the machine: stored with its position, taken back with it, and said at every start."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from engine.store import replicas
from engine.store.replicas import MemoryReplicaStore, Update
from producers.ship import Shipper
from tests.support.sim.planting import bug, put
from tests.support.sim.process import SimReplicaStore


@bug()
def machine_stored_after_its_position(stack: ExitStack) -> None:
    real = SimReplicaStore.commit

    def commit(self: SimReplicaStore, update: Update) -> None:
        real(self, replace(update, definitions=()))
        if update.definitions:
            real(self, Update(update.state, definitions=update.definitions))

    put(stack, SimReplicaStore, "commit", commit)


@bug(rewinds=0.5)
def machine_not_taken_back_by_a_rewind(stack: ExitStack) -> None:
    """A pair: what is beyond the position is neither dropped nor passed over."""
    real = MemoryReplicaStore.commit

    def commit(self: MemoryReplicaStore, update: Update) -> None:
        before = self.disk.definitions
        real(self, update)
        self.disk.definitions = before + update.definitions

    put(stack, MemoryReplicaStore, "commit", commit)
    put(stack, replicas, "held_at", lambda said, epoch: said[-1] if said else None)


@bug(rewinds=0.3, ticks=30)
def machine_that_a_kept_epoch_needs_is_let_go_of(stack: ExitStack) -> None:
    put(stack, replicas, "unneeded", lambda said, kept: {*said[:-1]})


@bug(lost_tails=0.4, crashes=0.2)
def machine_not_said_again_at_a_new_start(stack: ExitStack) -> None:
    real = Shipper._start_once

    async def start_once(self: Shipper, volumes: Any) -> bool:
        said = self._defined
        started = await real(self, volumes)
        self._defined = said
        return started

    put(stack, Shipper, "_start_once", start_once)
