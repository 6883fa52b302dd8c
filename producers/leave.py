"""A stream that its site gives up: what stays of it at the source is said, or removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine import errors, places, quotas, registry
from engine.bus.shared import SharedBus
from engine.quotas import Stays
from schemas import topics


async def forget(where: places.Places, stream: registry.Stream, bus: SharedBus, purge: bool) -> list[Stays]:
    """Give up the source side of a stream, which nothing serves any more.  With `purge` its topic and state go.

    The topic first: a crash behind it, and the state still tells of what to remove.  Raises InUse, Transient.
    """
    directory, topic = where.source(stream.stream), topics.stream(stream.identity, stream.prefix)
    hold = places.Hold(directory, f"the source of stream {stream.label}") if directory.exists() else None
    try:
        found = [
            Stays("disk", ", ".join(disk.path for disk in stream.disks if disk.path), None, ours=False),
            Stays("topic", f"{topic} on {stream.bus}", None),
            Stays("state", str(directory), quotas.used(directory)),
        ]
        if purge:
            await (await bus.bus()).delete(topic)
            _remove(where, stream)
        return found
    finally:
        if hold is not None:
            hold.close()


def _remove(where: places.Places, stream: registry.Stream) -> None:
    """The state; the record too, unless a replica here needs it."""
    shutil.rmtree(where.source(stream.stream), ignore_errors=False)
    if registry.Registry(where).replicas(stream.stream):
        return
    record: Path = where.stream(stream.stream)
    if any(record.glob("replica-*")):
        raise errors.InUse(f"{record} has replicas: forget those first")
    shutil.rmtree(record)
