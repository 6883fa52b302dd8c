"""`vmferry rate`: how fast a stream may send, now and from now on."""

from __future__ import annotations

from typing import Annotated

import typer

from engine import errors, places, registry, units
from engine.cli import daemons, ending, options, wings


def add(app: typer.Typer) -> None:
    """Register this command."""
    app.command("rate")(rate_)


def rate_(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="Its label, UUID, source or replica.")],
    limit: Annotated[str, typer.Argument(metavar="SIZE", help="Bytes per second, as in 20M; or off.")],
    state: options.State = "",
    as_json: options.Json = False,
) -> None:
    """Limit how fast a stream may send, also while it runs."""
    with ending.told(as_json):
        _limit(options.places_of(state), stream, limit, as_json)


def _limit(where: places.Places, name: str, limit: str, as_json: bool) -> None:
    """Ask the daemon that has the stream; without one, write the setting that a running `replicate` looks at every
    second.  Raises NotFound, Usage."""
    try:
        said = daemons.ask(where, {"do": "rate", "stream": name, "rate": limit}, ("source",))
    except errors.NotFound:
        _written(where, name, limit, as_json)
    else:
        _say(said["stream"], said["label"], said["rate"], True, as_json)


def _written(where: places.Places, name: str, limit: str, as_json: bool) -> None:
    stream = registry.Registry(where).find(name)
    wanted = units.rate(limit)
    directory = where.source(stream.stream)
    places.make(directory)
    wings.producers().write_rate(directory, wanted)
    _say(stream.stream, stream.label, wanted, places.holder(directory) is not None, as_json)


def _say(stream: str, label: str, wanted: int, running: bool, as_json: bool) -> None:
    if as_json:
        ending.emit({"event": "end", "ok": True, "stream": stream, "rate": wanted, "running": running})
        return
    words = f"at most {units.shown(wanted)}/s" if wanted else "no limit"
    typer.echo(f"{label}: {words}{', from now on' if running else ', once it runs'}")
