"""The asyncio shell round the NBD client's codec: one connection, many requests in flight."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine import errors
from engine.nbd import constants
from engine.nbd.constants import Command, Flag
from engine.nbd.handshake import ClientHandshake, Export
from engine.nbd.requests import Answer, Extents
from engine.nbd.transmission import ClientTransmission

ALIGNED_LENGTH = 1 << 30
"""Bytes of one request that carries no data: far below 2^32 and a multiple of every block size."""

JOINED = 64 << 10
"""Data up to this many bytes is copied behind its header, to be one call of the kernel."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How one connection is used."""

    in_flight: int = 16
    """Requests; qemu-nbd serves 16 of one client at a time (nbd/server.c, MAX_NBD_REQUESTS)."""

    piece: int = 1 << 20
    """Bytes of data in one request, at most; times `in_flight` it bounds memory.  bench: 256 KiB to 4 MiB equal."""

    connect: float = 30.0
    """Seconds until the export must be there.  Needs testing over slow links."""

    stall: float = 300.0
    """Seconds without a byte from a server that owes answers; a flush of a slow disk is long and silent."""


DEFAULT = Tuning()

_End = Answer | errors.FerryError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens: a UNIX socket's path, or a host and a port."""

    socket: str = ""
    host: str = ""
    port: int = 10809

    def __str__(self) -> str:
        return self.socket or f"{self.host}:{self.port}"


class Client(asyncio.BufferedProtocol):
    """Made by `connect`.  Safe for use by many tasks at once.

    Raises RequestError for what the server refused (the connection lives on) and DeviceFailed once the connection is
    gone, for every request in flight and every later one.  A cancelled request goes on at the server; no later one is
    sent before it was answered, so that it cannot overtake.
    """

    def __init__(self, name: str, export: str, contexts: Sequence[str], tuning: Tuning) -> None:
        self.name, self._tuning = name, tuning
        self._loop = asyncio.get_running_loop()
        self._handshake = ClientHandshake(export, contexts)
        self._greeting = bytearray(4096)
        self._ready: asyncio.Future[Export] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._codec: ClientTransmission | None = None
        self._waiting: dict[int, asyncio.Future[_End]] = {}
        self._orphans: set[asyncio.Future[_End]] = set()
        self._slots = asyncio.Semaphore(tuning.in_flight)
        self._why: errors.FerryError | None = None
        self._heard = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(
        cls,
        place: Place,
        export: str = "",
        contexts: Sequence[str] = (constants.ALLOCATION,),
        name: str = "",
        tuning: Tuning = DEFAULT,
    ) -> Client:
        """Connect, and agree on `export`; `name` is what errors call it.

        Raises NotFound (no such socket or export), Usage (TLS, policy), Transient (refused, no answer in time),
        ProtocolError; then nothing is left open.
        """
        client = cls(name or f"{place}/{export}", export, contexts, tuning)
        try:
            async with asyncio.timeout(tuning.connect):
                await client._open(place)
                await client._ready
        except BaseException as error:
            await client.close()
            if isinstance(error, TimeoutError):
                raise errors.Transient(f"{client.name}: no NBD export after {tuning.connect:g} s") from error
            raise
        return client

    async def _open(self, place: Place) -> None:
        try:
            if place.socket:
                await self._loop.create_unix_connection(lambda: self, place.socket)
            else:
                await self._loop.create_connection(lambda: self, place.host, place.port)
        except FileNotFoundError as error:
            raise errors.NotFound(f"{self.name}: no NBD server listens on {place}") from error
        except OSError as error:
            raise errors.Transient(f"{self.name}: cannot connect to {place}: {error}") from error

    @property
    def export(self) -> Export:
        """What was agreed on."""
        return self._ready.result()

    async def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes, asked for in pieces that are in flight together."""
        memory = bytearray(length)
        view = memoryview(memory)
        await self._all(
            self._ask(Command.READ, at, size, into=view[at - start : at - start + size])
            for at, size in self._pieces(start, length, self._most_data())
        )
        return bytes(memory)

    async def write(self, start: int, data: bytes | memoryview) -> None:
        """Returns when all of it was answered; durable after `flush`."""
        view = memoryview(data)
        await self._all(
            self._ask(Command.WRITE, at, size, data=view[at - start : at - start + size])
            for at, size in self._pieces(start, len(view), self._most_data())
        )

    async def zero(self, start: int, length: int, keep: bool = False) -> None:
        """WRITE_ZEROES that may punch a hole unless to `keep` (NO_HOLE); the export must have the flag for it."""
        pieces = self._pieces(start, length, ALIGNED_LENGTH)
        flags = Flag.NO_HOLE if keep else Flag.NONE
        await self._all(self._ask(Command.WRITE_ZEROES, at, size, flags=flags) for at, size in pieces)

    async def flush(self) -> None:
        """What was answered before is durable, where the export can say so (SEND_FLUSH); else it has nothing to do."""
        if self.export.flags & constants.Transmission.SEND_FLUSH:
            await self._ask(Command.FLUSH, 0, 0)

    async def status(self, start: int, length: int) -> dict[str, Extents]:
        """One BLOCK_STATUS: what each context says, from `start` on, perhaps about less or more than was asked."""
        return (await self._ask(Command.BLOCK_STATUS, start, min(length, ALIGNED_LENGTH))).status

    async def close(self) -> None:
        """Say goodbye and let go; requests in flight fail.  Repeatable."""
        if self._transport is None:
            return
        self._fail(errors.DeviceFailed(f"{self.name}: it is closed"))
        if not self._closed.done() and not self._transport.is_closing():
            if self._codec is not None:
                self._transport.write(self._codec.request(Command.DISC, 0, 0)[1])
            self._transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.shield(self._closed)
                return
        self._transport.abort()

    def _most_data(self) -> int:
        largest = min(self.export.largest, constants.MOST_DATA, self._tuning.piece)
        return max(largest // self.export.smallest, 1) * self.export.smallest

    @staticmethod
    def _pieces(start: int, length: int, most: int) -> list[tuple[int, int]]:
        return [(at, min(most, start + length - at)) for at in range(start, start + length, most)]

    async def _all(self, asked: Iterable[Coroutine[Any, Any, Answer]]) -> None:
        """Run them together; every one has ended when the first error is raised."""
        calls = list(asked)
        if len(calls) == 1:
            await calls[0]
        elif calls:
            for ended in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(ended, BaseException):
                    raise ended

    async def _ask(
        self,
        command: Command,
        start: int,
        length: int,
        data: memoryview | None = None,
        into: memoryview | None = None,
        flags: Flag = Flag.NONE,
    ) -> Answer:
        if self._orphans:
            await asyncio.wait(set(self._orphans))
        await self._slots.acquire()
        if self._why is not None or self._codec is None or self._transport is None:
            self._slots.release()
            raise self._why or errors.DeviceFailed(f"{self.name}: it is not connected")
        if not self._waiting:
            self._heard = self._loop.time()
        cookie, header = self._codec.request(command, start, length, flags, into)
        answered = self._waiting[cookie] = self._loop.create_future()
        _send(self._transport, header, data)
        try:
            ended = await asyncio.shield(answered)
        except asyncio.CancelledError:
            if not answered.done():
                self._orphans.add(answered)
                answered.add_done_callback(self._orphans.discard)
            raise
        if not isinstance(ended, Answer):
            raise ended
        if ended.error is not None:
            raise ended.error
        return ended

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._look()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._greeting) if self._codec is None else self._codec.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = self._loop.time()
        try:
            answers = self._greeted(nbytes) if self._codec is None else self._codec.filled(nbytes)
        except errors.FerryError as error:
            self._drop(type(error)(f"{self.name}: {error}"))
            return
        for answer in answers:
            self._end(answer.cookie, answer)

    def connection_lost(self, exc: Exception | None) -> None:
        why = f" ({exc})" if exc is not None else ""
        self._fail(errors.DeviceFailed(f"{self.name}: the NBD server closed the connection{why}"))
        if not self._closed.done():
            self._closed.set_result(None)

    # What follows from it.

    def _greeted(self, count: int) -> list[Answer]:
        assert self._transport is not None
        answer = self._handshake.receive(bytes(self._greeting[:count]))
        if answer:
            self._transport.write(answer)
        export = self._handshake.export
        if export is None:
            return []
        self._codec = ClientTransmission(export)
        if not self._ready.done():
            self._ready.set_result(export)
        return self._codec.feed(self._handshake.leftover)

    def _end(self, cookie: int, ended: _End) -> None:
        answered = self._waiting.pop(cookie)
        self._slots.release()
        answered.set_result(ended)

    def _fail(self, error: errors.FerryError) -> None:
        """The connection is over: everybody who waits hears of the first reason."""
        if self._why is None:
            self._why = error
        if self._watch is not None:
            self._watch.cancel()
        if not self._ready.done():
            self._ready.set_exception(self._why)
            self._ready.exception()
        for cookie in list(self._waiting):
            self._end(cookie, self._why)

    def _drop(self, error: errors.FerryError) -> None:
        self._fail(error)
        if self._transport is not None:
            self._transport.abort()

    def _look(self) -> None:
        """Every quarter of the limit: does a server that owes answers say anything?"""
        silent = self._loop.time() - self._heard
        if self._waiting and silent > self._tuning.stall:
            owed = f"owes {len(self._waiting)} answers and has said nothing for {silent:.0f} s"
            self._drop(errors.DeviceFailed(f"{self.name}: the NBD server {owed}"))
        else:
            self._watch = self._loop.call_later(self._tuning.stall / 4, self._look)


def _send(transport: asyncio.Transport, header: bytes, data: memoryview | None) -> None:
    if data is None:
        transport.write(header)
    elif len(data) <= JOINED:
        transport.write(b"".join((header, data)))
    else:
        transport.write(header)
        transport.write(data)
