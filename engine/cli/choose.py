"""Which stream, and which of its replicas, a name on the command line means."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from engine import errors, registry
from engine.registry import Registry, Replica, Stream


def one(known: Registry, name: str) -> tuple[Stream, Replica]:
    """The stream of that name, and its replica.  Raises NotFound, Usage (which of several)."""
    stream = known.find(name)
    replicas = known.replicas(stream.stream)
    wanted = os.path.realpath(name)
    named = [replica for replica in replicas if any(disk.path == wanted for disk in replica.disks)]
    if not replicas:
        raise errors.NotFound(
            f"stream {stream.label} has no replica in {known.places.root}: `vmferry replicate` makes one"
        )
    if len(named or replicas) > 1:
        raise errors.Usage(
            f"stream {stream.label} has {len(replicas)} replicas: name one of {', '.join(paths(replicas))}"
        )
    return stream, (named or replicas)[0]


def some(known: Registry, name: str) -> list[tuple[Stream, list[Replica]]]:
    """The streams of that name, or every stream, each with its replicas.  Raises NotFound."""
    found = known.named(name) if name else known.streams()
    return [(stream, known.replicas(stream.stream)) for stream in found]


def unserved(known: Registry, name: str, answers: Sequence[Mapping[str, Any]]) -> list[tuple[Stream, list[Replica]]]:
    """As `some`, less what daemons told of in `answers`; nothing of what only they may look at or know by that name."""
    if answers and not known.readable:
        return []
    ours = {one["stream"] for answer in answers for one in answer["streams"]}
    try:
        return [one for one in some(known, name) if one[0].stream not in ours]
    except errors.NotFound:
        if not ours:
            raise
        return []


def paths(replicas: list[registry.Replica]) -> list[str]:
    """The images of the replicas."""
    return [replica.disks[0].path for replica in replicas]
