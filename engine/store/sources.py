"""What a source remembers beside its map.  The port, and its twin in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from schemas.identity import GENESIS, NO_NONCE, Attempt, Chain, Volume


@dataclass(frozen=True, slots=True)
class SourceState:
    """`chain` and `epoch` are those of the last seal known to be on the bus, `offset` the place behind it.

    `highest` is the highest epoch number used by anyone.  `seed` keys the prints.  `peers` are the replicas that are
    waited for.  `rebuilding` is set while the map is made anew from the source, after a loss.
    """

    stream: bytes
    label: str
    seed: int
    volumes: tuple[Volume, ...] = ()
    generation: int = 1
    attempt: Attempt = Attempt(0, NO_NONCE)
    chain: Chain = GENESIS
    epoch: int = 0
    highest: int = 0
    offset: int = 0
    peers: tuple[bytes, ...] = ()
    rebuilding: bool = False


class SourceStore(Protocol):
    """Durable when a method returns."""

    def load(self) -> SourceState: ...

    def commit(self, state: SourceState) -> None: ...

    def close(self) -> None: ...


@dataclass
class MemorySourceStore:
    """Twin of the SQLite store: `disk` outlives the object."""

    disk: dict[str, SourceState] = field(default_factory=dict)

    def load(self) -> SourceState:
        return self.disk["state"]

    def commit(self, state: SourceState) -> None:
        self.disk["state"] = state

    def close(self) -> None:
        """Nothing is held open."""
