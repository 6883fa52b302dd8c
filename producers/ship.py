"""The source's main loop: cuts become epochs, epochs go to the bus, receipts are heard.

Order of effects for one epoch: its events are appended; what it changes in the map is staged, durably; its seal is
appended; the bus makes it durable; the state counts it; the map changes; the stage is emptied.  A crash anywhere
leaves a stage that is counted, and is applied again; or whose seal is in the log, and is adopted; or is void.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from engine import envelope, epoch, errors, ports
from engine.store.blockmap import BlockMap
from engine.store.sources import SourceState, SourceStore
from engine.store.stage import Stage, Staged, StagedBlocks, StagedZeros
from producers import handshake
from producers.pace import Limiter, Peer, Window
from producers.scan import Blocks, Found, Scan
from producers.source import Source
from schemas import errors as schema_errors
from schemas import events, receipts, wire
from schemas.identity import Address, Attempt, Chain, Cut, Volume

log = logging.getLogger("vmferry.ship")
_TRIES = 30
"""Starts in a row without getting through before the stream gives up and says why."""
MapMaker = Callable[[tuple[Volume, ...]], BlockMap]


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be tuned.  Bytes and seconds."""

    part: int = 8 << 20
    "Data in one epoch.  What a killed baseline sends twice is less than this."
    window: int = 128 << 20
    "Bytes in flight: sent, and not yet read by the slowest replica."
    answer: float = 10.0
    "How long replicas have to answer a `Started`."
    repeat: float = 2.0
    "How often `Started` and questions are said again meanwhile."
    lease: float = 60.0
    "A replica that is silent for so long, while others wait for it, is waited for no more."
    batch: int = 2 << 20
    "Bytes handed to the bus at once."
    roots: bool = True
    "Whether seals carry Merkle roots."
    squeeze: wire.Squeeze = envelope.squeeze


@dataclass(slots=True)
class _Part:
    """The epoch that is being written."""

    writer: epoch.Writer
    blocks: list[StagedBlocks]
    zeros: list[StagedZeros]
    size: int = 0
    sure: int = 0
    "Unsure blocks that travel in it."


class Restart(Exception):
    """A replica needs a new `Started`; what is open is left behind."""


class Shipper:
    """One producer of one stream.  `start` first; then `ship` for each cut.  Any FerryError ends it: make a new one."""

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
        self.expect = expect
        self.source = source
        self.settings = settings or Settings()
        self.limiter = limiter or Limiter()
        self.peers: dict[bytes, Peer] = {}
        self.heard: Callable[[bytes, receipts.Receipt], None] = lambda _replica, _receipt: None
        self.sent = 0
        self.scanned = 0
        self.state: SourceState = store.load()
        self._log, self._answers = topic, answers
        self._store, self._stage, self._make_map, self._offload = store, stage, make_map, offload
        self.map = BlockMap([])
        self._window = Window()
        self._part: _Part | None = None
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._commit: asyncio.Task[None] | None = None
        self._volumes: tuple[Volume, ...] = ()
        self._sealed = 0
        self._last_cut = Cut.NONE
        self._fits: tuple[events.Fit, ...] = ()
        self._first = True
        "No epoch was sealed since the last `Started`."
        self._welcome: frozenset[tuple[bytes, bytes]] | None = None
        "(chain, nonce) of the answers that were compared; None while answers are being heard."
        self._started_with: Chain | None = None
        self._answered: dict[bytes, receipts.Answered] = {}
        self._wants_start: dict[bytes, str] = {}
        self._fenced: Attempt | None = None
        self._nodes: dict[int, tuple[bytes, ...]] = {}
        self._request = 0
        self._heard_upto = 0

    # -- start ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raise the attempt and find out where everyone is.

        Raises Transient when a replica that answered never tells its digests, Fenced never: it starts above.
        """
        volumes = await self.source.begin()
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
        await self._drop_part()
        self._heard_upto = (await self._answers.ends())[1]
        # Raised and durable before anything of this attempt is said: no two runs ever share an attempt.
        self._keep(replace(self.state, attempt=Attempt(self.state.attempt.counter + 1, secrets.token_bytes(8))))
        self._welcome, self._answered, self._wants_start, self._fenced = None, {}, {}, None
        self._window, self._first = Window(), True
        for peer in self.peers.values():
            peer.answered, peer.read = False, (0, 0)
        await self._say_started()
        seen = await handshake.read_up_to(self._log, self.state.stream, self.state.offset, self._address(0, 0))
        if seen.newer is not None:
            self._keep(replace(self.state, generation=seen.generation, attempt=Attempt(seen.newer.counter)))
            return False
        await self._take_up(seen, volumes)
        answers = await self._hear_answers()
        if self._fenced is not None:
            self._keep(replace(self.state, attempt=Attempt(self._fenced.counter)))
            return False
        highest = max([self.state.highest, seen.highest, *(one.highest for one in answers.values())])
        peers = tuple(dict.fromkeys((*self.state.peers, *answers)))
        self._keep(replace(self.state, highest=highest, peers=peers))
        # From here on an answer is late: it was not compared, and fits only if it is like one that was.
        others = [events.Fit(one.position.chain, one.nonce) for one in answers.values()]
        self._welcome = frozenset((bytes(fit.chain), fit.nonce) for fit in others)
        self._started_with = None
        await self._resync(answers)
        self._fits = (events.Fit(self.state.chain), *others)
        self._started_with = self.state.chain
        return True

    def _keep(self, state: SourceState) -> None:
        self.state = state
        self._store.commit(state)

    def _address(self, epoch_number: int, seq: int) -> Address:
        return Address(self.state.generation, self.state.attempt, epoch_number, seq)

    async def _say_started(self) -> None:
        record = self._pack(self._address(0, 0), events.Started(self.state.label, self.state.chain))
        await self._log.append([record])
        await self._log.sync()

    async def _take_up(self, seen: handshake.Seen, volumes: tuple[Volume, ...]) -> None:
        """Load the map, and bring in what was staged and is sealed in the log; the rest is void."""
        new = not self.state.volumes
        self.map = self._make_map(self.state.volumes or volumes)
        if new:
            for one in self.map.volumes:
                one.baseline()
            self.map.sync()
            self._keep(replace(self.state, volumes=volumes))
        entries = self._stage.load()
        # What the state already counts may have changed the map in part: it is brought to its end whatever the log
        # holds now (its tail may have been lost since).  Of the rest, what is sealed in the log counts from here on.
        counted = [one for one in entries if one.seal.epoch <= self.state.epoch]
        adopted, offset = handshake.adopt(entries[len(counted) :], seen)
        if adopted:
            last = adopted[-1]
            self._keep(replace(self.state, chain=last.chain, epoch=last.seal.epoch, offset=offset))
        for staged in counted + adopted:
            self.map.apply(staged)
        self.map.sync()
        self._stage.clear()
        await self._follow(volumes)

    async def _follow(self, volumes: tuple[Volume, ...]) -> None:
        """Follow the sizes of the source, in place, which only makes blocks unsure.

        The block at the edge is marked first, durably.  A smaller size is stored before the map shrinks, a larger one
        after it grew: whatever a crash leaves, the map read with the stored size knows no block that it should not.
        """
        if len(volumes) != len(self.state.volumes):
            raise errors.Usage(f"stream {self.state.label} has {len(self.state.volumes)} volumes, not {len(volumes)}")
        if volumes == self.state.volumes:
            return
        both = list(zip(self.map.volumes, volumes, strict=True))
        for one, volume in both:
            if one.volume.size != volume.size:
                one.mark_edge(volume.size)
                await self._offload(one.sync)
        self._keep(replace(self.state, volumes=tuple(_smaller(one.volume, volume) for one, volume in both)))
        for one, volume in both:
            if one.volume.size != volume.size:
                one.resize(volume.size)
                await self._offload(one.sync)
        self._keep(replace(self.state, volumes=volumes))

    async def _hear_answers(self) -> dict[bytes, receipts.Answered]:
        """The answers to our `Started`: of all known replicas, or of those that spoke in time."""
        loop = asyncio.get_running_loop()
        deadline, again = loop.time() + self.settings.answer, loop.time() + self.settings.repeat
        expected = set(self.expect or self.state.peers)
        while loop.time() < deadline and not (self._answered and expected <= self._answered.keys()):
            await self.hear(min(0.25, self.settings.repeat))
            if loop.time() >= again and not (self._answered and expected <= self._answered.keys()):
                await self._say_started()
                again = loop.time() + self.settings.repeat
        for replica in expected - self._answered.keys():
            log.warning("replica %s did not answer within %.0f s", replica.hex()[:8], self.settings.answer)
        return dict(self._answered)

    async def _resync(self, answers: dict[bytes, receipts.Answered]) -> None:
        """Mark as unsure whatever some answering replica does not provably have."""
        if self.state.rebuilding or (
            self.state.chain == bytes(32) and any(claim.blocks for one in answers.values() for claim in one.claims)
        ):
            await self._rebuild()
        for replica, answer in answers.items():
            marked = await handshake.Comparison(self._ask, replica).run(self.map, answer)
            if marked:
                log.info("replica %s differs, or is not proved, in %d blocks", replica.hex()[:8], marked)
        self.map.sync()

    async def _rebuild(self) -> None:
        """The map is lost, the replicas are not: read the source once for its digests, so that only differences travel.

        The chain becomes one that no replica can have, so each of them comes in by an entry that was compared.
        """
        log.warning("the source's map is missing: reading the source to compare digests, nothing is copied for it")
        self._keep(replace(self.state, chain=Chain(secrets.token_bytes(32)), rebuilding=True))
        for index, one in enumerate(self.map.volumes):
            one.baseline()
            async for found in self._scan(index).unsure():
                if isinstance(found, Blocks):
                    one.put(found.first, found.prints, found.digests, sure=True)
                else:
                    one.put_zeros(found.first, found.count, sure=True)
        self.map.sync()
        self._keep(replace(self.state, rebuilding=False))

    def _scan(self, index: int) -> Scan:
        return Scan(index, self.source.devices[index], self.map.volumes[index], self.state.seed, self._offload)

    async def _ask(self, replica: bytes, volume: int, level: int, first: int, count: int) -> tuple[bytes, ...]:
        self._request += 1
        request = self._request
        question = events.Asked(request, replica, volume, level, first, count)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.answer
        while loop.time() < deadline:
            await self._log.append([self._pack(self._address(0, 0), question)])
            await self._log.sync()
            again = loop.time() + self.settings.repeat
            while loop.time() < again:
                await self.hear(min(0.25, self.settings.repeat))
                self._check()
                if request in self._nodes:
                    return self._nodes.pop(request)
        raise errors.Transient(f"replica {replica.hex()[:8]} did not answer about its digests: is its target running?")

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
                return await self._ship_once(always or self._first or self._last_cut is Cut.NONE)
            except Restart as restart:
                why = str(restart)
                log.warning("starting again: %s", why)
                await asyncio.sleep(min(tries, 10) * 0.2)
                await self.start()
        raise errors.Divergence(f"{_TRIES} starts, and each was refused: {why}")

    async def _ship_once(self, always: bool) -> int:
        self._check()
        volumes = await self.source.begin()
        try:
            await self._follow(volumes)
            self._volumes = volumes
            before = self._sealed
            for index in range(len(volumes)):
                async for found in self._scan(index).changed():
                    await self._emit(found, Cut.NONE)
            await self._settle_commit()
            lacking = self.map.missing - (self._part.sure if self._part else 0)
            if self._part is not None or ((always or self._sealed > before) and not lacking):
                await self._seal(await self.source.cut())
                await self._settle_commit()
            for index in range(len(volumes)):
                async for found in self._scan(index).unsure():
                    await self._emit(found, None)
            if self._part is not None:
                await self._seal(await self.source.cut())
            await self._settle_commit()
            return self._sealed - before
        finally:
            await self.source.end()

    async def _emit(self, found: Found, cut: Cut | None) -> None:
        """Put what was found into the open epoch, and seal it when it is large enough.

        `cut` is the consistency of an epoch that ends in the middle; None asks the source.
        """
        part = self._part or await self._open()
        known = self.map.volumes[found.volume]
        size = known.volume.block_size
        count = len(found.prints) // 16 if isinstance(found, Blocks) else found.count
        part.sure += sum(end - start for start, end in known.unsure.set_runs(found.first, count))
        if isinstance(found, Blocks):
            await self._emit_blocks(part, found, size)
        else:
            length = min(count * size, known.volume.size - found.first * size)
            event = events.Zeroed(found.volume, found.first * size, length)
            part.zeros.append(StagedZeros(found.volume, found.first, count))
            await self._append(part.writer.change(event), event)
        if part.size >= self.settings.part:
            await self._seal(cut if cut is not None else await self.source.cut())

    async def _emit_blocks(self, part: _Part, found: Blocks, size: int) -> None:
        step = max(wire.MAX_PAYLOAD // size, 1)
        for at in range(0, len(found.prints) // 16, step):
            digests = found.digests[at * 32 : (at + step) * 32]
            data = bytes(found.data[at * size : (at + step) * size])
            part.blocks.append(
                StagedBlocks(found.volume, found.first + at, found.prints[at * 16 : (at + step) * 16], digests)
            )
            event = events.Written(found.volume, (found.first + at) * size, digests, data)
            part.size += len(data)
            await self._append(part.writer.change(event), event)

    async def _open(self) -> _Part:
        await self.hear(0)
        self._check()
        number = self.state.highest + 1
        self.state = replace(self.state, highest=number)
        writer = epoch.Writer(self.state.generation, self.state.attempt, number, self._volumes, self._fits)
        self._part = _Part(writer, [], [])
        await self._append(writer.next_address(), writer.opened)
        return self._part

    async def _append(self, address: Address, event: events.Event) -> None:
        record: bytes = await self._offload(self._pack, address, event)
        self._pending.append(record)
        self._pending_size += len(record)
        self._window.add(address.epoch, address.seq, len(record))
        if self._pending_size >= self.settings.batch:
            await self._push()

    async def _push(self) -> None:
        """Hand what is pending to the bus, at the pace that limit and window allow."""
        records, self._pending = self._pending, []
        size, self._pending_size = self._pending_size, 0
        if records:
            await self.limiter.take(size)
            await self._log.append(records)
            self.sent += size
            await self._room()

    async def _room(self) -> None:
        """Wait while the slowest replica has more to read than the window."""
        loop = asyncio.get_running_loop()
        await self.hear(0)
        since = loop.time()
        while self._window.behind(self._waited_for()) > self.settings.window:
            # What it has to read must be readable: unsynced records are not.
            await self._log.sync()
            await self.hear(0.25)
            self._check()
            for peer in self._waited_for():
                if loop.time() - max(since, peer.heard) > self.settings.lease:
                    peer.lapsed = True
                    log.warning("replica %s is silent: nothing waits for it any more", peer.replica.hex()[:8])

    def _waited_for(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if peer.answered and not peer.lapsed]

    async def _seal(self, cut: Cut) -> None:
        part = self._part or await self._open()
        self._part = None
        await self._settle_commit()
        missing = self.map.missing - part.sure
        staged = Staged(part.writer.identity, Chain(bytes(32)), self._volumes, tuple(part.blocks), tuple(part.zeros))
        roots: tuple[bytes, ...] = ()
        if self.settings.roots and missing == 0 and cut is not Cut.NONE:
            roots = await self._offload(self._roots, staged)
        seal = part.writer.seal(cut, missing, roots, time.time_ns())
        staged = replace(staged, chain=seal.chain)
        # The stage is durable before the seal is anywhere: whatever seal is found in the log, its changes are known.
        await self._offload(self._stage.append, staged)
        await self._append(part.writer.next_address(), seal)
        await self._push()
        self._fits, self._first, self._last_cut = (events.Fit(seal.chain),), False, cut
        self._sealed += 1
        self._commit = asyncio.ensure_future(self._committed(staged))

    def _roots(self, staged: Staged) -> tuple[bytes, ...]:
        return tuple(one.expect([staged], index) for index, one in enumerate(self.map.volumes))

    async def _committed(self, staged: Staged) -> None:
        """The seal is durable on the bus: only now does the state count it, and then the map changes."""
        end = await self._log.sync()
        # A crash before this: the seal is looked for in the log.  After it: the stage is applied without asking, so
        # that a map that has begun to change always gets to the end of it, even when the log loses its tail.
        self._keep(replace(self.state, chain=staged.chain, epoch=staged.seal.epoch, offset=end))
        await self._offload(self.map.apply, staged)
        await self._offload(self.map.sync)
        await self._offload(self._stage.clear)

    async def _settle_commit(self) -> None:
        commit, self._commit = self._commit, None
        if commit is not None:
            await commit

    async def _drop_part(self) -> None:
        self._part = None
        self._pending, self._pending_size = [], 0
        await self._settle_commit()

    def _pack(self, address: Address, event: events.Event) -> bytes:
        return wire.pack_event(self.state.stream, address, event, self.settings.squeeze)

    # -- receipts ------------------------------------------------------------------------------------------------

    async def hear(self, wait: float) -> None:
        """Take in the receipts that there are, waiting up to `wait` seconds for the first."""
        try:
            entries = await self._answers.read(self._heard_upto, 4 << 20, wait)
        except errors.OffsetGone as gone:
            log.warning("receipts were lost on the bus: %s", gone)
            self._heard_upto = gone.begin if self._heard_upto < gone.begin else gone.end
            return
        for entry in entries:
            self._heard_upto = entry.offset + 1
            try:
                frame = wire.unpack(entry.data)
                if frame.stream == self.state.stream:
                    self._take(frame.address, *wire.receipt(frame.kind, envelope.body(frame)))
            except schema_errors.SchemaError as why:
                log.warning("a receipt at offset %d cannot be read: %s", entry.offset, why)

    def _take(self, about: Address, sender: receipts.Sender, receipt: receipts.Receipt) -> None:
        peer = self.peers.setdefault(sender.replica, Peer(sender.replica))
        peer.nonce, peer.heard = sender.incarnation, asyncio.get_running_loop().time()
        mine = self.state.attempt
        match receipt:
            case receipts.Answered():
                if receipt.attempt == mine:
                    self._take_answer(sender, peer, receipt)
            case receipts.Nodes(request, nodes):
                if about.attempt == mine:
                    self._nodes[request] = nodes
            case receipts.Progress():
                self._window.note(peer, mine, receipt)
                peer.lapsed = False
            case receipts.Applied(position):
                peer.applied = position
            case receipts.Verified(position):
                peer.verified = position
            case receipts.Gap(refused, _, reason) | receipts.Diverged(refused, _, reason):
                if refused.attempt == mine or not refused.attempt.counter:
                    self._wants_start[sender.replica] = reason
            case receipts.Fenced(refused, generation, highest):
                if refused.attempt == mine and (generation, highest.counter) >= (self.state.generation, mine.counter):
                    self._fenced = highest
            case receipts.Rewound():
                self._wants_start[sender.replica] = "it was rewound"
        self.heard(sender.replica, receipt)

    def _take_answer(self, sender: receipts.Sender, peer: Peer, answer: receipts.Answered) -> None:
        peer.answered, peer.lapsed = True, False
        peer.applied = answer.position
        if self._welcome is None:
            # What it asked for before it answered, this start gives it.
            self._wants_start.pop(sender.replica, None)
            self._answered[sender.replica] = answer
            return
        position = answer.position
        known = (bytes(position.chain), answer.nonce) in self._welcome or position.attempt == self.state.attempt
        if not known and position.chain != self._started_with:
            self._wants_start[sender.replica] = "it answered late, from a state that was not compared"

    def _check(self) -> None:
        """Stop, or start again, as receipts asked for."""
        if self._fenced is not None:
            raise errors.Fenced(
                f"another producer has taken over stream {self.state.label}: attempt {self._fenced} is newer than "
                f"{self.state.attempt}.  Stop one of the two"
            )
        for replica, reason in self._wants_start.items():
            raise Restart(f"replica {replica.hex()[:8]}: {reason}")

    async def drain(self, patience: float) -> bool:
        """Wait until every replica has applied the last epoch; True when it has.

        False after `patience` seconds, and when a replica wants a new start: `nudge`, or the next `ship`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while loop.time() < deadline:
            if self.settled():
                return True
            await self.hear(min(0.25, patience))
            if self._wants_start or self._fenced:
                return False
        return self.settled()

    def settled(self) -> bool:
        """Whether every replica that answered has applied the last sealed epoch."""
        answered = self._waited_for()
        return bool(answered) and all(
            peer.applied.epoch == self.state.epoch and peer.applied.chain == self.state.chain for peer in answered
        )

    async def nudge(self) -> None:
        """The last epoch was not answered in time: seal an empty one, so that a lost tail is noticed."""
        if self._wants_start or self._first:
            await self.ship()
            return
        self._volumes = self.state.volumes
        try:
            await self._seal(self._last_cut)
            await self._settle_commit()
        except Restart as why:
            log.warning("starting again: %s", why)
            await self.start()
            await self.ship()

    async def close(self) -> None:
        """Let the commit that is under way end.  Stores and bus stay their owner's.  Repeatable."""
        await self._settle_commit()


def _smaller(one: Volume, other: Volume) -> Volume:
    return one if one.size <= other.size else other
