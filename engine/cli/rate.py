"""`vmferry rate`: how fast a stream may send, now and from now on."""

from __future__ import annotations

import typer

from engine import places, registry, units
from engine.cli import ending, wings


def command(where: places.Places, name: str, limit: str, as_json: bool) -> None:
    """Write the setting that a running process looks at every second.  Raises NotFound, Usage."""
    stream = registry.Registry(where).find(name)
    wanted = units.rate(limit)
    directory = where.source(stream.stream)
    places.make(directory)
    wings.producers().write_rate(directory, wanted)
    running = places.holder(directory) is not None
    if as_json:
        ending.emit({"event": "end", "ok": True, "stream": stream.stream, "rate": wanted, "running": running})
        return
    words = f"at most {units.shown(wanted)}/s" if wanted else "no limit"
    typer.echo(f"{stream.label}: {words}{', from now on' if running else ', once it runs'}")
