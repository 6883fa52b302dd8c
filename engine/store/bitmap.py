"""One bit for each block, in memory and written through to a file: 2 MiB for a volume of 1 TiB at 64 KiB."""

from __future__ import annotations

from collections.abc import Iterator

from engine import ports

_STEP = 4096


class Bitmap:
    """Bits `0 .. size`, all clear at first.  Changes are durable after the file's `sync`."""

    def __init__(self, file: ports.File, size: int) -> None:
        self._file = file
        self.size = size
        length = (size + 7) // 8
        self._bits = bytearray(file.read(0, length).ljust(length, b"\0"))
        self.count = 0
        if file.size() > length:
            file.truncate(length)
        self._clip()

    def _clip(self) -> None:
        if self.size % 8:
            self._bits[-1] &= (1 << self.size % 8) - 1
        self.count = int.from_bytes(self._bits, "little").bit_count()

    def __contains__(self, block: int) -> bool:
        return bool(self._bits[block >> 3] >> (block & 7) & 1)

    def put(self, first: int, count: int, value: bool) -> None:
        """Set or clear `count` bits from `first` on."""
        if count <= 0:
            return
        low, high = first >> 3, (first + count + 7) >> 3
        old = bytes(self._bits[low:high])
        if count == 1:
            new = bytes([old[0] | 1 << (first & 7) if value else old[0] & ~(1 << (first & 7))])
        else:
            new = self._filled(old, first - low * 8, count, value)
        if new != old:
            self._bits[low:high] = new
            self.count += int.from_bytes(new, "little").bit_count() - int.from_bytes(old, "little").bit_count()
            self._file.write(low, new)

    @staticmethod
    def _filled(old: bytes, shift: int, count: int, value: bool) -> bytes:
        mask = ((1 << count) - 1) << shift
        number = int.from_bytes(old, "little")
        return (number | mask if value else number & ~mask).to_bytes(len(old), "little")

    def runs(self, first: int, count: int) -> Iterator[tuple[int, int, bool]]:
        """[first, first+count) as half-open runs of equal bits: (start, end, bit)."""
        end = first + count
        start, bit = first, None
        at = first
        while at < end:
            stop, value = self._uniform(at, end)
            if value is not bit:
                if bit is not None:
                    yield start, at, bit
                start, bit = at, value
            at = stop
        if bit is not None:
            yield start, end, bit

    def _uniform(self, at: int, end: int) -> tuple[int, bool]:
        """A stretch of equal bits from `at`: whole chunks of bytes at once where they are alike."""
        value = at in self
        if at & 7 == 0 and end - at >= 8:
            like = 255 if value else 0
            chunk = self._bits[at >> 3 : min(end, at + 8 * _STEP) >> 3]
            same = len(chunk) if chunk.count(like) == len(chunk) else self._leading(chunk, like)
            if same:
                return at + 8 * same, value
        return at + 1, value

    @staticmethod
    def _leading(chunk: bytearray, like: int) -> int:
        return len(chunk) - len(bytes(chunk).lstrip(bytes([like])))

    def set_runs(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """The half-open runs of set bits."""
        return ((start, end) for start, end, bit in self.runs(first, count) if bit)

    def all(self, first: int, count: int) -> bool:
        """Whether every bit of the range is set."""
        return next(self.runs(first, count), (0, 0, True)) == (first, first + count, True) or count == 0

    def any(self, first: int, count: int) -> bool:
        """Whether some bit of the range is set."""
        return next(self.set_runs(first, count), None) is not None

    def resize(self, size: int) -> None:
        """New bits are clear; bits that fall away are cleared in the file as well."""
        if size < self.size:
            self.put(size, self.size - size, False)
        elif self.size % 8:
            # Beyond the size the file may hold bits of an attempt that was taken back.
            self._file.write(self.size >> 3, bytes(self._bits[-1:]))
        self.size = size
        length = (size + 7) // 8
        self._bits = self._bits[:length].ljust(length, b"\0")
        self._file.truncate(length)
        self._clip()

    def sync(self) -> None:
        self._file.sync()
