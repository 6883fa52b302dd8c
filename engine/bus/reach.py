"""The bus of a stream or a replica, as its record says: where it is, and whose config tells how to get in."""

from __future__ import annotations

from pathlib import Path

from engine import ports, registry
from engine.bus import connect


async def reach(record: registry.Stream | registry.Replica, quota: int | None = None) -> ports.Bus:
    """The caller closes it.  Raises what `connect` does."""
    return await reach_config(record.bus, Path(record.config) if record.config else None, quota)


async def reach_config(url: str, config: Path | None, quota: int | None = None) -> ports.Bus:
    """The bus at `url`, by the [kafka] table of the file `config`.  The caller closes it."""
    return await connect.connect(url, quota)
