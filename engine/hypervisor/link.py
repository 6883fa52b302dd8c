"""The way to libvirt, and the only module that imports it.

Its calls block, so each runs in a thread; its events come in one more thread of this process.  A connection that
breaks fails what is under way with Transient, and comes again by itself: at the next call, and, where events are
watched, also without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine import errors
from engine.hypervisor import calls, happenings, trouble
from engine.hypervisor.happenings import Happening

try:
    import libvirt
    import libvirt_qemu
except ImportError:  # said by `Link.open`, with the way to get it
    libvirt = libvirt_qemu = None

__all__ = ["CALL", "MISSING", "Error", "Link", "Told", "dotted", "libvirt", "libvirt_qemu", "named"]

T = TypeVar("T")
Told = Callable[[Happening], None]

Error: type[Exception] = Exception if libvirt is None else libvirt.libvirtError
"""What libvirt raises."""

CALL = 60.0
"""Seconds for one call.  libvirt itself waits 30 s for a machine that another call changes."""
AGAIN = (0.5, 1.0, 2.0, 5.0)
"""Seconds until a lost connection is tried again; the last one from then on."""
KEEPALIVE = (5, 3)
"""Seconds between questions whether libvirtd is alive, and how many may go unanswered."""
LEAST = 8_000_000
"""libvirt 8.0.0, as it counts: the first whose blockCopy has SYNCHRONOUS_WRITES."""

MISSING = (
    "libvirt-python is not installed: apt-get install gcc pkg-config python3-dev libvirt-dev,"
    " then pip install '.[libvirt]' into vmferry's environment"
)

_events = threading.Lock()
_running: list[threading.Thread] = []


@dataclass(slots=True)
class _Opened:
    """One connection, and the events that are told by it."""

    conn: Any
    registered: list[int] = field(default_factory=list)


class Link:
    """Made by `open`.  Safe for use by many tasks at once."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._loop = asyncio.get_running_loop()
        self._opened: _Opened | None = None
        self._guard = threading.Lock()
        self._one = asyncio.Lock()
        self._told: list[Told] = []
        self._returning: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, uri: str) -> Link:
        """Raises Usage (no libvirt-python, no right, too old, not QEMU), Transient (libvirtd is away)."""
        if libvirt is None:
            raise errors.Usage(MISSING)
        _run_events()
        made = cls(uri)
        await made._connected()
        return made

    async def close(self) -> None:
        """Let go of the connection and its events.  Repeatable."""
        self._closed = True
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
        with self._guard:
            gone, self._opened = self._opened, None
        if gone is not None:
            await calls.in_thread(lambda: _let_go(gone), CALL, f"{self.uri}: close")

    async def call(self, what: str, ask: Callable[[Any], T], seconds: float = CALL) -> T:
        """What `ask` gives of the connection, in a thread; `what` is what errors call it."""
        opened = await self._connected()

        def asked() -> T:
            try:
                return ask(opened.conn)
            except Error as error:
                if not opened.conn.isAlive():
                    raise errors.Transient(f"{what}: the connection broke ({error}); {trouble.AWAY}") from error
                raise named(what, error) from error

        return await calls.in_thread(asked, seconds, what)

    async def watch(self, told: Told) -> None:
        """From now on `told` hears, in this loop, what happens, and when libvirt goes and comes; until `close`."""
        opened = await self._connected()
        self._told.append(told)
        if not opened.registered:
            await self.call("watch", lambda conn: self._register(opened))

    async def _connected(self) -> _Opened:
        async with self._one:
            if self._closed:
                raise errors.Transient(f"{self.uri}: it is closed")
            opened = self._opened
            if opened is None or not opened.conn.isAlive():
                opened = await calls.in_thread(self._reopen, CALL, self.uri)
            return opened

    def _reopen(self) -> _Opened:
        """In a thread, which a libvirtd that hangs holds up: so what it opens is kept or closed in here, also when
        nobody waits for it any more."""
        opened = self._fresh()
        gone: _Opened | None = opened
        with self._guard:
            kept = self._opened
            if not self._closed and (kept is None or not kept.conn.isAlive()):
                self._opened, gone = opened, kept
        if gone is not None:
            _let_go(gone)
        return opened

    def _fresh(self) -> _Opened:
        try:
            opened = _Opened(libvirt.open(self.uri))
        except Error as error:
            raise named(self.uri, error) from error
        try:
            self._check(opened.conn)
            opened.conn.setKeepAlive(*KEEPALIVE)
            opened.conn.registerCloseCallback(self._lost, None)
            if self._told:
                self._register(opened)
        except Error as error:
            _let_go(opened)
            raise named(self.uri, error) from error
        except errors.FerryError:
            _let_go(opened)
            raise
        return opened

    def _check(self, conn: Any) -> None:
        if conn.getType() != "QEMU":
            raise errors.Usage(f'{self.uri} is no QEMU: give hypervisor = "qemu:///system"')
        if conn.getLibVersion() < LEAST:
            version = dotted(conn.getLibVersion())
            raise errors.Usage(f"{self.uri}: libvirt {version} is too old, {dotted(LEAST)} is the least")

    # Called in the thread of the events.

    def _lost(self, conn: Any, reason: int, opaque: object) -> None:
        self._say(self._away)

    def _say(self, call: Callable[..., None], *words: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(call, *words)

    def _register(self, opened: _Opened) -> None:
        def add(event: int, callback: Callable[..., None]) -> None:
            opened.registered.append(opened.conn.domainEventRegisterAny(None, event, callback, None))

        def tell(happening: Happening | None) -> None:
            if happening is not None:
                self._say(self._tell, happening)

        def uuid(one: Any) -> str:
            return str(one.UUIDString())

        add(
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            lambda conn, one, event, reason, _: tell(happenings.lifecycle(uuid(one), event, reason)),
        )
        add(libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, lambda conn, one, _: tell(Happening(uuid(one), "rebooted")))
        add(
            libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
            lambda conn, one, disk, kind, end, _: tell(happenings.block_job(uuid(one), disk, kind, end)),
        )
        add(
            libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
            lambda conn, one, found, _: tell(happenings.job(uuid(one), found.get("operation", 0))),
        )
        add(
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
            lambda conn, one, alias, _: tell(happenings.device(uuid(one), "added", alias)),
        )
        add(
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
            lambda conn, one, alias, _: tell(happenings.device(uuid(one), "removed", alias)),
        )
        add(libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
            lambda conn, one, state, reason, _: tell(happenings.agent(uuid(one), state)))  # fmt: skip

    # Called in our loop.

    def _tell(self, happening: Happening) -> None:
        for told in list(self._told):
            told(happening)

    def _away(self) -> None:
        if self._closed or not self._told:
            return
        self._tell(Happening("", happenings.LOST, self.uri))
        if self._returning is None or self._returning.done():
            self._returning = self._loop.create_task(self._return())

    async def _return(self) -> None:
        tries = 0
        while True:
            await asyncio.sleep(AGAIN[min(tries, len(AGAIN) - 1)])
            tries += 1
            try:
                await self._connected()
            except errors.FerryError:
                continue
            self._tell(Happening("", happenings.AGAIN, self.uri))
            return


def named(what: str, error: Exception) -> errors.FerryError:
    """Our error for one of libvirt's."""
    number: int = getattr(error, "get_error_code", lambda: 0)() or 0
    return trouble.named(what, number, str(error))


def _let_go(gone: _Opened) -> None:
    # Of a broken connection libvirt refuses some of these; whatever is let go of it is let go of.
    for number in gone.registered:
        with contextlib.suppress(Error):
            gone.conn.domainEventDeregisterAny(number)
    with contextlib.suppress(Error):
        gone.conn.unregisterCloseCallback()
    with contextlib.suppress(Error):
        gone.conn.close()


def dotted(version: int) -> str:
    """As libvirt counts: 9000000 is 9.0.0."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


def _run_events() -> None:
    """libvirt's event loop, once in this process; it has to be there before the first connection."""
    with _events:
        if _running:
            return
        libvirt.virEventRegisterDefaultImpl()
        # Else each error is written on stderr, too.
        libvirt.registerErrorHandler(lambda context, error: None, None)

        def run() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        _running.append(threading.Thread(target=run, name="vmferry-libvirt-events", daemon=True))
        _running[0].start()
