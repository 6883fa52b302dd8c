"""What survives a process."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.device.memory import MemoryDevice
from engine.store import replicas
from engine.store.memory import MemoryFile
from engine.store.sources import MemorySourceStore
from tests.support.sim.guest import AnchorDisk


@dataclass
class SourceDisk:
    """What survives a producer."""

    files: dict[str, MemoryFile] = field(default_factory=dict)
    store: MemorySourceStore = field(default_factory=MemorySourceStore)
    anchor: AnchorDisk = field(default_factory=AnchorDisk)


@dataclass
class ReplicaDisk:
    """What survives a replica."""

    name: bytes
    devices: list[MemoryDevice]
    files: dict[str, MemoryFile] = field(default_factory=dict)
    store: replicas.MemoryReplicaStore = field(default_factory=replicas.MemoryReplicaStore)
