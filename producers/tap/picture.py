"""What some blocks of a disk hold at one number of the spool, put together from writes and from reads of the live disk.

QEMU writes to the disk first, to the tap second, and answers the guest after both.  So whatever a read of the live disk
sees was issued before the read was over; and a number M that is fixed after it has all below it that those writes may
depend on.  With every write up to M laid over it in order, a block is what it was at M, but for parts of writes that
nobody was told of yet, which a power cut may leave or take as well.  All blocks together are what one at M leaves.

Pure.  Bytes and blocks of one volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine import errors
from schemas.extent import Extent, Ranges, runs
from schemas.identity import Volume


class Picture:
    """Of `volume`.  Writes in their order, reads at any time before the last write that is laid in."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.written = Ranges()
        "Blocks that writes touched."
        self._whole: dict[int, bytes | bytearray] = {}
        self._zeros = Ranges()
        "Blocks of zeros; none of them is in `_whole`."
        self._parts: dict[int, list[tuple[int, bytes]]] = {}
        "Of blocks that are written to in part and were not read: (offset, data), in order."

    def write(self, start: int, data: bytes) -> None:
        """`data` was written at `start`.  What lies beyond the volume belongs to another size of it."""
        data = data[: max(self.volume.size - start, 0)]
        self._touch(start, len(data))
        for block, low, high in self._split(start, len(data)):
            part = data[low:high]
            if len(part) == self.volume.length(block):
                self._put(block, part)
            else:
                self._put_part(block, start + low - block * self.volume.block_size, part)

    def zero(self, start: int, length: int) -> None:
        """These bytes were zeroed."""
        length = min(length, max(self.volume.size - start, 0))
        self._touch(start, length)
        for low, high, whole in self._edges(start, start + length):
            if whole:
                self._put_zeros(low, high)
            else:
                block = low // self.volume.block_size
                self._put_part(block, low - block * self.volume.block_size, bytes(high - low))

    def base(self, start: int, data: bytes | None, length: int = 0) -> None:
        """The live disk held `data` at `start`, whole blocks, or `length` bytes of zeros.  Writes that are laid in
        already, and later ones, lie over it."""
        if data is None:
            first, end = start // self.volume.block_size, -(-(start + length) // self.volume.block_size)
            for block in [block for block in self._held(first, end) if block in self._parts]:
                self._under(block, bytes(self.volume.length(block)))
            for low, high in self.missing(first, end):
                self._zeros.add(low, high)
            return
        for block, low, high in self._split(start, len(data)):
            if block in self._parts:
                self._under(block, data[low:high])
            elif block not in self._whole and block not in self._zeros:
                self._whole[block] = data[low:high]

    def lacking(self) -> Ranges:
        """Blocks that were written to in part, and were not read."""
        return Ranges(runs(sorted(self._parts)))

    def missing(self, first: int, end: int) -> Ranges:
        """Those blocks of [first, end) of which nothing is known, or only a part."""
        found = Ranges(self._zeros.missing(first, end))
        for block in self._held(first, end):
            if block in self._whole:
                found.remove(block, block + 1)
        return found

    def read(self, start: int, length: int) -> bytes:
        """Raises DeviceFailed where a block of it is not there."""
        found = []
        for block, low, high in self._split(start, length):
            at = start + low - block * self.volume.block_size
            data = self._whole.get(block)
            if data is None and block not in self._zeros:
                raise errors.DeviceFailed(f"block {block:,} of {self.volume.name} is not in the picture")
            found.append(bytes(high - low) if data is None else bytes(data[at : at + high - low]))
        return b"".join(found)

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        """Data, and known zeros."""
        found, at, size = [], start, self.volume.block_size
        end = start + length
        for low, high in self._zeros.within(start // size, -(-end // size)):
            first, past = max(low * size, start), min(high * size, end)
            if at < first:
                found.append(Extent(at, first - at))
            found.append(Extent(first, past - first, zero=True))
            at = past
        if at < end:
            found.append(Extent(at, end - at))
        return found

    def _touch(self, start: int, length: int) -> None:
        if length > 0:
            self.written.add(start // self.volume.block_size, -(-(start + length) // self.volume.block_size))

    def _split(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(block, from, to) of each block of [start, start + length), relative to `start`."""
        size, at = self.volume.block_size, start
        while at < start + length:
            block = at // size
            past = min((block + 1) * size, start + length)
            yield block, at - start, past - start
            at = past

    def _edges(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """[start, end): its whole blocks by their numbers, once, and the parts of blocks at its ends in bytes."""
        size = self.volume.block_size
        first = -(-start // size)
        past = -(-end // size) if end == self.volume.size else end // size
        if first >= past:
            for _, low, high in self._split(start, end - start):
                yield start + low, start + high, False
            return
        if start < first * size:
            yield start, first * size, False
        yield first, past, True
        if past * size < end:
            yield past * size, end, False

    def _put(self, block: int, data: bytes) -> None:
        self._parts.pop(block, None)
        self._zeros.remove(block, block + 1)
        self._whole[block] = data

    def _put_zeros(self, first: int, end: int) -> None:
        for block in self._held(first, end):
            self._whole.pop(block, None)
            self._parts.pop(block, None)
        self._zeros.add(first, end)

    def _held(self, first: int, end: int) -> list[int]:
        """Those blocks of [first, end) of which bytes are held; a range of zeros may be the whole disk."""
        if end - first < len(self._whole) + len(self._parts):
            return [block for block in range(first, end) if block in self._whole or block in self._parts]
        return [block for block in (*self._whole, *self._parts) if first <= block < end]

    def _put_part(self, block: int, offset: int, data: bytes) -> None:
        held: bytes | bytearray | None = self._whole.get(block)
        if held is None and block in self._zeros:
            self._zeros.remove(block, block + 1)
            held = bytes(self.volume.length(block))
        if held is None:
            self._parts.setdefault(block, []).append((offset, data))
            return
        if not isinstance(held, bytearray):
            held = self._whole[block] = bytearray(held)
        held[offset : offset + len(data)] = data

    def _under(self, block: int, data: bytes) -> None:
        """Lay what was read below the parts of a block."""
        whole = bytearray(data)
        for offset, part in self._parts.pop(block):
            whole[offset : offset + len(part)] = part
        self._whole[block] = whole
