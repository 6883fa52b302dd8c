"""A source and a replica over memory, in one loop: the real Shipper, the real Replay, and a log to tamper with."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from consumers.block import Target
from consumers.reader import Reader
from consumers.replay import Replay
from engine import envelope
from engine.bus.memory import Gate, MemoryBus, Topic, open_gate
from engine.device.memory import MemoryDevice
from engine.store import replicas
from engine.store.blockmap import BlockMap, MapFiles, VolumeMap
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from engine.store.sources import MemorySourceStore, SourceState
from engine.store.stage import Stage
from engine.store.undo import UndoLog
from producers import post, ship
from producers.source import Unhinted
from schemas import errors as schema_errors
from schemas import events, receipts, wire
from schemas.identity import Address, Cut, Volume

BLOCK = 64
STREAM = b"stream of a test"
OTHER = b"another stream 1"
REPLICA = b"a replica of one"


class Disk(Unhinted):
    """The source: a disk that changes only between passes, so that every cut is one."""

    def __init__(self, size: int) -> None:
        self.device = MemoryDevice(size, 16)
        self.devices = [self.device]

    async def begin(self, cut: bool = True) -> tuple[Volume, ...]:
        return (Volume("vda", self.device.size, BLOCK),)

    async def cut(self) -> Cut:
        return Cut.CRASH

    async def end(self) -> None:
        """Nothing is held."""


@dataclass
class Producer:
    """What survives a producer: copied, it is a clone that thinks it owns the stream."""

    files: dict[str, MemoryFile] = field(default_factory=dict)
    store: MemorySourceStore = field(default_factory=MemorySourceStore)

    def clone(self) -> Producer:
        return copy.deepcopy(self)

    def file(self, name: str) -> MemoryFile:
        return self.files.setdefault(name, MemoryFile())

    def maps(self, volumes: tuple[Volume, ...]) -> BlockMap:
        kinds = ("digests", "known", "prints", "unsure")
        return BlockMap([
            VolumeMap(volume, MapFiles(*(self.file(f"{kind}{at}") for kind in kinds)))
            for at, volume in enumerate(volumes)
        ])  # fmt: skip


class Pair:
    """One stream and one replica of it."""

    def __init__(self, seed: int = 1, size: int = 1000) -> None:
        self.chance = random.Random(seed)
        self.topics = {"stream": Topic(), "receipts": Topic()}
        self.source, self.target = Disk(size), MemoryDevice(0, 16)
        self.producer = Producer()
        self.producer.store.commit(SourceState(STREAM, "tests", 7))
        self.files: dict[str, MemoryFile] = {}
        self.store = replicas.MemoryReplicaStore()
        self.store.create(replicas.State(REPLICA, b"a nonce!", STREAM))
        self.settings = post.Settings(part=8 * BLOCK, answer=1.0, repeat=0.2, batch=100)

    # -- both sides ----------------------------------------------------------------------------------------------

    async def shipper(self, producer: Producer | None = None, gate: Gate = open_gate) -> ship.Shipper:
        """A producer's process, not started yet; its bus is behind `gate`."""
        of, bus = producer or self.producer, MemoryBus(self.topics, gate)
        topic, answers = await bus.open("stream", True), await bus.open("receipts")
        return ship.Shipper(self.source, topic, answers, of.store, Stage(of.file("stage")), of.maps, self.settings)

    async def replay(self) -> Replay:
        """A replica's process, recovered, at its place in the log."""
        bus = MemoryBus(self.topics)

        def leaves(at: int, volume: Volume) -> Leaves:
            return Leaves(volume, self._file(f"digests{at}"), self._file(f"claims{at}"))

        target = Target([self.target], UndoLog(self._file("undo")), leaves)
        records = Reader(STREAM, await bus.open("stream"))
        made = Replay(STREAM, records, await bus.open("receipts", True, shared=True), target, self.store)
        await made.recover()
        await made.locate()
        return made

    def _file(self, name: str) -> MemoryFile:
        return self.files.setdefault(name, MemoryFile())

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """A replica follows the log meanwhile.  What ends it is raised here."""
        task = asyncio.ensure_future(self._follow())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        replay = await self.replay()
        while True:
            await replay.step(1.0)

    async def catch_up(self) -> Replay:
        """A replica's process reads all that the log holds, and is killed."""
        replay = await self.replay()
        while await replay.step(0):
            continue
        return replay

    async def ship(self, shipper: ship.Shipper) -> None:
        """One cut, until the replica has it; a replica that refuses is heard, and served anew."""
        async with asyncio.timeout(20):
            while True:
                await shipper.ship()
                if await shipper.drain(0.5):
                    return
                await shipper.nudge()

    # -- what there is -------------------------------------------------------------------------------------------

    async def change(self, blocks: Sequence[int] = (1, 5, 9)) -> None:
        """The guest writes to these blocks; apart from each other, they travel as an event each."""
        for at in blocks:
            await self.source.device.write(at * BLOCK, self.chance.randbytes(BLOCK))

    @property
    def stream(self) -> Topic:
        return self.topics["stream"]

    @property
    def position(self) -> receipts.Position:
        return self.store.load().position

    def equal(self) -> bool:
        return self.source.device.content() == self.target.content()

    def said(self) -> list[receipts.Receipt]:
        """All receipts, in order."""
        frames = [wire.unpack(record) for record in self.topics["receipts"].records]
        return [wire.receipt(frame.kind, envelope.body(frame))[1] for frame in frames]

    def events(self, first: int = 0) -> list[tuple[Address, events.Event]]:
        """What can be read of the log from record `first` on."""
        found: list[tuple[Address, events.Event]] = []
        for record in self.stream.records[first:]:
            with contextlib.suppress(schema_errors.SchemaError):
                frame, event = envelope.event(record)
                found.append((frame.address, event))
        return found


def record(address: Address, event: events.Event, stream: bytes = STREAM) -> bytes:
    """One record as a producer makes it."""
    return wire.pack_event(stream, address, event)
