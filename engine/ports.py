"""Every contract between the engine and the world, on one page.

Adapters only classify errors (engine/errors.py); what to do about them is decided above.  Nothing here is safe for
use by two tasks at once unless it says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from schemas.extent import Extent

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as a bus gives it back.  Offsets rise, and are not dense."""

    offset: int
    data: bytes


class Log(Protocol):
    """One topic: an ordered log of records that survives whoever wrote it."""

    async def append(self, records: Sequence[bytes]) -> None:
        """Take `records` in order.  Not durable, and perhaps not readable, before `sync` returns.

        Raises Transient when the bus is away (what was taken may be on it or not: repeat it, readers skip the known),
        Full when it has no room, Unsafe when it refuses the size.
        After any error of append or sync the handle is spent: close it, open the log again, read what is there.
        Backpressure: returns only when the adapter's own buffer has room.
        """

    async def sync(self) -> int:
        """Make durable all that this handle has taken.  Gives the offset just past the last of it
        (the end of the log when nothing was taken).  May run beside `append`.  Errors as `append`."""

    async def read(self, offset: int, limit: int, wait: float) -> Sequence[Entry]:
        """Durable records from `offset` on, in order: at least one, and no more after `limit` bytes are passed.

        Waits up to `wait` seconds for the first and then gives an empty list.  Repeatable.  May run beside append and
        sync.  Raises OffsetGone below the begin or above the end, Damaged when stored bytes do not read as written.
        """

    async def ends(self) -> tuple[int, int]:
        """(begin, end): the first offset that can be read, and the one that the next record will pass."""

    async def trim(self, offset: int) -> None:
        """Let go of records below `offset`; keeps some of them where the store cannot cut there.  Repeatable."""

    async def close(self) -> None:
        """Let go of the handle; what was not synced may be lost.  Repeatable."""


class Bus(Protocol):
    """Where topics live."""

    async def open(self, topic: str, write: bool = False, shared: bool = False) -> Log:
        """A handle on `topic`, which is made when it is not there.  One writer at a time where the bus can tell:
        raises InUse; with `shared` several processes append, in turn.  Raises Unsafe when its settings could lose or
        refuse our records, Transient when it is away."""

    async def exists(self, topic: str) -> bool:
        """Whether the topic is there already."""

    async def delete(self, topic: str) -> None:
        """Remove the topic and all its records, for good.  Repeatable.  Raises InUse where a writer is seen."""

    async def trouble(self) -> str:
        """What is wrong with it as a whole, in words, also where no topic suffers yet; nothing when all is well."""

    async def close(self) -> None:
        """Close all handles.  Repeatable."""


class BlockDevice(Protocol):
    """Bytes that can be read, written, zeroed and flushed: a raw file, a block device, an NBD export, memory.

    Coordinates are bytes.  Nothing is aligned unless the caller aligns it.  Reads, and writes of ranges that do not
    overlap, may run at the same time.  Raises DeviceFailed (with errno), Full (ENOSPC), NotFound when it vanished.
    """

    @property
    def size(self) -> int:
        """Bytes that can be read now."""

    @property
    def fixed(self) -> bool:
        """True when its size cannot be changed (a block device, an NBD export)."""

    async def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes; a short medium is DeviceFailed, never a short answer."""

    async def look(self, ranges: Sequence[tuple[int, int]], at: Callable[[int, memoryview], T]) -> list[T]:
        """`at(number, bytes)` of each (start, length), in order, off the loop where reading is.

        The bytes are there during that call only: copy what stays.
        """

    async def write(self, start: int, data: bytes) -> None:
        """Not durable before `flush`.  After an error any mixture of old and new bytes may be there."""

    async def scatter(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """`write` of each (start, data), in order: one wait for all of them."""

    async def zero(self, start: int, length: int, keep: bool = False) -> None:
        """Make the range read as zeros, giving its space back where the medium can; with `keep` its space stays its
        own, so that what stood there can be written again on a full disk."""

    async def flush(self) -> None:
        """Everything written is on the medium when this returns.  A failure is final: never call it again."""

    async def extents(self, start: int, length: int) -> Sequence[Extent]:
        """The range as data and known zeros, in order and without gaps.  Data may turn out to be zeros as well."""

    async def evict(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Let the next read of each (start, length) come from the medium and no cache, where the system lets us."""

    async def resize(self, size: int) -> None:
        """Grow (new bytes read as zeros) or shrink.  Raises Usage when `fixed` and the size is not the same."""

    async def close(self) -> None:
        """Let go, without flushing.  Repeatable."""


class File(Protocol):
    """A file of our own: undo log, digests, the staged map.  Synchronous; callers offload what may block."""

    @property
    def path(self) -> str:
        """What it is called in messages."""

    def size(self) -> int: ...

    def read(self, start: int, length: int) -> bytes:
        """Up to `length` bytes; short at the end of the file; holes read as zeros."""

    def write(self, start: int, data: bytes) -> None:
        """Raises Full or DeviceFailed.  Not durable before `sync`."""

    def discard(self, start: int, length: int) -> None:
        """Let the range read as zeros and give its space back where the file system can."""

    def truncate(self, size: int) -> None: ...

    def sync(self) -> None:
        """Data, size and (first time) the directory entry are durable.  A failure is final: never call it again."""

    def close(self) -> None: ...


Offload = Callable[..., Awaitable[Any]]
"""`await offload(function, *arguments)`: run what blocks or computes where it does not hold up the loop."""


async def inline(function: Callable[..., T], *arguments: Any) -> T:
    """The Offload that runs in place: for tests and the simulator, where nothing blocks."""
    return function(*arguments)
