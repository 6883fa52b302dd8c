"""The source's map: of each block its digest, or none, and whether it is unsure: some replica may lack it.

Three files a volume beside its digests: xxh3-128 prints (16 bytes a block; 16 zero bytes are a block of zeros, 16 times
0xFF match nothing), which blocks are known, and which are unsure.  The map changes in two ways only: blocks are made
unsure or unknown in place, which is always safe, and sealed changes come in through `apply`, from a durable stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine import merkle, ports
from engine.store import near
from engine.store.bitmap import Bitmap
from engine.store.leaves import Leaves
from engine.store.stage import Staged, StagedBlocks
from schemas.extent import Ranges
from schemas.identity import Volume

ZERO_PRINT = bytes(16)
NO_PRINT = b"\xff" * 16
_STEP = 1 << 16


@dataclass(frozen=True, slots=True)
class MapFiles:
    """The files of one volume."""

    digests: ports.File
    known: ports.File
    prints: ports.File
    unsure: ports.File


class VolumeMap:
    """The map of one volume."""

    def __init__(self, volume: Volume, files: MapFiles, scratch: merkle.Scratch = bytearray) -> None:
        self._files = files
        self.leaves = Leaves(volume, _Overlay(files.digests), files.known, scratch)
        self.unsure = Bitmap(files.unsure, volume.blocks)

    @property
    def volume(self) -> Volume:
        return self.leaves.volume

    @property
    def known(self) -> Bitmap:
        return self.leaves.claims

    def baseline(self) -> None:
        """Nothing is known, everything is unsure: where a stream begins."""
        self.leaves.unclaim(0, self.volume.blocks)
        self.unsure.put(0, self.volume.blocks, True)

    def prints(self, first: int, count: int) -> bytes:
        """The joined prints of `count` blocks."""
        return self._files.prints.read(first * 16, count * 16).ljust(count * 16, b"\0")

    def doubt(self, first: int, count: int) -> None:
        """Some replica may lack these blocks."""
        self.unsure.put(first, count, True)

    def mark_edge(self, size: int) -> None:
        """Before a resize: the block that will change its length differs from every cut.  Durable after `sync`."""
        first = min(self.volume.size, size) // self.volume.block_size
        if first < self.volume.blocks:
            self._files.prints.write(first * 16, NO_PRINT)
            self.unsure.put(first, 1, True)

    def resize(self, size: int) -> None:
        """Follow the source, once the edge is marked.  What is new differs from every cut: it travels before the rest.

        No bit of a block that stays is cleared on the way, so that a torn resize leaves nothing unknown and sure.
        """
        first = self.volume.blocks
        self.leaves.resize(size, keep_edge=True)
        self.unsure.resize(self.volume.blocks)
        for at in range(first, self.volume.blocks, _STEP):
            count = min(_STEP, self.volume.blocks - at)
            self._files.prints.write(at * 16, NO_PRINT * count)
        if first < self.volume.blocks:
            self.known.put(first, self.volume.blocks - first, True)
            self.unsure.put(first, self.volume.blocks - first, True)

    def travelled(self) -> bool:
        """Whether every block, as long as it is now, was once in a sealed epoch."""
        if self.known.count < self.volume.blocks:
            return False
        for start, end in self.unsure.set_runs(0, self.volume.blocks):  # who differs from every cut is unsure, too
            for at in range(start, end, _STEP):
                prints = self.prints(at, min(_STEP, end - at))
                if NO_PRINT in prints and any(prints[n : n + 16] == NO_PRINT for n in range(0, len(prints), 16)):
                    return False
        return True

    def put(self, first: int, prints: bytes, digests: bytes, sure: bool) -> None:
        """What these blocks hold, in place."""
        count = len(prints) // 16
        self._files.prints.write(first * 16, prints)
        self.leaves.write(first, digests)
        if sure:
            self.unsure.put(first, count, False)

    def put_each(self, pieces: Sequence[StagedBlocks]) -> None:
        """What these blocks hold, in place; they are sure."""
        near.write(self._files.prints, [(one.first * 16, one.prints) for one in pieces])
        self.leaves.write_each([(one.first, one.digests) for one in pieces])
        for one in pieces:
            self.unsure.put(one.first, len(one.prints) // 16, False)

    def put_zeros(self, first: int, count: int, sure: bool) -> None:
        """These blocks are zeros, in place."""
        for at in range(first, first + count, _STEP):
            size = min(_STEP, first + count - at) * 16
            old = self._files.prints.read(at * 16, size)
            if old.count(0) != len(old):
                self._files.prints.discard(at * 16, size)
        self.leaves.zero(first, count)
        if sure:
            self.unsure.put(first, count, False)

    def expect(self, staged: Sequence[Staged], index: int) -> bytes:
        """The root that the map will have once `staged` is applied.  The files stay as they are."""
        overlay, touched = self.leaves.digests, Ranges()
        assert isinstance(overlay, _Overlay)
        for one in staged:
            for blocks in one.written:
                if blocks.volume == index:
                    overlay.lay(blocks.first, blocks.digests)
                    touched.add(blocks.first, blocks.first + len(blocks.digests) // 32)
            for zeros in one.zeroed:
                if zeros.volume == index:
                    overlay.lay_zeros(zeros.first, zeros.count)
                    touched.add(zeros.first, zeros.first + zeros.count)
        self._touch(touched)
        root = self.leaves.tree.root()
        overlay.lift()
        self._touch(touched)  # what is expected may never come; when it does, it touches the same
        return root

    def _touch(self, blocks: Ranges) -> None:
        for start, end in blocks:
            self.leaves.tree.touch(start, end - start)

    def sync(self) -> None:
        self._files.prints.sync()
        self.leaves.sync()
        self.unsure.sync()


class BlockMap:
    """The maps of all volumes of a stream."""

    def __init__(self, volumes: Sequence[VolumeMap]) -> None:
        self.volumes = volumes

    @property
    def missing(self) -> int:
        """Unsure blocks of all volumes."""
        return sum(one.unsure.count for one in self.volumes)

    def apply(self, staged: Staged) -> None:
        """Take in what a seal that is on the bus made true.  May be repeated.  Durable after `sync`."""
        for index, one in enumerate(self.volumes):
            one.put_each([blocks for blocks in staged.written if blocks.volume == index])
        for zeros in staged.zeroed:
            self.volumes[zeros.volume].put_zeros(zeros.first, zeros.count, sure=True)

    def sync(self) -> None:
        for one in self.volumes:
            one.sync()


class _Overlay:
    """A File of digests with others laid over it, in memory, for as long as a root is computed."""

    def __init__(self, file: ports.File) -> None:
        self._file = file
        self.path = file.path
        self._laid: dict[int, bytes] = {}
        self._zeros = Ranges()

    def lay(self, first: int, digests: bytes) -> None:
        for at in range(0, len(digests), 32):
            self._laid[first + at // 32] = digests[at : at + 32]
        self._zeros.remove(first, first + len(digests) // 32)

    def lay_zeros(self, first: int, count: int) -> None:
        self._zeros.add(first, first + count)
        for block in [block for block in self._laid if first <= block < first + count]:
            del self._laid[block]

    def lift(self) -> None:
        self._laid, self._zeros = {}, Ranges()

    def read(self, start: int, length: int) -> bytes:
        data = self._file.read(start, length)
        if not self._laid and not self._zeros:
            return data
        return self._over(start // 32, data.ljust(length, b"\0"))

    def _over(self, first: int, data: bytes) -> bytes:
        end = first + len(data) // 32
        mixed = bytearray(data)
        for low, high in self._zeros.within(first, end):
            mixed[(low - first) * 32 : (high - first) * 32] = bytes((high - low) * 32)
        for block in self._blocks(first, end):
            mixed[(block - first) * 32 : (block - first + 1) * 32] = self._laid[block]
        return bytes(mixed)

    def _blocks(self, first: int, end: int) -> Iterator[int]:
        if end - first < len(self._laid):
            return (block for block in range(first, end) if block in self._laid)
        return (block for block in self._laid if first <= block < end)

    def size(self) -> int:
        return self._file.size()

    def write(self, start: int, data: bytes) -> None:
        self._file.write(start, data)

    def discard(self, start: int, length: int) -> None:
        self._file.discard(start, length)

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()
