"""A small world: one guest, one bus that forgets, one producer with its zombies, one or two replicas, and bad luck.

The code under test is the real one; only devices, files, stores and the bus are of memory.  Everything follows from
the seed.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from consumers.block import Target
from consumers.reader import Reader
from consumers.replay import Replay
from consumers.replay import Settings as ReplaySettings
from engine import digest, errors
from engine.bus.memory import MemoryBus, Topic
from engine.device.memory import MemoryDevice
from engine.store import replicas
from engine.store.blockmap import BlockMap, MapFiles, VolumeMap
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from engine.store.sources import SourceState
from engine.store.stage import Stage
from engine.store.undo import UndoLog
from producers import lease
from producers.post import Settings as ShipSettings
from producers.retain import Retain
from producers.ship import Shipper
from schemas import events
from schemas.identity import Volume
from schemas.receipts import Position
from tests.support.sim import guest
from tests.support.sim.guest import BLOCK, SECTOR, Guest
from tests.support.sim.kept import ReplicaDisk, SourceDisk
from tests.support.sim.oracle import Oracle, Violation
from tests.support.sim.plan import Plan
from tests.support.sim.process import Crash, Faults, Process, SimDevice, SimFile, SimReplicaStore, SimSourceStore
from tests.support.sim.topic import SimLog, WatchedTopic

STREAM = b"sim-stream-00001"


class Runner:
    """Keeps one role running: when it dies, what it had unsynced is lost, and it is started again."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.process = Process(world.chance, None)
        self.task: asyncio.Task[None] | None = None

    def start(self, main: Coroutine[Any, Any, None], process: Process) -> None:
        self.process = process
        self.task = asyncio.ensure_future(main)

    async def stop(self) -> None:
        """Kill it now."""
        self.process.alive = False
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def ended(self) -> bool:
        """Whether it is gone.  Raises what must not have happened."""
        if self.task is None or not self.task.done():
            return self.task is None
        if self.task.cancelled():
            return True
        problem = self.task.exception()
        if problem is not None and not isinstance(problem, Crash | errors.FerryError):
            raise problem
        return True


class World:
    """One seed."""

    def __init__(self, seed: int, plan: Plan | None = None) -> None:
        self.chance = random.Random(seed)
        self.plan = plan or Plan.of(self.chance)
        self.oracle = Oracle()
        self.duplicating = self.plan.duplicates
        self.guest = Guest(self.plan, self.chance)
        self.topics: dict[str, Topic] = {
            name: WatchedTopic(self.oracle, self.chance, lambda: self.duplicating) for name in ("stream", "receipts")
        }
        self.source = SourceDisk()
        self.source.store.commit(SourceState(STREAM, "sim", self.chance.getrandbits(60)))
        self.backup: SourceDisk | None = None
        self.replicas = [self._new_replica(at) for at in range(self.plan.replicas)]
        self.producer = Runner(self, "producer")
        self.runners = [Runner(self, f"replica {at}") for at in range(self.plan.replicas)]
        self.zombies: list[asyncio.Task[None]] = []
        self.calm = False
        self.positions: dict[bytes, Any] = {}

    def _new_replica(self, at: int) -> ReplicaDisk:
        disk = ReplicaDisk(b"replica-" + b"%08d" % at, [])
        self._new_store(disk)
        return disk

    def _new_store(self, disk: ReplicaDisk) -> None:
        disk.files = {}
        disk.store.create(replicas.State(disk.name, self.chance.randbytes(8), STREAM))
        self.oracle.fresh(disk.name)

    # -- roles ---------------------------------------------------------------------------------------------------

    def _process(self, longest: float = 0.02) -> Process:
        doomed = not self.calm and self.chance.random() < self.plan.crashes
        return Process(self.chance, self.chance.randrange(1, 500) if doomed else None, longest)

    def _bus(self, process: Process) -> MemoryBus:
        async def gate(operation: str, topic: str) -> None:
            await process.pause()
            if not self.calm and operation == "synced" and process.chance.random() < 0.05 * self.plan.lost_tails:
                self._lose_tail(self.topics[topic], 4)
            if (
                not self.calm
                and operation in ("append", "sync", "synced")
                and process.chance.random() < self.plan.transient
            ):
                raise errors.Transient(f"{operation} on {topic}: the broker is away")

        return MemoryBus(self.topics, gate)

    def shipper(self, disk: SourceDisk, process: Process, log: Any, answers: Any) -> Shipper:
        def file(name: str) -> SimFile:
            return SimFile(disk.files.setdefault(name, MemoryFile(SECTOR)), process)

        def make_map(volumes: tuple[Volume, ...]) -> BlockMap:
            return BlockMap([
                VolumeMap(volume, MapFiles(*(file(f"{kind}{at}") for kind in ("digests", "known", "prints", "unsure"))))
                for at, volume in enumerate(volumes)
            ])  # fmt: skip

        settings = ShipSettings(
            part=3 * BLOCK, window=900, answer=4.0, repeat=1.0, lease=8.0, batch=200, roots=self.plan.roots,
            sample=0,  # of ten blocks it would find every lie
        )  # fmt: skip
        return Shipper(
            guest.source(self.plan, self.guest, self.oracle, process, disk.anchor), log, answers,
            SimSourceStore(disk.store, process), Stage(file("stage")), make_map, settings,
        )  # fmt: skip

    async def produce(self, disk: SourceDisk, process: Process) -> None:
        bus, clock = self._bus(process), asyncio.get_running_loop().time
        log = SimLog(await bus.open("stream", True), lambda upto: self.oracle.trims(upto, disk.store.load().peers))
        shipper = self.shipper(disk, process, log, await bus.open("receipts"))
        retain = Retain(None, 0.0, self.plan.cap, clock)

        async def trim() -> None:
            if self.plan.cap and not self.calm:
                await retain.trim(shipper, clock())
            elif process.chance.random() < 0.3:
                await lease.trim_applied(shipper)

        say: Any = shipper.say
        shipper.before_epoch = trim
        await shipper.start()
        while True:
            if self.guest.changes % 4 == 1:
                await say(events.Stepped(events.Rung.SCAN, "the bitmap is gone", 0))
            # One cut in ten is a heartbeat: sealed though nothing changed but, perhaps, the machine.
            await shipper.ship(always=process.chance.random() < (0.5 if self.calm else 0.1))
            if process.chance.random() < self.plan.outrun and not self.calm:
                pass
            elif not await shipper.drain(6.0):
                await shipper.nudge()
            await trim()
            await asyncio.sleep(process.chance.random())

    async def replay(self, disk: ReplicaDisk, process: Process) -> Replay:
        bus = self._bus(process)
        faults = Faults(self.chance, *((0.0, 0.0) if self.calm else (self.plan.drop, self.plan.fail_flush)))

        def file(name: str) -> SimFile:
            return SimFile(disk.files.setdefault(name, MemoryFile(SECTOR)), process)

        def make_leaves(at: int, volume: Volume) -> Leaves:
            return Leaves(volume, file(f"digests{at}"), file(f"claims{at}"))

        store = SimReplicaStore(disk.store, process, lambda update: self.oracle.committed(disk.name, update))
        devices = [SimDevice(device, process, faults) for device in disk.devices]
        target = Target(devices, UndoLog(file("undo"), self.plan.quota or None), make_leaves)
        reader = Reader(STREAM, await bus.open("stream"), limit=400)
        return Replay(
            STREAM, reader, await bus.open("receipts", True, shared=True), target, store,
            ReplaySettings(group=5 * BLOCK, progress=300, keep=3, undo_quota=self.plan.quota),
        )  # fmt: skip

    async def consume(self, disk: ReplicaDisk, process: Process) -> None:
        replay = await self.replay(disk, process)
        await replay.recover()
        self._check(disk, replay)
        await replay.locate()
        while True:
            await replay.step(1.0)
            self.positions[disk.name] = replay.state.position

    async def rewind(self, disk: ReplicaDisk, process: Process) -> None:
        """What an operator does: stop, rewind to some kept epoch, look, resume."""
        replay = await self.replay(disk, process)
        await replay.recover()
        self._check(disk, replay)
        kept = [one.position.epoch for one in replay.store.kept() if one.position.usable]
        if kept:
            await replay.rewind(replay.retention.goal(process.chance.choice(kept)))
            self._check(disk, replay)

    def _check(self, disk: ReplicaDisk, replay: Replay) -> None:
        position = replay.state.position
        machine = replay.store.definition(position.epoch)
        self.oracle.check(disk.name, position, [device.content() for device in disk.devices], machine)

    # -- luck ----------------------------------------------------------------------------------------------------

    def _lose(self, files: dict[str, MemoryFile], devices: list[MemoryDevice]) -> None:
        if self.chance.random() < self.plan.power:
            for file in files.values():
                file.lose(self.chance)
            for device in devices:
                device.lose(self.chance)

    def _start_producer(self) -> None:
        process = self._process()
        self.producer.start(self.produce(self.source, process), process)

    def _tend(self) -> None:
        """Start again whatever has died."""
        if self.producer.ended():
            self._lose(self.source.files, [])
            self._start_producer()
        for at, runner in enumerate(self.runners):
            if runner.ended():
                disk = self.replicas[at]
                # What its source has by now is made room for before it is opened: until then it refuses.
                for _ in self.guest.disks[len(disk.devices) :]:
                    disk.devices.append(MemoryDevice(0, SECTOR))
                self._lose(disk.files, disk.devices)
                process = self._process(self.plan.slow)
                state = disk.store.load()
                if state.held and not state.intent:
                    # The operator resumes what was rewound.
                    disk.store.disk.state = replace(state, held="")
                rewinding = state.intent is None and not self.calm and self.chance.random() < self.plan.rewinds
                main = self.rewind if rewinding else self.consume
                runner.start(main(disk, process), process)

    async def _misfortune(self) -> None:
        plan, chance = self.plan, self.chance
        if chance.random() < 0.7:
            await self.guest.change()
        if chance.random() < plan.plugs and len(self.guest.disks) < plan.volumes + 2:
            await self.guest.plug()
        if chance.random() < plan.lost_tails:
            for topic in self.topics.values():
                self._lose_tail(topic, 12)
        if chance.random() < plan.zombies:
            await self._clone()
        if chance.random() < plan.restores:
            self.backup, old = copy.deepcopy(self.source), self.backup
            if old is not None:
                await self.producer.stop()
                self.source = old
        if chance.random() < plan.lost_stores:
            await self._lose_store()
        for runner in (self.producer, *self.runners):
            if chance.random() < 0.1 * plan.crashes:
                await runner.stop()

    def _lose_tail(self, topic: Topic, most: int) -> None:
        lost = self.chance.randrange(0, min(len(topic.records), most) + 1)
        del topic.records[len(topic.records) - lost :]

    async def _clone(self) -> None:
        """The producer lives on over a copy of its state, and another one is started over the original."""
        if self.producer.task is not None and self.producer.process.alive:
            old = self.producer.task
            self.zombies.append(old)
            self.source = copy.deepcopy(self.source)
            self.producer.task = None

    async def _lose_store(self) -> None:
        if self.chance.random() < 0.5:
            await self.producer.stop()
            state = self.source.store.load()
            self.source = SourceDisk()
            self.source.store.commit(SourceState(STREAM, "sim", state.seed))
        else:
            at = self.chance.randrange(len(self.replicas))
            await self.runners[at].stop()
            disk = self.replicas[at]
            self._new_store(disk)
            if self.chance.random() < 0.5:
                self._adopt(disk)

    def _adopt(self, disk: ReplicaDisk) -> None:
        """The store is lost and the disk is not: its blocks are claimed as they are read."""
        volumes = tuple(Volume(f"vd{at}", device.size, BLOCK) for at, device in enumerate(disk.devices))
        for device in disk.devices:
            device.lose(self.chance)  # claimed is what the medium holds, not what a cache does
        for at, volume in enumerate(volumes):
            content = disk.devices[at].content()
            digests, claims = (
                disk.files.setdefault(f"{kind}{at}", MemoryFile(SECTOR)) for kind in ("digests", "claims")
            )
            leaves = Leaves(volume, digests, claims)
            if content:
                leaves.write(0, digest.of_pieces(0, content, BLOCK))
            leaves.sync()
        position = replace(Position(), volumes=volumes)
        disk.store.create(replace(disk.store.load(), position=position))
        self.oracle.adopted(disk.name, position, [device.content() for device in disk.devices])

    async def live(self) -> None:
        """The whole life of a seed: bad luck for a while, then none, and all must become equal."""
        try:
            late = self.chance.randrange(self.plan.ticks) if self.chance.random() < self.plan.late else 0
            for tick in range(self.plan.ticks):
                self._tend_all(tick >= late)
                await asyncio.sleep(self.chance.random() * 3)
                await self._misfortune()
            await self._calm_down()
        finally:
            for runner in (self.producer, *self.runners):
                await runner.stop()
            for zombie in self.zombies:
                zombie.cancel()
            await asyncio.gather(*self.zombies, return_exceptions=True)

    def _tend_all(self, second: bool) -> None:
        kept = self.runners
        self.runners = kept if second else kept[:1]
        self._tend()
        self.runners = kept
        for zombie in self.zombies:
            if zombie.done() and not zombie.cancelled():
                problem = zombie.exception()
                if problem is not None and not isinstance(problem, Crash | errors.FerryError):
                    raise problem

    async def _calm_down(self) -> None:
        self.calm, self.duplicating = True, 0.0
        self.producer.process.countdown = None
        for runner in self.runners:
            runner.process.countdown = None
        for _ in range(60):
            self._tend_all(True)
            await asyncio.sleep(3)
            if self._equal():
                return
        raise Violation(f"not equal after 180 s without faults: {self.describe()}")

    def _equal(self) -> bool:
        if not all(zombie.done() for zombie in self.zombies):
            return False
        wanted = self.guest.key()
        for disk in self.replicas:
            position = disk.store.load().position
            path = self.oracle.paths[disk.name]
            if not position.usable or path[-1][1].key() != wanted or path[-1][1].machine != self.guest.machine:
                return False
            if [bytes(one) for one in wanted] != [one.content() for one in disk.devices]:
                return False
        return True

    def describe(self) -> str:
        state = self.source.store.load()
        lines = [
            f"plan {self.plan}",
            f"source epoch {state.epoch} chain {state.chain.hex()[:8]} attempt {state.attempt}",
        ]
        for disk in self.replicas:
            held, one = disk.store.load().held, disk.store.load().position
            lines.append(
                f"{disk.name!r} at {one.seal} chain {one.chain.hex()[:8]} usable {one.usable} "
                f"complete {one.complete} missing {one.missing} held {held!r}"
            )
        return "\n".join(lines)
