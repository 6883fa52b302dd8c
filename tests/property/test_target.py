"""Random epochs on a replica's bytes, beside plain byte arrays: what is there, what is claimed, what comes back."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.block import Target, Touched
from engine import digest, merkle
from engine.device.memory import MemoryDevice
from engine.store.leaves import Leaves
from engine.store.memory import MemoryFile
from engine.store.undo import START, UndoLog
from schemas import events
from schemas.identity import GENESIS, Volume
from tests.support.sim.loop import run

BLOCK, SECTOR = 16, 4
SIZES = st.lists(st.integers(0, 8 * BLOCK), min_size=2, max_size=2)
Change = events.Written | events.Zeroed


@dataclass(frozen=True)
class Epoch:
    """Sizes that an epoch takes, and its changes: (volume, start, length, what, seed), brought into range later."""

    sizes: list[int]
    changes: list[tuple[int, int, int, str, int]]
    batches: int


EPOCH = st.builds(
    Epoch,
    SIZES,
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(0, 200),
            st.integers(1, 60),
            st.sampled_from(["write", "same", "zeros", "block", "zero"]),
            st.integers(0, 3),
        ),
        max_size=8,
    ),
    st.integers(1, 3),
)


@dataclass
class Model:
    """Content of both volumes, and which blocks were last written whole."""

    content: list[bytearray] = field(default_factory=lambda: [bytearray(), bytearray()])
    whole: list[set[int]] = field(default_factory=lambda: [set(), set()])

    def copy(self) -> Model:
        return Model([bytearray(one) for one in self.content], [set(one) for one in self.whole])

    def resize(self, sizes: list[int], devices: list[MemoryDevice]) -> None:
        """New bytes are whatever the device has there: a source sends them all, and nothing rests on them before."""
        for at, size in enumerate(sizes):
            old = len(self.content[at])
            if size != old:
                edge = min(size, old) // BLOCK
                self.whole[at] = {block for block in self.whole[at] if block < edge}
            del self.content[at][size:]
            self.content[at].extend(devices[at].content()[len(self.content[at]) : size])

    def put(self, change: Change, data: bytes) -> None:
        content, whole = self.content[change.volume], self.whole[change.volume]
        content[change.start : change.start + len(data)] = data
        end = change.start + len(data)
        blocks = range(change.start // BLOCK, -(-end // BLOCK))
        covered = [at for at in blocks if at * BLOCK >= change.start and min(at * BLOCK + BLOCK, len(content)) <= end]
        if isinstance(change, events.Written) and len(covered) < len(blocks):
            covered = []  # a write that is not of whole blocks claims none
        whole.difference_update(blocks)
        whole.update(covered)


def drawn(model: Model, change: tuple[int, int, int, str, int]) -> tuple[Change, bytes] | None:
    """A change that lies within its volume, and the bytes that it puts there."""
    volume, start, length, what, seed = change
    size = len(model.content[volume])
    if not size:
        return None
    start %= size
    if what == "block":
        start -= start % BLOCK
        length = -(-length // BLOCK) * BLOCK
    length = min(length, size - start)
    ragged = bool(start % BLOCK) or bool((start + length) % BLOCK and start + length != size)
    data = bytes(length) if what in ("zero", "zeros") else random.Random(seed).randbytes(length)
    if what == "same":
        data = bytes(model.content[volume][start : start + length])
    if ragged and what != "zero":
        # Never what is there: taken back, an equal block in it would be claimed no more, which is safe.
        data = random.Random(f"{change} {model.content}").randbytes(length)
    if what == "zero":
        return events.Zeroed(volume, start, length), data
    return events.Written(volume, start, digest.of_pieces(start, data, BLOCK), data), data


@dataclass
class Bench:
    """Two volumes of a replica, over what a power cut leaves of them."""

    def __post_init__(self) -> None:
        self.devices = [MemoryDevice(0, SECTOR), MemoryDevice(0, SECTOR)]
        self.undo = MemoryFile()
        self.files = [[MemoryFile(SECTOR), MemoryFile(SECTOR)] for _ in range(2)]
        self.target = self.process()

    def process(self) -> Target:
        return Target(self.devices, UndoLog(self.undo), self._leaves)

    def _leaves(self, at: int, volume: Volume) -> Leaves:
        digests, claims = self.files[at]
        return Leaves(volume, digests, claims)

    async def begin(self, sizes: list[int]) -> Touched:
        volumes = tuple(Volume(f"vd{at}", size, BLOCK) for at, size in enumerate(sizes))
        return await self.target.begin(events.Open(volumes, (events.Fit(GENESIS),)))

    async def fill(self, one: Epoch, model: Model) -> Touched:
        """Lay an epoch on, on both sides."""
        touched = await self.begin(one.sizes)
        model.resize(one.sizes, self.devices)
        changes: list[Change] = []
        for each in one.changes:
            found = drawn(model, each)
            if found is not None:
                changes.append(found[0])
                model.put(*found)
        step = max(-(-len(changes) // one.batches), 1)
        for at in range(0, len(changes), step):
            await self.target.apply(changes[at : at + step], touched)
        return touched

    def check(self, model: Model) -> None:
        for at, (content, leaves) in enumerate(zip(model.content, self.target.leaves, strict=True)):
            assert self.devices[at].content()[: len(content)] == content
            volume = leaves.volume
            assert volume.size == len(content)
            assert {block for block in range(volume.blocks) if block in leaves.claims} == model.whole[at]
            for block in model.whole[at]:
                data = bytes(content[block * BLOCK : block * BLOCK + BLOCK])
                assert leaves.matches(block, digest.block(data))
            if leaves.claims.count == volume.blocks:
                parts = [bytes(content[start : start + BLOCK]) for start in range(0, len(content), BLOCK)]
                assert leaves.root() == merkle.root((len(part), digest.block(part)) for part in parts)


@settings(deadline=None, max_examples=120)
@given(st.lists(EPOCH, min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 1 << 30))
def test_bytes_and_claims_are_those_of_a_plain_model_and_every_epoch_can_be_taken_back(
    epochs: list[Epoch], group: int, seed: int
) -> None:
    async def main() -> None:
        bench, model = Bench(), Model()
        await bench.begin([0, 0])
        waiting: list[Touched] = []
        marks = [(bench.target.undo.end, model.copy())]
        for one in epochs:
            waiting.append(await bench.fill(one, model))
            bench.check(model)
            marks.append((bench.target.undo.end, model.copy()))
            if len(waiting) >= group:
                await bench.target.flush()
                await bench.target.read_back(waiting)
                waiting.clear()
                await bench.target.fit()
        chance = random.Random(seed)
        end, goal = chance.choice(marks)
        volumes = tuple(Volume(f"vd{at}", len(one), BLOCK) for at, one in enumerate(goal.content))
        await bench.target.restore(end, volumes)
        bench.check(goal)
        await bench.target.flush()
        await bench.target.read_back([])
        await bench.target.restore(end, volumes)
        bench.check(goal)

    run(main())


@settings(deadline=None, max_examples=120)
@given(st.lists(EPOCH, min_size=1, max_size=3), EPOCH, st.integers(0, 1 << 30))
def test_whatever_a_power_cut_leaves_of_an_epoch_the_one_before_comes_back(
    epochs: list[Epoch], lost: Epoch, seed: int
) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        bench, model = Bench(), Model()
        await bench.begin([0, 0])
        for one in epochs:
            touched = await bench.fill(one, model)
        await bench.target.flush()
        await bench.target.read_back([touched])
        end, volumes = bench.target.undo.end, bench.target.volumes
        await bench.fill(lost, model.copy())
        for _ in range(2):
            for device in bench.devices:
                device.lose(chance)
            for file in (bench.undo, *(one for pair in bench.files for one in pair)):
                file.lose(chance)
            bench.target = bench.process()
            bench.target.load(volumes)
            await bench.target.restore(end, volumes)
            bench.check(model)
        await bench.target.flush()
        await bench.target.read_back([])
        bench.target.undo.truncate(end)
        await bench.target.fit()
        bench.check(model)
        assert [device.size for device in bench.devices] == [volume.size for volume in volumes]
        bench.target.load(volumes)
        await bench.begin(lost.sizes)
        model.resize(lost.sizes, bench.devices)
        bench.check(model)
        assert list(UndoLog(bench.undo).newest_first(START)) == list(bench.target.undo.newest_first(START))

    run(main())
