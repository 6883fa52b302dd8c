"""What a source knows, and the order in which it changes: its state, its map, and the stage between them.

For one epoch: what it changes is staged, durably, before its seal is on the bus; once the seal is durable there, the
state counts it; then the map changes.  Only when the map is durable, after some epochs or at the end of a pass, is the
stage emptied, and before anything else changes the map.  A crash anywhere leaves a stage that is counted, and is
applied again; or whose seal is in the log, and is adopted; or is void.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from engine import errors, ports
from engine.store.blockmap import BlockMap
from engine.store.sources import SourceState, SourceStore
from engine.store.stage import Stage, Staged
from producers.handshake import Seen, adopt
from schemas.identity import Attempt, Chain, Volume

STAGED = 256 << 10
"""Bytes of the stage at which the map is made durable: seven syncs for dozens of parts instead of for each."""
MapMaker = Callable[[tuple[Volume, ...]], BlockMap]


class Ledger:
    """State, map and stage of one stream.  `map` is empty before `take_up`."""

    def __init__(
        self, store: SourceStore, stage: Stage, make_map: MapMaker, offload: ports.Offload = ports.inline
    ) -> None:
        self.state: SourceState = store.load()
        self.map = BlockMap([])
        self._store, self._stage, self._make_map, self._offload = store, stage, make_map, offload

    def keep(self, **changes: object) -> None:
        """Change the state, durably."""
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]
        self._store.commit(self.state)

    def raise_attempt(self) -> None:
        """A new attempt, durable before anything of it is said: no two runs ever share one."""
        self.keep(attempt=Attempt(self.state.attempt.counter + 1, secrets.token_bytes(8)))

    def number(self) -> int:
        """The number of the next epoch, above every one that anybody is known to have used."""
        self.state = replace(self.state, highest=self.state.highest + 1)
        return self.state.highest

    async def take_up(self, seen: Seen, volumes: tuple[Volume, ...]) -> None:
        """Load the map, and bring in what was staged and counts; the rest is void."""
        new = not self.state.volumes
        self.map = self._make_map(self.state.volumes or volumes)
        if new:
            for one in self.map.volumes:
                one.baseline()
            self.map.sync()
            self.keep(volumes=volumes)
        entries = self._stage.load()
        # What the state already counts may have changed the map in part: it is brought to its end whatever the log
        # holds now (its tail may have been lost since).  Of the rest, what is sealed in the log counts from here on.
        counted = [one for one in entries if one.seal.epoch <= self.state.epoch]
        adopted, offset = adopt(entries[len(counted) :], seen)
        if adopted:
            self.keep(chain=adopted[-1].chain, epoch=adopted[-1].seal.epoch, offset=offset)
        for staged in counted + adopted:
            self.map.apply(staged)
        self.map.sync()
        self._stage.clear()
        await self.follow(volumes)

    async def follow(self, volumes: tuple[Volume, ...]) -> None:
        """Follow the sizes of the source, in place, which only makes blocks unsure.  New volumes stand at the end.

        The block at the edge is marked first, durably.  A smaller size is stored before the map shrinks, a larger one
        after it grew: whatever a crash leaves, the map read with the stored size knows no block that it should not.
        Raises Usage where a volume is not in its place: its number is what all events call it by.
        """
        ours = [one.name for one in self.state.volumes]
        if [one.name for one in volumes[: len(ours)]] != ours:
            names = ", ".join(one.name for one in volumes)
            raise errors.Usage(
                f"stream {self.state.label} has the volumes {', '.join(ours)}, in this order; not {names}"
            )
        if volumes == self.state.volumes:
            return
        await self.settle()
        if len(volumes) > len(ours):
            self._add(volumes[len(ours) :])
        both = list(zip(self.map.volumes, volumes, strict=True))
        for one, volume in both:
            if one.volume.size != volume.size:
                one.mark_edge(volume.size)
                await self._offload(one.sync)
        self.keep(volumes=tuple(_smaller(one.volume, volume) for one, volume in both))
        for one, volume in both:
            if one.volume.size != volume.size:
                one.resize(volume.size)
                await self._offload(one.sync)
        self.keep(volumes=volumes)

    def _add(self, volumes: tuple[Volume, ...]) -> None:
        """Count volumes, each of no bytes at first.  As it grows, every byte of it differs from every cut: until all of
        it has travelled, no replica takes an epoch for a whole one."""
        empty = tuple(replace(one, size=0) for one in volumes)
        # Made of no bytes, the map cuts off what an addition that was not counted has left.  A crash before `keep`: the
        # files are there, and nobody's.
        self.map = self._make_map(self.state.volumes + empty)
        self.map.sync()
        self.keep(volumes=self.state.volumes + empty)

    async def stage(self, staged: Staged) -> None:
        """Durable before the seal is anywhere: whatever seal is found in the log, what it changes is known."""
        await self._offload(self._stage.append, staged)

    async def count(self, staged: Staged, offset: int) -> None:
        """The seal is durable on the bus, and the log goes on at `offset` behind it."""
        # A crash before this: the seal is looked for in the log.  After it: the stage is applied without asking, so
        # that a map that has begun to change always gets to the end of it, even when the log loses its tail.
        self.keep(chain=staged.chain, epoch=staged.seal.epoch, offset=offset)
        await self._offload(self.map.apply, staged)
        if self._stage.size >= STAGED:
            await self.settle()

    async def settle(self) -> None:
        """The map is durable, and only then the stage is empty: what is counted is never applied over later marks."""
        if self._stage.size:
            await self._offload(self.map.sync)
            await self._offload(self._stage.clear)

    async def roots(self, staged: Staged) -> tuple[bytes, ...]:
        """The Merkle roots that hold once `staged` is applied."""
        found: tuple[bytes, ...] = await self._offload(self._roots, staged)
        return found

    def _roots(self, staged: Staged) -> tuple[bytes, ...]:
        return tuple(one.expect([staged], index) for index, one in enumerate(self.map.volumes))

    def begin_rebuild(self) -> None:
        """The map will be made anew.  Its chain is one that no replica has, so each comes in by a compared answer."""
        self.keep(chain=Chain(secrets.token_bytes(32)), rebuilding=True)
        for one in self.map.volumes:
            one.baseline()

    def end_rebuild(self) -> None:
        """The map holds what the source holds."""
        self.map.sync()
        self.keep(rebuilding=False)


def _smaller(one: Volume, other: Volume) -> Volume:
    return one if one.size <= other.size else other
