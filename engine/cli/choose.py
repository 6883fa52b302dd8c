"""Which stream, and which of its replicas, a name on the command line means."""

from __future__ import annotations

import os

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


def paths(replicas: list[registry.Replica]) -> list[str]:
    """The images of the replicas."""
    return [replica.disks[0].path for replica in replicas]
