"""The tap of one machine from the source daemon's side: begun or found again, asked, read, ended.

The tap goes on when the daemon stops, is upgraded or is killed: nothing here ends it but `end`, and a `begin` that
wants something else of it.
"""

from __future__ import annotations

import grp
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from engine import errors
from engine.pool import Pool
from producers.tap.order import Ack, Order
from producers.tap.record import Entry
from producers.tap.running import Running
from producers.tap.spool import Broken, Spool
from producers.tap.watchdog import Ended

P = ParamSpec("P")
T = TypeVar("T")
QUOTA = 8 << 30


@dataclass(frozen=True, slots=True)
class Status:
    """`alive`: its process runs; what stands below `watched` is only known then."""

    alive: bool
    broken: Broken | None = None
    """From there on writes are in no log: only a new tap, and a scan, heal that."""
    ended: Ended | None = None
    """Why the last tap ended that a watchdog saw end: a tap of another `pid`, unless this one was it."""
    watched: bool = False
    pid: int = 0
    incarnation: str = ""
    disks: Mapping[str, int] = field(default_factory=dict)
    attached: Mapping[str, int] = field(default_factory=dict)
    """Name of each disk -> its clients; one while its mirror runs."""
    number: int = 0
    """The next one."""
    durable: int = 0
    """All below it is on the medium."""
    on_bus: int = 0
    fill: int = 0
    quota: int = 0
    ordered: str = ""
    policy: str = ""
    """In force; differs from `ordered` for the reason `why`."""
    why: str = ""
    held: int = 0
    slowest_ms: float = 0.0
    ending: bool = False


_TOLD = ("pid", "incarnation", "disks", "attached", "number", "durable", "on_bus", "fill", "quota", "ordered",
         "policy", "why", "held", "slowest_ms", "ending")  # fmt: skip


class Keeper:
    """One for each machine; a second one, of any process, is refused with InUse until `close`.

    `home`: directory of the spool, below the stream's state; `sockets`: one in which QEMU's user may connect; `label`
    names the machine in messages.  Questions and the spool have a thread each: a tap that does not answer holds no
    reading up.  A call that is cancelled goes on in its thread.
    """

    def __init__(self, home: Path, sockets: Path, label: str) -> None:
        self._running = Running(home, sockets, label)
        self._asking = Pool(f"tap of {label}", 1)
        self._reading = Pool(f"spool of {label}", 1)
        self._spool: Spool | None = None
        self._closed = False

    @property
    def socket(self) -> Path:
        """Where the tap speaks NBD; its exports are named as the disks are."""
        return self._running.socket

    async def begin(
        self, disks: Mapping[str, int], ack: Ack = Ack.SPOOL, quota: int = QUOTA, group: str | int = "", above: int = 0
    ) -> bool:
        """Have a tap that runs and is watched, for these disks (name -> bytes) with this answer.

        True: the one that ran is kept, with the quota that it had.  False: there is a new one, and there was a time
        without: what was written then is in no log.  Its numbers begin with a multiple of 2^32, above all of the spool
        and not below `above`; what the one before had answered can be read as before, unless its spool was broken or
        damaged: then the spool is begun anew, too.  `group`: whose the NBD socket is, by name or number.

        Repeatable.  Raises InUse (another daemon keeps it), Newer (a tap, or a file of it, of a newer vmferry: nothing
        was touched), Usage, Full, DeviceFailed, Transient; then there is no tap, or the one that was there.
        """
        name = _group(group)
        running = self._running
        order = Order(running.spool, running.socket, running.control, dict(disks), ack, quota, group=name)
        found = await self._asking(running.begin, order, above)
        if not found:
            await self._reading(self._let_go)
        return found

    async def check(self) -> bool:
        """Whether the tap runs.  A watchdog of it that has ended is begun again."""
        return await self._asking(self._check)

    def _check(self) -> bool:
        if self._running.alive() is None:
            return False
        self._running.own()
        self._running.watch()
        return True

    async def status(self) -> Status:
        """Raises Transient when it runs and does not answer in 2 s, Newer."""
        return await self._asking(self._status)

    def _status(self) -> Status:
        running = self._running
        if running.alive() is None:
            return Status(False, running.broken(), running.ended())
        told = running.status()
        broken = Broken(**told["broken"]) if told["broken"] else None
        watched = running.watcher() is not None
        return Status(True, broken, running.ended(), watched, **{name: told[name] for name in _TOLD if name in told})

    async def mark(self, words: str) -> int:
        """Put `words` between the writes; the number that they have.  Raises Transient when no tap answers."""
        return int((await self._ask("mark", words=words))["number"])

    async def on_bus(self, number: int) -> None:
        """All below `number` is on the bus.  Repeatable.  Raises Transient when no tap answers."""
        await self._ask("bus", number=number)

    async def _ask(self, do: str, **more: Any) -> dict[str, Any]:
        return await self._asking(lambda: self._running.ask(do, **more))

    # The spool: as producers.tap.spool.Spool has them.

    async def ends(self) -> tuple[int, int]:
        """(the first number that is here, the one past the last that is durable).  Raises NotFound without a spool."""
        return await self._on_spool(Spool.ends)

    async def read(self, number: int, limit: int) -> list[Entry]:
        """Durable entries from `number` on, of about `limit` bytes.  Raises OffsetGone outside of `ends`."""
        return await self._on_spool(Spool.read, number, limit)

    async def trim(self, number: int) -> None:
        """Let go of all below `number`.  Repeatable."""
        await self._on_spool(Spool.trim, number)

    async def broken(self) -> Broken | None:
        """What the tap wrote down when it had to let go; also when it does not run."""
        return await self._reading(self._running.broken)

    async def _on_spool(self, function: Callable[Concatenate[Spool, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def call() -> T:
            if self._spool is None:
                self._spool = Spool(self._running.spool)
            return function(self._spool, *args, **kwargs)

        return await self._reading(call)

    def _let_go(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    # The end.

    async def end(self) -> None:
        """End the tap and its watchdog, whoever began them; what was answered stays in the spool.  Detach its clients
        first: they are cut off.  Repeatable.  Raises InUse (another daemon keeps it), DeviceFailed when it hangs in the
        kernel: its connections were shut down then where that is allowed."""
        await self._asking(self._running.end)

    async def discard(self) -> None:
        """Remove all that is in `home`, after `end`.  Repeatable.  Raises InUse while a tap runs."""
        await self._reading(self._let_go)
        await self._asking(self._running.discard)

    async def close(self) -> None:
        """Let go; the tap goes on.  Repeatable, and the last call."""
        await self._reading.idle()
        await self._asking.idle()
        if not self._closed:
            self._closed = True
            await self._reading(self._let_go)
            await self._asking(self._running.close)
            self._reading.close()
            self._asking.close()


def _group(group: str | int) -> str:
    """Its name.  Raises Usage."""
    try:
        return grp.getgrgid(group).gr_name if isinstance(group, int) else group
    except KeyError as why:
        raise errors.Usage(f"this host has no group with the number {group}") from why
