"""`vmferry source run` and `vmferry target run`, and what is asked of a running daemon: pause, resume, rate, cut."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from engine import errors, places
from engine.cli import ending, logs, options, wings
from engine.cli.meter import Meter
from engine.daemon import config, control
from engine.daemon.daemon import Daemon, socket_of

SIDES = ("source", "target")
RUN = Path("/run/vmferry")
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
    log_format: logs.FormatOption = logs.Format.TEXT,
    log_level: logs.LevelOption = logs.Level.INFO,
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Follow the disks of this site, as its config says, until SIGTERM; SIGHUP reads the config again."""
    logs.configure(log_format, log_level)
    _run("source", config, check, state, as_json, debug)


def target_run(
    config: Config = Path("/etc/vmferry/target.toml"),
    check: Check = False,
    log_format: logs.FormatOption = logs.Format.TEXT,
    log_level: logs.LevelOption = logs.Level.INFO,
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Keep replicas of what this site's rules take, until SIGTERM; SIGHUP reads the config again."""
    logs.configure(log_format, log_level)
    _run("target", config, check, state, as_json, debug)


def _run(side: str, file: Path, check: bool, state: str, as_json: bool, debug: bool) -> None:
    with ending.told(as_json, debug):
        if check:
            _checked(config.check(file, side), side, as_json)
            return
        found = config.load(file, side)
        where = places.Places(places.state_directory(state or found.common.state or None))
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
    what = f"{'stream' if side == 'source' else 'rule'}{'' if len(names) == 1 else 's'}"
    typer.echo(f"{found.common.file}: well; site {found.common.site}, {len(names)} {what}: {', '.join(names)}")
    for rule in found.accept:
        if not Path(rule.base).is_dir():
            typer.echo(f"warning: {rule.where}: {rule.base} is not there; replicas are taken once it is")


def daemons(where: places.Places) -> list[tuple[str, Path]]:
    """(side, socket) of the daemons that answer for this state.  Raises Usage when none of them is ours to call."""
    found, refused = list[tuple[str, Path]](), list[errors.Usage]()
    for side in SIDES:
        for path in _sockets(where, side):
            try:
                found += [(side, path)] if control.answers(path) else []
            except errors.Usage as why:
                refused.append(why)
    if not found and os.path.isdir(where.root) and not os.access(where.root, os.X_OK):
        refused.append(control.refused(where.root))
    if refused and not found:
        raise refused[0]
    return found


def _sockets(where: places.Places, side: str) -> list[Path]:
    """Where the socket of a side may be: beside the state; for whoever may not look there, where systemd puts it."""
    try:
        if (beside := socket_of(where, side)).exists():
            return [beside]
    except PermissionError:
        return [RUN / f"{side}.sock"]
    usual = where.root in (places.state_directory(None), Path("/var/lib/vmferry"))
    # Somebody with a state of his own is not refused for a daemon of the system that is not his to call.
    return [path for path in [RUN / f"{side}.sock"] if usual and os.access(path, os.W_OK)]


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


def answers(where: places.Places) -> list[dict[str, Any]]:
    """What each running daemon answers to `status`."""
    return [control.ask(path, {"do": "status"}) for _, path in daemons(where)]


def chore(where: places.Places, request: dict[str, Any], as_json: bool = False) -> dict[str, Any] | None:
    """Have the target's daemon do it, and wait for its end; None when none runs that has the stream.

    Who does not wait for it (Ctrl-C) leaves it going.  Raises what ended it.
    """
    try:
        begun = ask(where, request, ("target",))
    except errors.NotFound:
        return None
    with Meter(begun["words"], begun["total"], as_json) as meter:
        done = 0
        while True:
            now = ask(where, {"do": "chore", "chore": begun["chore"]}, ("target",))
            meter.told(now["done"] - done)
            done = now["done"]
            if now["ended"]:
                break
            time.sleep(0.2)
    if now["failed"]:
        raise getattr(errors, now["failed"], errors.FerryError)(now["message"])
    said: dict[str, Any] = now["said"]
    return said


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
