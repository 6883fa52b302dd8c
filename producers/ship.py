"""The source's main loop: cuts become epochs, epochs go to the bus, receipts are heard.

What a crash leaves at each step of an epoch is written in producers/ledger.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace

from engine import epoch, errors, ports
from engine.store.blockmap import BlockMap
from engine.store.sources import SourceState, SourceStore
from engine.store.stage import Stage, Staged
from producers import parts, scan
from producers.ear import Ear, Restart
from producers.ledger import Ledger, MapMaker
from producers.pace import Limiter, Peer
from producers.parts import Part
from producers.post import NAP, Post, Settings
from producers.scan import Blocks, Found, Scan
from producers.source import Source
from producers.start import Start
from schemas import events, receipts, wire
from schemas.extent import Ranges
from schemas.identity import Address, Chain, Cut, Volume

log = logging.getLogger("vmferry.ship")
_TRIES = 30
"""Starts in a row without getting through before the stream gives up and says why."""


class Shipper:
    """One producer of one stream.  `start` first; then `ship` for each cut.  Any FerryError ends it: make a new one.

    `expect` are the replicas whose answers a start waits for; without them those that answered before.
    """

    def __init__(
        self,
        source: Source,
        topic: ports.Log,
        answers: ports.Log,
        store: SourceStore,
        stage: Stage,
        make_map: MapMaker,
        settings: Settings | None = None,
        offload: ports.Offload = ports.inline,
        limiter: Limiter | None = None,
        expect: frozenset[bytes] = frozenset(),
    ) -> None:
        self.source = source
        self.settings = settings or Settings()
        self._part_size = self.settings.part
        self.limiter = limiter or Limiter()
        self.ledger = Ledger(store, stage, make_map, offload)
        self.ear = Ear(self.state.stream, self.state.label, answers)
        self.post = Post(self.state.stream, topic, self.ear, self.settings, self.limiter, offload)
        self._log, self._offload = topic, offload
        self._start = Start(topic, self.ledger, self.ear, self.post, self.settings, self._scan, expect)
        self._part: Part | None = None
        self._commit: asyncio.Task[None] | None = None
        self._volumes: tuple[Volume, ...] = ()
        self._sealed = 0
        self.last_cut, self._last_instant = Cut.NONE, 0
        self.current: tuple[int, float] | None = None
        "The last epoch that holds a consistent cut of the source whole, and when it was cut, in loop time."
        self._fits: tuple[events.Fit, ...] = ()
        self._first = True
        "No epoch was sealed since the last `Started`."
        self._defined: events.Defined | None = None
        "The machine that the replicas know of since then."
        self.trimmed = 0
        "Records before this offset are gone."
        self.before_epoch: Callable[[], Awaitable[None]] | None = None
        "Called before an epoch is opened, while nothing of it is on the bus."

    @property
    def state(self) -> SourceState:
        return self.ledger.state

    @property
    def map(self) -> BlockMap:
        return self.ledger.map

    @property
    def sent(self) -> int:
        """Bytes handed to the bus."""
        return self.post.sent

    @property
    def peers(self) -> dict[bytes, Peer]:
        return self.ear.peers

    def bound(self, total: int) -> None:
        """Let parts be small beside `total`, the bytes of data at the source; few bytes may well travel twice."""
        self._part_size = parts.bound(total, self.settings.part)

    async def history(self) -> bool:
        """Whether anything was ever said on the stream's log."""
        return (await self._log.ends())[1] > 0

    # -- start ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raise the attempt and find out where everyone is.

        Raises Transient when a replica that answered never tells its digests, Fenced never: it starts above.
        """
        volumes = await self.source.begin(cut=False)
        try:
            for tries in range(_TRIES):
                try:
                    if await self._start_once(volumes):
                        return
                    log.info("a newer attempt was seen: starting above it")
                except Restart as why:
                    log.warning("starting again: %s", why)
                await asyncio.sleep(0.1 * tries)
            raise errors.Transient(f"stream {self.state.label}: {_TRIES} starts, and each was overtaken")
        finally:
            await self.source.end()

    async def _start_once(self, volumes: tuple[Volume, ...]) -> bool:
        self._part = None
        await self.post.drop()
        await self._settle_commit()
        self._first, self._defined = True, None
        self._fits = await self._start.once(volumes)
        return bool(self._fits)

    def _address(self) -> Address:
        return Address(self.state.generation, self.state.attempt, 0, 0)

    def _scan(self, index: int) -> Scan:
        return Scan(index, self.source.devices[index], self.map.volumes[index], self.state.seed, self._offload)

    # -- epochs --------------------------------------------------------------------------------------------------

    async def ship(self, always: bool = False) -> int:
        """Bring one cut of the source to the bus: what changed first, then what some replica may lack.

        Starts again by itself when a replica asks for it.  Gives how many epochs were sealed; `always` seals one even
        when nothing changed, as the first cut after a start does.  Do so now and then: such a heartbeat proves anew
        that both sides are equal, and whoever's last word was lost with a tail of the bus answers to it.  Raises
        Fenced when a newer producer took the stream.
        """
        why = ""
        for tries in range(_TRIES):
            try:
                return await self._ship_once(always or self._first or self.last_cut is Cut.NONE)
            except Restart as restart:
                why = str(restart)
                log.warning("starting again: %s", why)
                await asyncio.sleep(min(tries, 10) * 0.2)
                await self.start()
        raise errors.Divergence(f"{_TRIES} starts, and each was refused: {why}")

    async def _ship_once(self, always: bool) -> int:
        self.ear.check()
        volumes = await self.source.begin()
        try:
            await self.ledger.follow(volumes)
            self._volumes = volumes
            before, hints = self._sealed, await self._hints()
            if (step := self.source.step()) is not None:
                await self.say(step)
            always = always or self.source.machine not in (None, self._defined)
            for index, hint in enumerate(hints):
                await self._emit_all(self._scan(index).changed(hint), Cut.NONE)
            await self._settle_commit()
            lacking = self.map.missing - (self._part.sure if self._part else 0)
            if self._part is not None or ((always or self._sealed > before) and not lacking):
                await self._seal()
                await self._settle_commit()
            for index in range(len(volumes)):
                await self._emit_all(self._scan(index).unsure(), None)
            if self._part is not None:
                await self._seal()
            await self._settle_commit()
            await self.ledger.settle()
            # Only now: a crash before this, and the next hints name once more what was sent already.
            await self.source.kept()
            return self._sealed - before
        finally:
            await self.source.end()

    async def _hints(self) -> Sequence[Ranges | None]:
        """The source's hints, unless some block that they do not name has changed: then all is read, and said so."""
        hints = await self.source.hints()
        chance = random.Random(self.state.seed + self.state.highest)  # which blocks is no guest's to know
        for index, hint in enumerate(hints):
            blocks = self._volumes[index].blocks
            if hint is not None and blocks:
                chosen = sorted({chance.randrange(blocks) for _ in range(self.settings.sample)})
                block = await self._scan(index).unhinted(hint, chosen)
                if block is not None:
                    why = f"block {block:,} of {self._volumes[index].name} changed, and was called clean"
                    log.warning("%s: everything is read", why)
                    await self.source.distrust(why)
                    return [None] * len(hints)
        return hints

    async def nudge(self) -> None:
        """The last epoch was not answered in time: seal an empty one, so that a lost tail is noticed."""
        if self.ear.wants_start or self._first:
            await self.ship()
            return
        self._volumes = self.state.volumes
        try:
            await self._seal(self.last_cut, self._last_instant)
            await self._settle_commit()
        except Restart as why:
            log.warning("starting again: %s", why)
            await self.start()
            await self.ship()

    async def _emit_all(self, scanned: AsyncGenerator[Found, None], cut: Cut | None) -> None:
        async with contextlib.aclosing(scanned) as walk:
            async for found in walk:
                await self._emit(found, cut)

    async def _emit(self, found: Found, cut: Cut | None) -> None:
        """Put what was found into open epochs, each sealed when it is large enough.

        `cut` is the consistency of an epoch that ends in the middle; None asks the source.
        """
        known = self.map.volumes[found.volume]
        for piece in scan.pieces(
            found, known.volume.block_size, min(max(self._part_size, parts.LEAST), wire.MAX_PAYLOAD)
        ):
            if self._part is not None and self._part.size + parts.size(piece) > self._part_size:
                await self._seal(cut)
            part = self._part or await self._open()
            count = len(piece.prints) // 16 if isinstance(piece, Blocks) else piece.count
            part.sure += sum(end - start for start, end in known.unsure.set_runs(piece.first, count))
            change = part.put(piece, known.volume)
            await self.post.add(part.writer.change(change), change)
            if part.size >= self._part_size:
                await self._seal(cut)

    async def _open(self) -> Part:
        await self.hear(0)
        self.ear.check()
        if self.before_epoch is not None:
            await self.before_epoch()
        number = self.ledger.number()
        writer = epoch.Writer(self.state.generation, self.state.attempt, number, self._volumes, self._fits)
        self._part = Part(writer)
        await self.post.add(writer.next_address(), writer.opened)
        machine = self.source.machine
        if machine is not None and machine != self._defined:
            self._defined = machine
            await self.post.add(writer.change(machine), machine)
        return self._part

    async def _seal(self, cut: Cut | None = None, instant: int = 0) -> None:
        """End the open epoch, or an empty one.  Without `cut` the source is asked, and `instant` is now."""
        part = self._part or await self._open()
        self._part = None
        await self._settle_commit()
        # The clock is read first: what is called equal to the source at an instant was so at that instant.
        # An empty epoch behind the last one is no newer than that one.
        at = self.current[1] if instant and self.current else asyncio.get_running_loop().time()
        instant = instant or time.time_ns()
        cut = cut if cut is not None else await self.source.cut()
        missing = self.map.missing - part.sure
        number = part.writer.identity.epoch
        identity, blocks, zeros = part.writer.identity, tuple(part.blocks), tuple(part.zeros)
        staged = Staged(identity, Chain(bytes(32)), self._volumes, blocks, zeros)
        whole = self.settings.roots and missing == 0 and cut is not Cut.NONE
        seal = part.writer.seal(cut, missing, await self.ledger.roots(staged) if whole else (), instant)
        staged = replace(staged, chain=seal.chain)
        # Its changes may be on their way already; the seal goes only once the stage is durable.
        await self.ledger.stage(staged)
        await self.post.add(part.writer.next_address(), seal)
        sent = await self.post.hand_over()
        self._fits, self._first = (events.Fit(seal.chain),), False
        self.last_cut, self._last_instant = cut, instant
        if cut is not Cut.NONE and not missing:
            self.current = number, at
        self._sealed += 1
        self._commit = asyncio.ensure_future(self._committed(staged, sent))

    async def _committed(self, staged: Staged, sent: asyncio.Future[None]) -> None:
        """Once the seal is durable on the bus it counts."""
        await asyncio.shield(sent)
        await self.ledger.count(staged, await self._log.sync())

    async def _settle_commit(self) -> None:
        commit, self._commit = self._commit, None
        if commit is not None:
            await commit

    # -- receipts ------------------------------------------------------------------------------------------------

    async def hear(self, wait: float) -> None:
        """Take in the receipts that there are, waiting up to `wait` seconds for the first."""
        await self.ear.hear(wait)

    def on_receipt(self, told: Callable[[bytes, receipts.Receipt], None]) -> None:
        """Have `told` called with (replica, receipt) for each receipt heard."""
        self.ear.heard = told

    async def drain(self, patience: float) -> bool:
        """Wait until every replica has applied the last epoch; True when it has.

        False after `patience` seconds, and when a replica wants a new start: `nudge`, or the next `ship`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while loop.time() < deadline:
            if self.settled():
                return True
            await self.hear(min(NAP, patience))
            if self.ear.wants_start or self.ear.fenced:
                return False
        return self.settled()

    def settled(self) -> bool:
        """Whether every replica that answered has applied the last sealed epoch."""
        here = self.state.epoch, self.state.chain
        answered = self.ear.waited_for()
        return bool(answered) and all((peer.applied.epoch, peer.applied.chain) == here for peer in answered)

    async def say(self, word: events.Word) -> bool:
        """Say it durably, between two epochs.  False, and nothing was said, while one is open."""
        await self._settle_commit()
        if between := self.post.between:
            await self.post.say(self._address(), word)
        return between

    async def trim_to(self, offset: int) -> None:
        """Let go of the records before `offset`, which is behind a seal.  To be called by producers/lease.py only."""
        await self._log.trim(offset)
        self.trimmed = offset

    async def close(self) -> None:
        """Let what is under way end; what becomes of it is found in the log.  Stores and bus stay their owner's.

        Repeatable.  Raises nothing, so that what ended the run is what is told.
        """
        await self.post.close()
        commit, self._commit = self._commit, None
        if commit is not None:
            await asyncio.wait((commit,))
            if not commit.cancelled() and (problem := commit.exception()) is not None:
                log.info("the last epoch was sealed, and not seen to be durable: %s", problem)
