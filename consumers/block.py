"""The bytes of a replica: its devices, the digests of its blocks, and the undo log that can take writes back.

Order of effects within an epoch: the pre-image of a block is appended and synced before the first write to it in that
epoch; nothing else may write.  `flush` makes bytes and digests durable, `read_back` looks at the medium, and only the
caller (consumers/replay.py) decides that an epoch is settled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from consumers import pieces
from consumers.pieces import Change, Piece
from consumers.preimages import PreImages
from engine import digest, errors, ports
from engine.store import undo
from engine.store.leaves import Leaves
from schemas import events, extent
from schemas.extent import Ranges
from schemas.identity import Volume

_KEPT = 16 << 20
"""Bytes of pre-images that are in memory at a time while a volume shrinks."""
MakeLeaves = Callable[[int, Volume], Leaves]


@dataclass(slots=True)
class Touched:
    """What one epoch has done: the blocks whose pre-images are kept, what must be read back, what it says otherwise."""

    undo_start: int
    blocks: dict[int, Ranges] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    kept: dict[int, Ranges] = field(default_factory=dict)
    "Bytes that were zeroed and keep their space until the epoch is settled."
    writing: Sequence[Change] = ()
    "Changes that are being written, or were when the medium was full: of them nothing is known."
    size: int = 0
    "Bytes of data written."
    definition: events.Defined | None = None
    "What it says of the machine."

    def of(self, volume: int) -> Ranges:
        return self.blocks.setdefault(volume, Ranges())


class Target:
    """The devices of one stream.  `volumes` are the sizes that hold now: those of the last sealed or the open epoch."""

    def __init__(
        self,
        devices: Sequence[ports.BlockDevice],
        log: undo.UndoLog,
        make_leaves: MakeLeaves,
        offload: ports.Offload = ports.inline,
    ) -> None:
        self.devices = devices
        self.undo = log
        self.volumes: tuple[Volume, ...] = ()
        self.leaves: list[Leaves] = []
        self.restored: list[Piece] = []
        "What `restore` wrote and nobody has read back yet."
        self._make_leaves = make_leaves
        self._offload = offload

    def load(self, volumes: tuple[Volume, ...]) -> None:
        """Take up the digests as they are on disk, for the sizes of a stored position."""
        for index in range(len(self.leaves), len(volumes)):
            self.leaves.append(self._make_leaves(index, volumes[index]))
        self.volumes = volumes

    async def begin(self, opened: events.Open) -> Touched:
        """Take the sizes of an epoch: grow now, keep what a smaller size would cut off.  Raises Usage, Full.

        Of volumes that are new nothing is kept: taken back, they are not there.
        """
        if len(opened.volumes) > len(self.devices):
            raise errors.Usage(
                f"its source has {len(opened.volumes)} disks by now, this replica {len(self.devices)}: "
                f"{', '.join(one.name for one in opened.volumes[len(self.devices) :])} not yet"
            )
        touched = Touched(self.undo.end)
        for index, volume in enumerate(opened.volumes):
            if index < len(self.volumes):
                await self._keep_resized(index, volume, touched)
        for device, volume in zip(self.devices, opened.volumes, strict=False):
            if device.size < volume.size:
                await device.resize(volume.size)
        known = len(self.volumes)
        self.load(self.volumes + opened.volumes[known:])
        for leaves in self.leaves[known:]:
            # Its files may be those of an attempt that was taken back before anything settled.
            leaves.unclaim(0, leaves.volume.blocks)
        self._resize_leaves(opened.volumes)
        self.volumes = opened.volumes
        return touched

    async def _keep_resized(self, index: int, volume: Volume, touched: Touched) -> None:
        """The pre-images of blocks that a new size cuts off or lengthens."""
        old = self.volumes[index]
        first = min(old.size, volume.size) // old.block_size
        if old.size != volume.size and first < old.blocks:
            step = max(_KEPT // old.block_size, 1)
            for at in range(first, old.blocks, step):  # a disk that is given up is more than memory holds
                await self._offload(self._save, await self._before(index).long(at, min(at + step, old.blocks)))
            touched.of(index).add(first, old.blocks)

    def _resize_leaves(self, volumes: Sequence[Volume]) -> None:
        for index, leaves in enumerate(self.leaves):
            size = volumes[index].size if index < len(volumes) else 0
            if leaves.volume.size != size:
                leaves.resize(size)

    async def apply(self, changes: Sequence[Change], touched: Touched) -> None:
        """Write changes of the open epoch, in order.  After Full it may be repeated; after any error, be restored."""
        first_touched = await self._offload(self._first_touched, changes, touched)
        images = await self._pre_images(first_touched)
        if images:
            # A crash after this leaves records that recovery takes back for nothing: they hold what is there already.
            await self._offload(self._save, images)
        for index, ranges in first_touched.items():
            for first, end in ranges:
                touched.of(index).add(first, end)
        touched.writing = changes
        for wave in pieces.waves(changes, self.volumes):
            together = pieces.groups(wave, pieces.length, lambda one: (type(one), one.volume))
            await pieces.side_by_side(self._write(group, touched) for group in together)
        touched.writing = ()

    def over(self, changes: Sequence[Change], touched: Touched) -> bool:
        """Whether any of the changes is to a block that was touched before."""
        return any(
            next(touched.of(change.volume).within(*self._blocks(change)), None) is not None for change in changes
        )

    def _blocks(self, change: Change) -> tuple[int, int]:
        """The blocks that it touches: first, and behind the last."""
        size = self.volumes[change.volume].block_size
        return change.start // size, -(-(change.start + pieces.length(change)) // size)

    def _first_touched(self, changes: Sequence[Change], touched: Touched) -> dict[int, Ranges]:
        """Blocks that these changes are the first of the epoch to write to, and not with what they already hold."""
        found: dict[int, Ranges] = {}
        for change, have in zip(changes, self._kept(changes), strict=True):
            ranges = found.setdefault(change.volume, Ranges())
            known = touched.of(change.volume)
            for first, end in self._differing(change, have):
                for start, stop in known.missing(first, end):
                    ranges.add(start, stop)
        return found

    def _kept(self, changes: Sequence[Change]) -> Iterator[bytes]:
        """The digests that are kept of the blocks of each change; of zeros none."""
        for index, same in itertools.groupby(changes, lambda change: change.volume):
            some = list(same)
            blocks = [self._blocks(change) if isinstance(change, events.Written) else (0, 0) for change in some]
            yield from self.leaves[index].read_each([(first, end - first) for first, end in blocks])

    def _differing(self, change: Change, have: bytes) -> Iterator[tuple[int, int]]:
        volume, leaves = self.volumes[change.volume], self.leaves[change.volume]
        length, (first, end) = pieces.length(change), self._blocks(change)
        if isinstance(change, events.Zeroed) or not leaves.claims.any(first, end - first):
            yield first, end
            return
        parts = enumerate(extent.pieces(change.start, length, volume.block_size))
        yield from extent.runs(
            first + at for at, (start, size) in parts if not self._holds(change, at, start, size, have)
        )

    def _holds(self, change: events.Written, at: int, start: int, size: int, have: bytes) -> bool:
        """Whether the block of piece `at`, of which `have` are the kept digests, is what the piece says, and so is its
        data: a digest may belong to other bytes, and what they overwrite could not be taken back."""
        volume, leaves = self.volumes[change.volume], self.leaves[change.volume]
        block, value = start // volume.block_size, change.digests[at * 32 : at * 32 + 32]
        if size != volume.length(block) or block not in leaves.claims:
            return False
        if not leaves.stands_for(block, have[at * 32 : at * 32 + 32], value):
            return False
        offset = start - change.start
        return digest.block(memoryview(change.data)[offset : offset + size]) == value

    async def _pre_images(self, wanted: dict[int, Ranges]) -> list[undo.PreImage]:
        found: list[list[undo.PreImage]] = []
        work = (self._before(index).all_of(runs, found) for index, runs in wanted.items())
        await pieces.side_by_side(itertools.chain.from_iterable(work))
        return list(itertools.chain.from_iterable(found))

    def _before(self, index: int) -> PreImages:
        return PreImages(index, self.devices[index], self.leaves[index])

    def _save(self, images: Sequence[undo.PreImage]) -> None:
        self.undo.append(images)
        self.undo.sync()

    async def _write(self, changes: Sequence[Change], touched: Touched) -> None:
        """Changes of one kind to one volume."""
        written = [change for change in changes if isinstance(change, events.Written)]
        if written:
            await self.devices[written[0].volume].scatter([(change.start, change.data) for change in written])
            whole = [one for one in written if self._written(one, touched)]
            leaves = self.leaves[written[0].volume]
            leaves.write_each([(one.start // leaves.volume.block_size, one.digests) for one in whole])
        for change in changes:
            if isinstance(change, events.Zeroed):
                await self._zero(change, touched)
                self._zeroed(self.leaves[change.volume], change)
                touched.pieces.append(Piece(change.volume, change.start, change.length))

    def _written(self, change: events.Written, touched: Touched) -> bool:
        """Note what was written.  Whether it is whole blocks, whose digests are known; else they are no more."""
        leaves, size = self.leaves[change.volume], self.volumes[change.volume].block_size
        touched.kept.setdefault(change.volume, Ranges()).remove(change.start, change.start + len(change.data))
        touched.size += len(change.data)
        for at, (start, length) in enumerate(extent.pieces(change.start, len(change.data), size)):
            value = change.digests[at * 32 : at * 32 + 32]
            touched.pieces.append(Piece(change.volume, start, length, value))
        first, last = change.start // size, (change.start + len(change.data) - 1) // size
        if change.start % size == 0 and self._ends_block(change.volume, change.start + len(change.data)):
            return True
        leaves.unclaim(first, last - first + 1)
        return False

    async def _zero(self, change: events.Zeroed, touched: Touched) -> None:
        """Zero what is not known to be zeros already, in place: its space is given back once nothing can go back."""
        device = self.devices[change.volume]
        for found in await device.extents(change.start, change.length):
            if not found.zero:
                await device.zero(found.start, found.length, keep=True)
                touched.kept.setdefault(change.volume, Ranges()).add(found.start, found.end)

    async def give_back(self, epochs: Sequence[Touched], but: Touched | None) -> None:
        """Punch what settled epochs zeroed and nothing wrote to since.  Only once their position is stored."""
        ranges: dict[int, Ranges] = {}
        for touched in (*epochs, *([but] if but else [])):
            for piece in touched.pieces:
                if piece.digest or touched is but:
                    ranges.setdefault(piece.volume, Ranges()).remove(piece.start, piece.start + piece.length)
            for volume, kept in touched.kept.items() if touched is not but else ():
                for start, end in kept:
                    ranges.setdefault(volume, Ranges()).add(start, end)
        for index, punched in ranges.items():
            for start, end in punched:
                stop = min(end, self.volumes[index].size)
                if start < stop:
                    await self.devices[index].zero(start, stop - start)

    def _ends_block(self, volume: int, end: int) -> bool:
        return end % self.volumes[volume].block_size == 0 or end == self.volumes[volume].size

    def _zeroed(self, leaves: Leaves, change: events.Zeroed) -> None:
        size = leaves.volume.block_size
        end = change.start + change.length
        first = -(-change.start // size)
        stop = -(-end // size) if self._ends_block(change.volume, end) else end // size
        if first < stop:
            leaves.zero(first, stop - first)
        for block in {change.start // size, (end - 1) // size}:
            if not first <= block < stop:
                leaves.unclaim(block, 1)

    def roots(self) -> tuple[bytes, ...]:
        """The Merkle root of each volume that is there now; empty where a block of it is not claimed."""
        return tuple(leaves.root() for leaves in self.leaves[: len(self.volumes)])

    async def flush(self) -> None:
        """Bytes of every device, and all digests, are durable.  A failure is final."""
        for device in self.devices:
            await device.flush()
        for leaves in self.leaves:
            await self._offload(leaves.sync)

    async def read_back(self, epochs: Sequence[Touched], but: Touched | None = None) -> None:
        """Compare the medium with what was written: the last writer of each byte, and not what `but` wrote since.

        What was restored is newer than the epochs: an epoch is only taken back after those before it were sealed, and
        they are settled before the next one opens.  Raises Divergence naming the volume and the bytes.
        """
        for device, volume in zip(self.devices, self.volumes, strict=False):
            if device.size < volume.size:
                raise errors.Divergence(f"volume {volume.name}: {device.size} bytes, {volume.size} were to be there")
        covered: dict[int, Ranges] = {}
        for piece in but.pieces if but else ():
            covered.setdefault(piece.volume, Ranges()).add(piece.start, piece.start + piece.length)
        for change in but.writing if but else ():
            covered.setdefault(change.volume, Ranges()).add(change.start, change.start + pieces.length(change))
        wanted: list[Piece] = []
        for written in (self.restored, *(touched.pieces for touched in reversed(epochs))):
            for piece in reversed(written):
                wanted += pieces.uncovered(piece, covered.setdefault(piece.volume, Ranges()))
        wanted = [piece for piece in wanted if piece.start + piece.length <= self.volumes[piece.volume].size]
        batches = pieces.batches(sorted(wanted, key=lambda piece: (piece.volume, piece.start)))
        together = pieces.groups(
            batches, lambda batch: pieces.span(batch)[1], lambda batch: (batch[0].volume, bool(batch[0].digest))
        )
        await pieces.side_by_side(self._compare(group) for group in together)
        self.restored.clear()

    async def _compare(self, group: Sequence[Sequence[Piece]]) -> None:
        """Batches of one volume: of data, or of zeros."""
        device = self.devices[group[0][0].volume]
        ranges = [pieces.span(batch) for batch in group]
        await device.evict(ranges)
        if not group[0][0].digest:
            for batch in group:
                await self._compare_zeros(batch[0])
            return
        for bad in await device.look(ranges, lambda number, data: pieces.first_bad(group[number], data)):
            if bad is not None:
                raise pieces.differs(bad, self.volumes[bad.volume].name)

    async def _compare_zeros(self, piece: Piece) -> None:
        device = self.devices[piece.volume]
        for found in await device.extents(piece.start, piece.length):
            for at in range(found.start, found.end, pieces.READ):
                if not found.zero and any(await device.read(at, min(pieces.READ, found.end - at))):
                    raise pieces.differs(piece, self.volumes[piece.volume].name)

    async def restore(self, start: int, volumes: tuple[Volume, ...]) -> int:
        """Take back every record of the undo log from `start` on, newest first, to a state of these sizes.

        Nothing is flushed.  May be repeated any number of times, and stopped anywhere.  Gives how many records.
        """
        self.load(volumes + self.volumes[len(volumes) :])
        self._resize_leaves(volumes)
        self.volumes = volumes
        for device, volume in zip(self.devices, volumes, strict=False):
            if device.size < volume.size:
                await device.resize(volume.size)
        count = 0
        for image in self.undo.newest_first(start):
            if image.volume < len(volumes):
                await self._put_back(image, volumes[image.volume])
            count += 1
        return count

    async def _put_back(self, image: undo.PreImage, volume: Volume) -> None:
        count = min(image.count, volume.blocks - image.first)
        if count <= 0:
            return
        device, leaves = self.devices[image.volume], self.leaves[image.volume]
        start = image.first * volume.block_size
        length = min(count * volume.block_size, volume.size - start)
        if image.data:
            data = image.data[:length]
            await device.write(start, data)
            leaves.write(image.first, image.digests[: count * 32], image.claimed)
            for at, size in extent.pieces(start, len(data), volume.block_size):
                value = digest.block(data[at - start : at - start + size])
                self.restored.append(Piece(image.volume, at, size, value))
        else:
            await device.zero(start, length)
            leaves.zero(image.first, count, image.claimed)
            self.restored.append(Piece(image.volume, start, length))

    async def fit(self) -> None:
        """Shrink devices that are larger than their volume.  Only once the position that says so is stored."""
        for device, volume in zip(self.devices, self.volumes, strict=False):
            if device.size > volume.size and not device.fixed:
                await device.resize(volume.size)
