"""A keeper of a tap, for tests; what it began ends with the test, whoever began it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from engine import errors
from producers.tap import identity
from producers.tap.keeper import Keeper, Status
from producers.tap.record import Entry, Kind
from tests.support import tools
from tests.support.writing import Writer, number_of

DISKS = {"vda": 8 << 20, "vdb": 4 << 20}
PATIENCE = 60

DAEMON = """
import asyncio, sys
from pathlib import Path
from producers.tap.keeper import Keeper

async def main():
    where = Path(sys.argv[1])
    keeper = Keeper(where / "home", where / "sockets", "web-1")
    found = await keeper.begin({"vda": 8 << 20, "vdb": 4 << 20})
    print("found" if found else "begun", (await keeper.status()).pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def made(where: Path) -> Keeper:
    (where / "sockets").mkdir(exist_ok=True)
    return Keeper(where / "home", where / "sockets", "web-1")


@contextlib.asynccontextmanager
async def keeping(where: Path) -> AsyncIterator[Keeper]:
    keeper = made(where)
    try:
        yield keeper
    finally:
        await keeper.close()
        for pid in processes(where):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def daemon(where: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, int]]:
    """A process that keeps the tap, in a group of its own, all of which is killed at the end; whether it has "begun"
    or "found" the tap, and the tap's process id."""
    (where / "sockets").mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, str(where), cwd=tools.ROOT, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        words = (await process.stdout.readline()).decode().split()
        yield process, words[0], int(words[1])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def until(keeper: Keeper, wanted: Callable[[Status], bool]) -> Status:
    """Its status, once that is so."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(errors.Transient):  # it is hanging, or ending
                if wanted(status := await keeper.status()):
                    return status
            await asyncio.sleep(0.01)


async def written(keeper: Keeper, count: int) -> Writer:
    """A guest that wrote so much, and was answered."""
    writer = Writer(keeper.socket)
    running = asyncio.ensure_future(writer.run())
    await writer.until(count)
    writer.going = False
    await running
    return writer


async def found(keeper: Keeper, number: int = 0) -> list[Entry]:
    """All that is durable from `number` on, once all that was numbered is, and is shown."""
    status = await until(keeper, lambda status: not status.alive or status.durable == status.number)
    entries: list[Entry] = []
    async with asyncio.timeout(PATIENCE):
        while number < max(status.number, (await keeper.ends())[1]):
            more = await keeper.read(number, 1 << 20)
            entries += more
            number = more[-1].number + 1 if more else number
    return entries


def writes(entries: list[Entry]) -> list[int]:
    return [number_of(entry.data) for entry in entries if entry.kind is Kind.WRITTEN]


async def kill(process: identity.Process | None) -> None:
    assert process is not None
    with process.held() as held:
        assert held is not None
        assert await asyncio.to_thread(identity.kill, held, PATIENCE)


async def kill_tap(where: Path) -> None:
    await kill(identity.load(where / "home" / "spool"))


def watchdog(where: Path) -> identity.Process | None:
    """The one that was begun last."""
    return identity.read(where / "home" / "watchdog.json")


def processes(where: Path, what: str = "") -> list[int]:
    """Ids of the taps ("run") and watchdogs ("watch") that have their order there."""
    order = str(where / "home" / "order.json")
    ids = []
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (one / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if order in words and what in ("", words[words.index(order) - 1]):
                ids.append(int(one.name))
    return sorted(ids)


def files(where: Path) -> list[str]:
    return sorted(str(path.relative_to(where)) for path in where.rglob("*"))


def sockets(where: Path) -> list[Path]:
    return [path for path in where.rglob("*") if path.is_socket()]


def links(pid: int | str) -> set[str]:
    """What a process has open."""
    return {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
