"""`vmferry target move`, `target take` and `forget`: a replica to another place, and a stream that is given up."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from engine import errors, places, units
from engine.cli import choose, daemons, ending, kept, options, wings
from engine.cli.meter import Meter
from engine.registry import Registry


def add(app: typer.Typer, target: typer.Typer) -> None:
    """Register these commands."""
    app.command()(forget)
    target.command()(move)
    target.command()(take)


def move(
    stream: options.Stream,
    path: Annotated[str, typer.Argument(metavar="PATH", help="Where the replica is to lie; nothing may be there.")],
    disk: Annotated[str, typer.Option(metavar="NAME", help="Which disk, where the stream has several.")] = "",
    format: Annotated[str, typer.Option(help="Format of the new image; else that of the old.")] = "",
    state: options.State = "",
    secret_file: options.Secret = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Move a replica: it is copied, compared with its digests from the medium, and then taken; the stream goes on."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        asked = {"do": "move", "stream": stream, "path": path, "format": format, "disk": disk}
        said = daemons.chore(where, asked, as_json)
        if said is None:
            found, replica = choose.one(Registry(where), stream)
            # Copied, and read back.
            with Meter("moving", 2 * kept.size(where, replica), as_json) as meter:
                mover = wings.consumers("move")
                done = asyncio.run(mover.move(where, replica, path, meter.told, format, secret_file, disk))
            said = kept.moved(found, done)
        copied = units.shown(said["copied"])
        which = f"{said['disk']} of its replica" if len(said["disks"]) > 1 else "its replica"
        told = f"{said['label']}: {which} is {said['target']} now; {copied} of data, equal to its digests"
        say(said, [told, f"the old one stays until you remove it: {said['old']}"], as_json)


def take(
    stream: options.Stream, state: options.State = "", as_json: options.Json = False, debug: options.Debug = False
) -> None:
    """Let the rules of a target take a stream that was forgotten there."""
    with ending.told(as_json, debug):
        said = daemons.ask(options.places_of(state), {"do": "take", "stream": stream}, ("target",))
        words = "it is taken" if said["taken"] else f"not taken: {said['why']}"
        say(said, [f"{stream}: {words}"], as_json)


def forget(
    stream: options.Stream,
    replica: Annotated[
        str, typer.Option(metavar="ID", help="At a source: only this replica, for which it waits no more.")
    ] = "",
    purge: Annotated[bool, typer.Option("--purge", help="Remove what would stay, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Give a stream up at this site, and say what stays of it."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        if purge and not yes:
            confirm(f"Remove what there is of {stream} at this site: state, pre-images, replica or log?", as_json)
        said = _forgotten(where, {"do": "forget", "stream": stream, "purge": purge, "replica": replica}, as_json)
        say(said, lines(said), as_json)


def confirm(question: str, as_json: bool) -> None:
    """Raises Usage where the answer is no, or nobody can be asked."""
    if as_json:
        raise errors.Usage("--purge asks before it removes anything: with --json, give --yes")
    if not typer.confirm(question):
        raise errors.Usage("nothing was removed")


def _forgotten(where: places.Places, asked: dict[str, Any], as_json: bool) -> dict[str, Any]:
    """By the daemon that has the stream; without one, by what is kept here."""
    for side, _ in daemons.daemons(where):
        try:
            if side == "source":
                return daemons.ask(where, asked, ("source",))
            if (said := daemons.chore(where, asked, as_json)) is not None:
                return said
        except errors.NotFound:
            continue
    if asked["replica"]:
        raise errors.NotFound("no source daemon has that stream: --replica is for a running one")
    found, replica = choose.one(Registry(where), asked["stream"])
    stays, note = asyncio.run(wings.consumers("leave").forget(where, replica, asked["purge"]))
    return kept.forgotten(found, stays, note, asked["purge"])


def lines(said: dict[str, Any]) -> list[str]:
    head = f"{said['label']}: forgotten{', and removed' if said['purged'] else ''}"
    found = [f"{'gone' if one['removed'] else 'stays':<10} {_what(one)}" for one in said["stays"]]
    found += (
        []
        if said["purged"] or not said["stays"]
        else ["`vmferry forget --purge` would have removed it; now `rm -r` does"]
    )
    return [head, *found, *([f"note: {said['note']}"] if said["note"] else [])]


def _what(one: dict[str, Any]) -> str:
    size = "" if one["bytes"] is None else f", {units.shown(one['bytes'])}"
    return f"{one['what']}: {one['path']}{size}"


def say(said: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        ending.emit({"event": "end", "ok": True, **said})
    else:
        typer.echo("\n".join(lines))
