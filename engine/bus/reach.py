"""The bus of a stream or a replica, as its record says: where it is, and whose config tells how to get in."""

from __future__ import annotations

from pathlib import Path

from engine import errors, ports, registry
from engine.bus import connect, security
from engine.daemon import toml


async def reach(record: registry.Stream | registry.Replica, quota: int | None = None) -> ports.Bus:
    """The caller closes it.  Raises what `connect` does."""
    return await reach_config(record.bus, Path(record.config) if record.config else None, quota)


async def reach_config(url: str, config: Path | None, quota: int | None = None) -> ports.Bus:
    """The bus at `url`, by the [kafka] table of the file `config`.  The caller closes it."""
    return await connect.connect(url, quota, security_of(config) if url.startswith("kafka:") else security.PLAIN)


def security_of(config: Path | None) -> security.Security:
    """What the [kafka] table of a file says; without a file, nothing.  Raises Usage, NotFound, naming the line."""
    if config is None:
        return security.PLAIN
    found = toml.read(config)
    table = found.values.get("kafka", {})
    try:
        return security.parse(table if isinstance(table, dict) else {})
    except security.Misset as why:
        raise errors.Usage(f"{found.at(('kafka', why.key))}: {why}") from why
