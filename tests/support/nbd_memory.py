"""An NBD server of ours over bytes in memory: as a handler of engine/nbd/server.py, and as a process of its own.

python -m tests.support.nbd_memory SOCKET NAME=SIZE ...
"""

from __future__ import annotations

import selectors
import sys
from pathlib import Path

from engine.nbd.constants import Command, Transmission
from engine.nbd.handshake import Export
from engine.nbd.requests import Extents
from engine.nbd.server import Connection, Server
from engine.nbd.server_transmission import Request, ServerTransmission

FLAGS = (
    Transmission.HAS_FLAGS
    | Transmission.SEND_FLUSH
    | Transmission.SEND_FUA
    | Transmission.SEND_TRIM
    | Transmission.SEND_WRITE_ZEROES
    | Transmission.SEND_FAST_ZERO
)
PAGE = 4096
ZEROS = bytes(PAGE)


def exports(**sizes: int) -> dict[str, Export]:
    return {name: Export(name, size, FLAGS) for name, size in sizes.items()}


class Memory:
    """Answers requests from one bytearray for each export."""

    def __init__(self, offered: dict[str, Export]) -> None:
        self.content = {name: bytearray(export.size) for name, export in offered.items()}

    def take(self, connection: Connection, requests: list[Request]) -> None:
        assert connection.codec is not None
        for request in requests:
            connection.send(self.answer(connection.codec, request))

    def gone(self, connection: Connection) -> None:
        """Nothing is kept of a connection."""

    def answer(self, codec: ServerTransmission, request: Request) -> bytes:
        content, past = self.content[codec.export.name], request.start + request.length
        if request.command == Command.READ:
            return codec.content(request, bytes(content[request.start : past]))
        if request.command == Command.BLOCK_STATUS:
            return codec.extents(request, extents(content, request.start, past))
        if request.command == Command.WRITE:
            content[request.start : past] = request.data
        elif request.command in (Command.WRITE_ZEROES, Command.TRIM):
            content[request.start : past] = bytes(request.length)
        return codec.done(request.cookie)


def extents(content: bytearray, start: int, past: int) -> Extents:
    """Runs of pages that are zero (a hole that reads as zeros) or not."""
    found: Extents = []
    while start < past:
        stop = min(start // PAGE * PAGE + PAGE, past)
        flags = 3 if content[start:stop] == ZEROS[: stop - start] else 0
        if found and found[-1][1] == flags:
            found[-1] = (found[-1][0] + stop - start, flags)
        else:
            found.append((stop - start, flags))
        start = stop
    return found


def main(path: str, *disks: str) -> None:
    offered = exports(**{name: int(size) for name, _, size in (disk.partition("=") for disk in disks)})
    selector = selectors.DefaultSelector()
    Server(selector, Path(path), offered, Memory(offered))
    while True:
        for key, events in selector.select():
            key.data(events)


if __name__ == "__main__":
    main(*sys.argv[1:])
