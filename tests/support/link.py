"""Ways between clients and brokers on one machine, that can be cut: what passes is forwarded by a thread of the test.

A client goes where a broker says that it is.  So each broker gets a listener of its own for each site, which it
advertises at the address of a way: all that the site's daemon does goes over its ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

from tests.support.kafka import Broker, free_port

_CHUNK = 1 << 18


class Link:
    """The ways of one site, `ways`: the port where its daemon comes in to that of the broker's listener."""

    def __init__(self, ways: Mapping[int, int]) -> None:
        self.ways = dict(ways)
        self.passed = 0
        "Bytes, both directions."
        self._there = True
        self._loop = asyncio.new_event_loop()
        self._flows, self._stop = asyncio.Event(), asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link")
        self._thread.start()
        self._ready.wait()

    @property
    def addresses(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.ways)

    def cut(self) -> None:
        """Every connection breaks, and no new one comes about."""

        def cut() -> None:
            self._there = False
            for task in self._tasks:
                task.cancel()

        self._soon(cut)

    def hush(self) -> None:
        """Nothing passes, and nobody is told."""
        self._soon(self._flows.clear)

    def heal(self) -> None:
        """All of it passes again; what was held back comes now."""

        def heal() -> None:
            self._there = True
            self._flows.set()

        self._soon(heal)

    def close(self) -> None:
        """Repeatable."""
        if self._thread.is_alive():
            self._soon(self._stop.set)
            self._thread.join()

    def _soon(self, what: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(what)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        servers = [await asyncio.start_server(self._taken(to), "127.0.0.1", port) for port, to in self.ways.items()]
        self._ready.set()
        await self._stop.wait()
        for server in servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _taken(self, to: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._connected(to, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return taken

    async def _connected(self, to: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        # A broker that is away, a client that hangs up, a way that is cut: the connection ends for both of them.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if self._there:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to)
                ends.append(far_writer)
                pumps = [
                    asyncio.ensure_future(self._pump(*way)) for way in ((reader, far_writer), (far_reader, writer))
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        for end in ends:
            end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._flows.wait()
            self.passed += len(data)
            writer.write(data)
            await writer.drain()


class Listeners:
    """What brokers need for the ways of `sites`: hand `settings` to the cluster, then make the `links`."""

    def __init__(self, *sites: str) -> None:
        self._ways: dict[str, dict[int, int]] = {site: {} for site in sites}

    def settings(self, broker: Broker) -> dict[str, str]:
        inner, outer, kinds = [], [], []
        for site, ways in self._ways.items():
            port, way = free_port(), free_port()
            ways[way] = port
            inner.append(f"{site.upper()}://127.0.0.1:{port}")
            outer.append(f"{site.upper()}://127.0.0.1:{way}")
            kinds.append(f"{site.upper()}:PLAINTEXT")
        return {
            "listeners": ",".join(inner),
            "advertised.listeners": ",".join(outer),
            "listener.security.protocol.map": ",".join(kinds),
        }

    @contextlib.contextmanager
    def links(self) -> Iterator[dict[str, Link]]:
        """By site.  They are closed at the end."""
        with contextlib.ExitStack() as stack:
            made = {}
            for site, ways in self._ways.items():
                made[site] = Link(ways)
                stack.callback(made[site].close)
            yield made
