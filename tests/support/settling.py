"""A replica over parts that write down what happens to them, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from consumers.block import Target
from consumers.reader import Reader
from consumers.replay import Replay, Settings
from engine import digest, envelope, epoch, errors
from engine.bus.memory import MemoryLog, Topic
from engine.device.memory import MemoryDevice
from engine.store import replicas
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from engine.store.undo import UndoLog
from schemas import events, receipts, wire
from schemas.identity import GENESIS, Address, Attempt, Cut, Volume

BLOCK = 64
STREAM, REPLICA, NONCE = b"stream of a test", b"a replica of one", b"a nonce!"
ATTEMPT = Attempt(5, b"attempt5")


class Device(MemoryDevice):
    """Notes flushes, reads behind them and resizes; fails a flush when it is told."""

    def __init__(self, order: list[str]) -> None:
        super().__init__(0, 16)
        self.order, self.failing, self.drops = order, False, False
        self.dropping = 0
        "How many of the next writes it says it did, and did not."
        self.full: list[int] = []
        "Which of the next writes find the medium full, counted from 1."

    async def flush(self) -> None:
        self.order.append("flush")
        if self.failing:
            self.fail_flush()
            raise errors.DeviceFailed("flush: I/O error")
        await super().flush()

    async def evict(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.order.append("read back")

    async def write(self, start: int, data: bytes) -> None:
        self.full = [left - 1 for left in self.full]
        if 0 in self.full:
            raise errors.Full("device: no space left")
        if self.dropping:
            self.dropping -= 1
        elif not self.drops:
            await super().write(start, data)

    async def resize(self, size: int) -> None:
        self.order.append(f"resize to {size}")
        await super().resize(size)


class Undo(MemoryFile):
    """Notes when space is given back, at either end."""

    def __init__(self, order: list[str]) -> None:
        super().__init__()
        self.order = order

    def discard(self, start: int, length: int) -> None:
        self.order.append("trim")
        super().discard(start, length)

    def truncate(self, size: int) -> None:
        self.order.append("truncate")
        super().truncate(size)


class Store(replicas.MemoryReplicaStore):
    """Notes transactions; fails one when it is told, with nothing stored."""

    order: list[str]
    failing = False

    def commit(self, update: replicas.Update) -> None:
        self.order.append("intent" if update.state.intent else "commit")
        if self.failing:
            raise errors.Full("state: no room")
        super().commit(update)

    def forget_before(self, epoch: int) -> None:
        self.order.append("forget")
        super().forget_before(epoch)

    def published(self, number: int) -> None:
        self.order.append("published")
        super().published(number)


@dataclass
class Bench:
    """One replica over memory and a log to fill; what it does to the world, in order."""

    settings: Settings = field(default_factory=Settings)
    order: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device, self.undo = Device(self.order), Undo(self.order)
        self.store = Store()
        self.store.order = self.order
        self.store.create(replicas.State(REPLICA, NONCE, STREAM))
        self.digests, self.claims = MemoryFile(), MemoryFile()
        self.stream, self.answers = Topic(), Topic()
        self.away = ""
        self.chain, self.number, self.content = GENESIS, 0, b""
        self.say(Address(1, ATTEMPT, 0, 0), events.Started("test", GENESIS))

    async def gate(self, operation: str, _topic: str) -> None:
        if operation in ("append", "synced"):
            self.order.append("publish" if operation == "append" else "on the bus")
        if operation == self.away:
            raise errors.Transient("the bus is away")

    async def replay(self) -> Replay:
        """A process of the replica, recovered."""
        log = UndoLog(self.undo, self.settings.undo_quota or None)
        target = Target([self.device], log, lambda _, volume: Leaves(volume, self.digests, self.claims))
        source = MemoryLog("stream", self.stream, _open_gate, None)
        answers = MemoryLog("answers", self.answers, self.gate, None)
        replay = Replay(STREAM, Reader(STREAM, source), answers, target, self.store, self.settings)
        await replay.recover()
        await replay.locate()
        self.order.clear()
        return replay

    def say(self, address: Address, event: events.Event) -> None:
        self.stream.add([wire.pack_event(STREAM, address, event)])

    def epoch(
        self,
        content: bytes,
        cut: Cut = Cut.CRASH,
        seal: bool = True,
        roots: Sequence[bytes] = (),
        digests: bytes = b"",
        pieces: int = 1,
        only: int | None = None,
        machines: Sequence[events.Defined] = (),
    ) -> None:
        """One epoch on the log: the volume's whole content, in so many changes; or `only` the block of that number.

        First of all it says what the machine is, where `machines` are given.
        """
        self.number += 1
        volumes = (Volume("vda", len(content), BLOCK),)
        writer = epoch.Writer(1, ATTEMPT, self.number, volumes, (events.Fit(self.chain),))
        self.say(writer.next_address(), writer.opened)
        for machine in machines:
            self.say(writer.change(machine), machine)
        step = len(content) // pieces
        for start in range(0, len(content), step) if only is None else [only * BLOCK]:
            step = step if only is None else BLOCK
            data = content[start : start + step]
            change = events.Written(0, start, digests or digest.of_pieces(0, data, BLOCK), data)
            self.say(writer.change(change), change)
        if seal:
            said = writer.seal(cut, 0, tuple(roots), 7)
            self.say(writer.next_address(), said)
            self.chain, self.content = said.chain, content

    async def read(self, replay: Replay) -> None:
        while await replay.step(0):
            continue

    def said(self) -> list[tuple[int, receipts.Receipt]]:
        """All receipts but progress, with their numbers."""
        frames = [wire.unpack(record) for record in self.answers.records]
        found = [wire.receipt(frame.kind, envelope.body(frame)) for frame in frames]
        return [(who.number, said) for who, said in found if not isinstance(said, receipts.Progress)]

    @property
    def position(self) -> receipts.Position:
        return self.store.load().position


async def _open_gate(_operation: str, _topic: str) -> None:
    return None


def fill(letter: bytes, blocks: int = 4) -> bytes:
    return letter * (BLOCK * blocks)


def told(bench: Bench, kind: type[receipts.Receipt]) -> list[int]:
    """The epochs of which receipts of a kind speak."""
    words: list[Any] = [one for _, one in bench.said() if isinstance(one, kind)]
    return [one.position.epoch for one in words]


async def caught_up(*contents: bytes, settings: Settings | None = None) -> tuple[Bench, Replay]:
    bench = Bench(settings or Settings())
    for content in contents:
        bench.epoch(content)
    replay = await bench.replay()
    await bench.read(replay)
    bench.order.clear()
    return bench, replay
