"""A stream gets a disk: what its source's map says of it, at every moment that a crash may come."""

from __future__ import annotations

import pytest

from engine import errors
from engine.store.blockmap import NO_PRINT, BlockMap, MapFiles, VolumeMap
from engine.store.memory import MemoryFile
from engine.store.sources import MemorySourceStore, SourceState
from engine.store.stage import Stage
from producers.handshake import Seen
from producers.ledger import Ledger
from schemas.identity import Volume

BLOCK = 64
VDA, VDB = Volume("vda", 4 * BLOCK, BLOCK), Volume("vdb", 3 * BLOCK, BLOCK)


class Cut(Exception):
    """The power went."""


class Store(MemorySourceStore):
    """Dies at the commit that it is told, with nothing stored."""

    def __init__(self) -> None:
        super().__init__()
        self.left = -1

    def commit(self, state: SourceState) -> None:
        if self.left == 0:
            raise Cut
        self.left -= 1
        super().commit(state)


class Bench:
    """The files of a source; `ledger` is a process over them."""

    def __init__(self) -> None:
        self.files: dict[str, MemoryFile] = {}
        self.store = Store()
        self.store.commit(SourceState(b"s" * 16, "web", 1))

    def _map(self, volumes: tuple[Volume, ...]) -> BlockMap:
        kinds = "digests", "known", "prints", "unsure"
        return BlockMap([
            VolumeMap(one, MapFiles(*(self.files.setdefault(f"{at}.{kind}", MemoryFile()) for kind in kinds)))
            for at, one in enumerate(volumes)
        ])  # fmt: skip

    async def ledger(self, *volumes: Volume) -> Ledger:
        self.store.left = -1
        found = Ledger(self.store, Stage(self.files.setdefault("stage", MemoryFile())), self._map)
        await found.take_up(Seen(), volumes)
        return found

    async def travelled(self) -> Ledger:
        """One disk, all of which every replica has."""
        found = await self.ledger(VDA)
        found.map.volumes[0].put(0, b"p" * 64, b"d" * 128, sure=True)
        found.map.sync()
        assert found.map.missing == 0
        return found


def all_differs(found: Ledger) -> bool:
    """Whether the new disk differs from every cut, and the first is as it was."""
    first, second = found.map.volumes
    return (
        second.prints(0, 3) == NO_PRINT * 3 and second.known.count == second.unsure.count == 3
        and first.prints(0, 4) == b"p" * 64 and first.unsure.count == 0
    )  # fmt: skip


async def test_a_disk_that_comes_differs_from_every_cut_and_the_others_stay_as_they_are() -> None:
    found = await (bench := Bench()).travelled()
    await found.follow((VDA, VDB))
    assert found.state.volumes == (VDA, VDB)
    assert all_differs(found)
    assert all_differs(await bench.ledger(VDA, VDB)), "and so it is stored"


async def test_it_may_come_while_nobody_looks() -> None:
    bench = Bench()
    await bench.travelled()
    assert all_differs(await bench.ledger(VDA, VDB))


@pytest.mark.parametrize("left", range(3))
async def test_a_power_cut_on_the_way_costs_nothing(left: int) -> None:
    found = await (bench := Bench()).travelled()
    bench.store.left = left
    with pytest.raises(Cut):
        await found.follow((VDA, VDB))
    for file in bench.files.values():
        assert not file.size() or file.read(0, 1), "what is there can be read"
    assert all_differs(await bench.ledger(VDA, VDB))


async def test_what_an_addition_that_was_never_counted_has_left_is_no_part_of_the_next() -> None:
    found = await (bench := Bench()).travelled()
    for kind in ("known", "unsure"):
        bench.files[f"1.{kind}"] = MemoryFile()
        bench.files[f"1.{kind}"].write(0, b"\0")
    bench.files["1.prints"] = MemoryFile()
    bench.files["1.prints"].write(0, bytes(48))
    await found.follow((VDA, VDB))
    assert all_differs(found)


@pytest.mark.parametrize("volumes", [(VDA,), (VDB, VDA), (VDA, Volume("vdc", 64, BLOCK))])
async def test_no_volume_shifts_its_number(volumes: tuple[Volume, ...]) -> None:
    bench = Bench()
    await bench.ledger(VDA, VDB)
    with pytest.raises(errors.Usage, match="stream web has the volumes vda, vdb, in this order; not "):
        await bench.ledger(*volumes)
