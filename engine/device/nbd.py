"""BlockDevice on an NBD export: a server somewhere, or a qemu-nbd of our own."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from engine import errors
from engine.device.serial import Serial
from engine.nbd import client, constants, qemu
from engine.nbd.constants import RequestError, Transmission
from engine.ports import Offload
from schemas.extent import Extent, Ranges

T = TypeVar("T")

ZEROS = 1 << 20
"""Bytes of zeros written at a time to an export that has no WRITE_ZEROES."""


class NbdDevice(Serial):
    """Made by `connect` or `serve`.  What is not a multiple of the export's smallest block is read whole, changed and
    written back, one such write at a time.  A lost connection is final."""

    def __init__(
        self, connection: client.Client, writable: bool, server: qemu.Server | None = None,
        offload: Offload = asyncio.to_thread,
    ) -> None:  # fmt: skip
        self.path = connection.name
        self._client, self._writable, self._server = connection, writable, server
        self._lost, self._offload = "", offload
        self._one_edge = asyncio.Lock()

    @classmethod
    async def connect(
        cls, place: client.Place, export: str, writable: bool, name: str = "", offload: Offload = asyncio.to_thread,
        bitmap: str = "",
    ) -> NbdDevice:  # fmt: skip
        """An export of a server that runs already, with a `bitmap` of it for `dirty`.

        Raises NotFound (also: no such bitmap), Usage (also: read-only), Transient.
        """
        contexts = (constants.ALLOCATION, *([constants.DIRTY + bitmap] if bitmap else []))
        connection = await client.Client.connect(place, export, contexts, name)
        if bitmap and contexts[1] not in connection.export.contexts.values():
            await connection.close()
            raise errors.NotFound(f"{connection.name}: the export has no dirty bitmap {bitmap}")
        if writable and connection.export.flags & Transmission.READ_ONLY:
            await connection.close()
            raise errors.Usage(f"{connection.name}: the export is read-only; let the server export it to write")
        return cls(connection, writable, None, offload)

    @classmethod
    async def serve(cls, image: qemu.Image, offload: Offload = asyncio.to_thread) -> NbdDevice:
        """`image` through a qemu-nbd that lives as long as the device.  Raises as qemu.serve."""
        server, connection = await qemu.serve(image)
        return cls(connection, image.writable, server, offload)

    @property
    def size(self) -> int:
        return self._client.export.size

    @property
    def fixed(self) -> bool:
        """Always: an export has one size for as long as a connection lives."""
        return True

    @property
    def open_to_others(self) -> bool:
        """A server that is not ours would let other clients write: a reader cannot know whether it changes."""
        return self._server is None and not self._client.export.flags & Transmission.READ_ONLY

    async def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes.  Raises DeviceFailed."""
        self._within("read", start, length)
        first, past = self._widened(start, length)
        data = await self._named(self._client.read(first, past - first))
        return data if (first, past) == (start, start + length) else data[start - first : start - first + length]

    async def look(self, ranges: Sequence[tuple[int, int]], at: Callable[[int, memoryview], T]) -> list[T]:
        """As BlockDevice.look."""
        found: list[T] = []
        for number, (start, length) in enumerate(ranges):
            found.append(await self._offload(at, number, memoryview(await self.read(start, length))))
        return found

    async def write(self, start: int, data: bytes) -> None:
        """Not durable before `flush`.  Raises Full, DeviceFailed; then any mixture of old and new may be there."""
        self._changes("write", start, len(data))
        first, past = self._widened(start, len(data))
        if (first, past) != (start, start + len(data)):
            async with self._one_edge:
                whole = await self._named(self._client.read(first, past - first))
                before, behind = whole[: start - first], whole[start - first + len(data) :]
                await self._named(self._client.write(first, b"".join((before, data, behind))))
        elif data:
            await self._named(self._client.write(start, data))

    async def zero(self, start: int, length: int, keep: bool = False) -> None:
        """WRITE_ZEROES, which may punch a hole unless to `keep`; at edges, or without it, zeros are written."""
        self._changes("zero", start, length)
        smallest, end = self._client.export.smallest, start + length
        first, past = -(-start // smallest) * smallest, end // smallest * smallest
        if first >= past or not self._client.export.flags & Transmission.SEND_WRITE_ZEROES:
            await self._write_zeros(start, length)
            return
        await self._write_zeros(start, first - start)
        await self._named(self._client.zero(first, past - first, keep))
        await self._write_zeros(past, end - past)

    async def flush(self) -> None:
        """What was written is on the server's medium.  Raises DeviceFailed, which is final: later calls are refused."""
        self._changes("flush", 0, 0)
        flushing = asyncio.ensure_future(self._flush())
        # Cancelled or not, it ends, and a loss is remembered.
        flushing.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.shield(flushing)

    async def _flush(self) -> None:
        try:
            await self._named(self._client.flush())
        except errors.FerryError as error:
            self._lost = f"an earlier flush failed ({error}); restart, and let recovery run"
            raise errors.DeviceFailed(str(error)) from error

    async def extents(self, start: int, length: int) -> Sequence[Extent]:
        """What base:allocation calls zero is zero; all is data where the server does not speak of it."""
        self._within("map", start, length)
        found: list[Extent] = []
        if constants.ALLOCATION not in self._client.export.contexts.values():
            return [Extent(start, length)] if length else []
        try:
            async for at, size, flags in self._said(constants.ALLOCATION, start, length):
                zero = bool(flags & constants.ZERO)
                if found and found[-1].zero == zero:
                    found[-1] = Extent(found[-1].start, found[-1].length + size, zero)
                else:
                    found.append(Extent(at, size, zero))
        except Unsupported:
            return [Extent(start, length)]
        return found

    async def dirty(self) -> Ranges:
        """The bytes that the bitmap it was connected with calls dirty: at least those written to since it was made."""
        found = Ranges()
        (context,) = (one for one in self._client.export.contexts.values() if one.startswith(constants.DIRTY))
        async for at, size, flags in self._said(context, 0, self.size):
            if flags & constants.IS_DIRTY:
                found.add(at, at + size)
        return found

    async def _said(self, context: str, start: int, length: int) -> AsyncIterator[tuple[int, int, int]]:
        """(start, length, flags) of the range, in order and without gaps, as one metadata context has it."""
        at, end = start, start + length
        while at < end:
            for size, flags in await self._status(context, at, end - at):
                size = min(size, end - at)
                if size:
                    yield at, size, flags
                at += size

    async def evict(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Nothing: NBD cannot say it.  Our own qemu-nbd holds a target with O_DIRECT, where the file system can, so
        that reads come from the medium; what another server caches is for it to know."""

    async def resize(self, size: int) -> None:
        """Raises Usage for another size: grow the image before it is opened, with `qemu-img resize`."""
        if size != self.size:
            raise errors.Usage(
                f"{self.path}: an NBD export of {self.size:,} bytes cannot be made {size:,}; resize the image first"
            )

    async def guard(self) -> None:
        """Nothing: QEMU's own locks are held for as long as the image is open."""

    async def unguard(self) -> None:
        """Nothing, as `guard`: close the device to let writers in."""

    async def close(self) -> None:
        """Let go without flushing; a qemu-nbd of ours has ended, and its lock is gone.  Repeatable."""
        try:
            await self._client.close()
        finally:
            if self._server is not None:
                await self._server.close()

    def _within(self, doing: str, start: int, length: int) -> None:
        if start < 0 or start + length > self.size:
            raise errors.DeviceFailed(
                f"{self.path}: cannot {doing} {length:,} bytes at {start:,}: its size is {self.size:,}"
            )

    def _changes(self, doing: str, start: int, length: int) -> None:
        if self._lost or not self._writable:
            raise errors.DeviceFailed(f"{self.path}: cannot {doing}: {self._lost or 'it was opened to read'}")
        self._within(doing, start, length)

    def _widened(self, start: int, length: int) -> tuple[int, int]:
        """The range in whole smallest blocks, (first, past), as far as the export goes."""
        smallest = self._client.export.smallest
        if not length:
            return start, start
        return start // smallest * smallest, min(-(-(start + length) // smallest) * smallest, self.size)

    async def _write_zeros(self, start: int, length: int) -> None:
        for at in range(start, start + length, ZEROS):
            await self.write(at, bytes(min(ZEROS, start + length - at)))

    async def _status(self, context: str, start: int, length: int) -> list[tuple[int, int]]:
        """(length, flags) from `start` on: at least one.  Raises Unsupported."""
        first, past = self._widened(start, length)
        found = (await self._named(self._client.status(first, past - first))).get(context, [])
        skip, answer = start - first, []
        for size, flags in found:
            answer.append((max(size - skip, 0), flags))
            skip = max(skip - size, 0)
        if not any(size for size, _ in answer):
            raise errors.DeviceFailed(f"{self.path}: the server says nothing of the {length:,} bytes at {start:,}")
        return answer

    async def _named(self, asked: Awaitable[T]) -> T:
        """A refusal of the server as the port's error; a lost qemu-nbd of ours with its last words."""
        try:
            return await asked
        except RequestError as error:
            kind = REFUSALS.get(error.errno, errors.DeviceFailed)
            raise kind(f"{self.path}: {error}") from error
        except errors.DeviceFailed as error:
            if self._server is not None and (words := self._server.said()):
                raise errors.DeviceFailed(f"{error}; qemu-nbd said: {words}") from error
            raise


class Unsupported(errors.DeviceFailed):
    """The server cannot do this request at all."""


REFUSALS: dict[int, type[errors.FerryError]] = {
    errno.ENOSPC: errors.Full,
    errno.EPERM: errors.Usage,
    errno.ENOTSUP: Unsupported,
}
