"""`vmferry source run` and `vmferry target run`, and what is asked of a running daemon: pause, resume, rate, cut."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine import errors, places
from engine.cli import ending, options, wings
from engine.daemon import config, control
from engine.daemon.daemon import Daemon, socket_of

SIDES = ("source", "target")
source = typer.Typer(no_args_is_help=True, help="The daemon of a source's site.")
Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="Its config, in TOML.")]
Check = Annotated[bool, typer.Option("--check", help="Read the config, say what is wrong with it, and stop.")]


def add(app: typer.Typer, target: typer.Typer) -> None:
    """Register these commands."""
    app.add_typer(source, name="source")
    source.command("run")(source_run)
    target.command("run")(target_run)
    app.command()(pause)
    app.command()(resume)
    app.command()(cut)


def source_run(
    config: Config = Path("/etc/vmferry/source.toml"),
    check: Check = False,
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Follow the disks of this site, as its config says, until SIGTERM; SIGHUP reads the config again."""
    _run("source", config, check, state, as_json, debug)


def target_run(
    config: Config = Path("/etc/vmferry/target.toml"),
    check: Check = False,
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Keep replicas of what this site's rules take, until SIGTERM; SIGHUP reads the config again."""
    _run("target", config, check, state, as_json, debug)


def _run(side: str, file: Path, check: bool, state: str, as_json: bool, debug: bool) -> None:
    with ending.told(as_json, debug):
        if check:
            _checked(config.check(file, side), side, as_json)
            return
        found = config.load(file, side)
        where = places.Places(places.state_directory(state or found.common.state or None))
        logging.basicConfig(
            stream=sys.stderr, level=logging.DEBUG if debug else logging.INFO, format="%(levelname)s %(message)s"
        )
        asyncio.run(_served(side, found, where))


async def _served(side: str, found: config.Config, where: places.Places) -> None:
    wing = wings.producers("daemon").SourceDaemon if side == "source" else wings.consumers("daemon").TargetDaemon
    daemon: Daemon = wing(found, where)
    await daemon.run()


def _checked(found: config.Config, side: str, as_json: bool) -> None:
    names = [one.name for one in found.streams] if side == "source" else [one.streams for one in found.accept]
    if as_json:
        ending.emit({"event": "end", "ok": True, "config": str(found.common.file), side: names})
        return
    what = "streams" if side == "source" else "rules"
    typer.echo(f"{found.common.file}: well; site {found.common.site}, {len(names)} {what}: {', '.join(names)}")


def daemons(where: places.Places) -> list[tuple[str, Path]]:
    """(side, socket) of the daemons that answer for this state."""
    found = [(side, socket_of(where, side)) for side in SIDES]
    return [(side, path) for side, path in found if path.exists() and control.answers(path)]


def ask(where: places.Places, request: dict[str, Any], sides: tuple[str, ...] = SIDES) -> dict[str, Any]:
    """What the daemon answers that has the stream.  Raises NotFound when none runs, or none has it."""
    found = [(side, path) for side, path in daemons(where) if side in sides]
    if not found:
        raise errors.NotFound(
            f"no {' or '.join(sides)} daemon answers in {where.root}: `systemctl start vmferry-{sides[-1]}`, or name"
            " its state with --state"
        )
    for number, (side, path) in enumerate(found, 1):
        try:
            return {"daemon": side, **control.ask(path, request)}
        except errors.NotFound:
            if number == len(found):
                raise
    raise errors.NotFound("no daemon has it")


def pause(
    stream: options.Stream, state: options.State = "", as_json: options.Json = False, debug: options.Debug = False
) -> None:
    """Let a stream of a daemon rest, also over restarts, until `resume`."""
    _wish("pause", stream, state, as_json, debug, "paused: `vmferry resume` lets it go on")


def resume(
    stream: options.Stream, state: options.State = "", as_json: options.Json = False, debug: options.Debug = False
) -> None:
    """Let a stream that was paused go on."""
    _wish("resume", stream, state, as_json, debug, "goes on")


def cut(
    stream: options.Stream, state: options.State = "", as_json: options.Json = False, debug: options.Debug = False
) -> None:
    """Make the next cut of a stream now, not when its time comes."""
    with ending.told(as_json, debug):
        said = ask(options.places_of(state), {"do": "cut", "stream": stream}, ("source",))
        _say(said, f"{said['label']}: the next cut begins", as_json)


def _wish(do: str, stream: str, state: str, as_json: bool, debug: bool, words: str) -> None:
    with ending.told(as_json, debug):
        said = ask(options.places_of(state), {"do": do, "stream": stream})
        _say(said, f"{said['label']}: {words}", as_json)


def _say(said: dict[str, Any], words: str, as_json: bool) -> None:
    if as_json:
        ending.emit({"event": "end", "ok": True, **said})
    else:
        typer.echo(words)
