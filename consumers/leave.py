"""A replica that its site gives up: its source waits for it no more, and what stays is said, or removed."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from consumers import upkeep
from engine import errors, linux, places, quotas, registry
from engine.bus.reach import reach
from engine.daemon import wishes
from engine.device import images
from engine.quotas import Stays
from engine.store import peek
from schemas import receipts, topics, wire
from schemas.identity import Address


def stays(where: places.Places, record: registry.Replica) -> list[Stays]:
    """What belongs to a replica on this machine."""
    directory = where.replica(record.stream, record.replica)
    disks = [disk.path for disk in record.disks]
    files = [Stays("replica", path, quotas.used(Path(path))) for path in disks if isinstance(images.parse(path), str)]
    undo = directory / quotas.PRE_IMAGES
    return [
        *files,
        Stays("undo log", str(undo), quotas.used(undo)),
        Stays("state", str(directory), quotas.used(directory, quotas.PRE_IMAGES)),
    ]


async def say_left(where: places.Places, record: registry.Replica) -> str:
    """Tell the source that it need not wait for this replica.  Gives why it could not be told, or nothing."""
    directory = where.replica(record.stream, record.replica)
    try:
        state, _, _ = peek.replica(directory / "state.sqlite")
    except errors.FerryError as why:
        return f"its state cannot be read ({why}): `vmferry forget` it at the source, too"
    sender = receipts.Sender(state.replica, state.nonce, state.next_receipt)
    seal = state.position.seal
    left = wire.pack_receipt(
        state.stream, Address(seal.generation, seal.attempt, seal.epoch, 0), sender, receipts.Left(state.position)
    )
    try:
        async with contextlib.AsyncExitStack() as stack:
            bus = await reach(record)
            stack.push_async_callback(bus.close)
            answers = await bus.open(topics.receipts(record.prefix), write=True, shared=True)
            await answers.append([left])
            await answers.sync()
    except errors.FerryError as why:
        return f"its source could not be told ({why}): `vmferry forget` it there, too, or its log is kept for long"
    return ""


async def forget(where: places.Places, record: registry.Replica, purge: bool) -> tuple[list[Stays], str]:
    """Give up a replica.  With `purge` image, undo log and state are removed, else they stay, and are listed.

    Recovered first, so that what stays is a whole epoch.  The record goes last: a crash before it, and the same command
    goes on.  Raises InUse while something applies to it.
    """
    if record.begun and not record.held:
        with contextlib.suppress(errors.NotFound):  # the image is gone already
            await upkeep.recover(where, record)
    found, note = stays(where, record), await say_left(where, record)
    # From here on no rule takes it again.
    wishes.save(where.stream(record.stream), wishes.Wishes(forgotten=True))
    _let_go(where.replica(record.stream, record.replica), record, purge)
    return found, note


def _let_go(directory: Path, record: registry.Replica, purge: bool) -> None:
    for disk in record.disks if purge else ():
        if isinstance(images.parse(disk.path), str):
            Path(disk.path).unlink(missing_ok=True)
    (directory / "replica.json").rename(directory / "replica.json.forgotten")
    # Durable: a record that came back with the power would be served again, by a site that said that it left.
    linux.sync_directory(str(directory / "replica.json"))
    stream = directory.parent / "stream.json"
    if not (directory.parent / "source").exists() and not any(directory.parent.glob("replica-*/replica.json")):
        stream.rename(stream.with_suffix(".json.forgotten"))  # nothing of it is served here any more
    if purge:
        shutil.rmtree(directory)
