"""A machine as a source, opened."""

from __future__ import annotations

import contextlib
from pathlib import Path

from engine import registry
from engine.pool import Pool
from producers.absent import Absent
from producers.anchor import Anchor, FileStore
from producers.machine.fleet import Captured
from producers.machine.freeze import Freezer
from producers.machine.source import MachineSource, Manner
from producers.machine.view import make_place


async def open_machine(
    stack: contextlib.AsyncExitStack, stream: registry.Stream, directory: Path, given_up: frozenset[str],
    captured: Captured, pool: Pool,
) -> MachineSource:  # fmt: skip
    """The machine, of which nothing is left as a killed run left it."""
    machines = await captured.hypervisor()
    place = make_place(captured.scratch, stream.stream, await machines.qemu_user())
    freezer = Freezer(machines, captured.url, stream.stream, directory) if captured.freeze else None
    absent = [
        Absent(disk.name, index, disk.name in given_up)
        for index, disk in enumerate(stream.disks) if not disk.path
    ]  # fmt: skip
    source = MachineSource(
        machines, stream.stream, stream.disks, absent, Anchor(FileStore(directory)), place,
        Manner(captured.checkpoints, captured.exclude, freezer), pool,
    )  # fmt: skip
    stack.push_async_callback(source.end)
    await source.tidy()
    return source
