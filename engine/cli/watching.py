"""Commands that only look: status, epochs, doctor, topics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Annotated

import typer

from engine import errors, places
from engine.cli import check, choose, daemons, doctor, ending, epochs, figures, options, served, status, topics
from engine.registry import Registry


def add(app: typer.Typer) -> None:
    """Register these commands."""
    app.command("status")(status_)
    app.command("epochs")(epochs_)
    app.command("doctor")(doctor_)
    app.command("topics")(topics.topics_)


def status_(
    stream: options.AnyStream = "",
    check_: Annotated[
        bool, typer.Option("--check", help="For monitoring: one line, and 0 (OK), 1 (warning) or 2 (critical).")
    ] = False,
    max_rpo: Annotated[
        str, typer.Option(metavar="TIME", help=f"With --check: critical beyond it; {check.DEFAULT}.")
    ] = "",
    warn_rpo: Annotated[
        str, typer.Option(metavar="TIME", help="With --check: a warning beyond it; 80 % of --max-rpo.")
    ] = "",
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Tell where streams stand: lag, RPO, what is proved, what waits for what, and what it all takes."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        if check_:
            check.command(where, stream, max_rpo, warn_rpo, as_json, debug)
        if max_rpo or warn_rpo:
            raise errors.Usage("--max-rpo and --warn-rpo are limits for --check: give that, too")
        running = [served.only(one, stream) for one in daemons.answers(where)]
        problems = {one for answer in running for one in answer["problems"]}
        chosen = choose.unserved(Registry(where, newer=_past(problems)), stream, running)
        found = [asyncio.run(figures.stream(where, one, replicas)) for one, replicas in chosen]
        if as_json:
            ending.emit({**status.said(where, found), "daemons": running})
            return
        told = [served.lines(one) for one in running]
        if found or not running:
            told.append(status.lines(where, found))
        typer.echo("\n\n".join("\n".join(one) for one in told))


def _past(named: Collection[str]) -> Callable[[str, errors.Newer], None]:
    """Pass over records of a newer vmferry that a daemon has named; raise others."""

    def look(_stream: str, why: errors.Newer) -> None:
        if str(why) not in named:
            raise why

    return look


def epochs_(
    stream: options.Stream,
    limit: Annotated[int, typer.Option(min=0, metavar="COUNT", help="Only the last so many; 0: all.")] = 0,
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List the epochs that a replica can be rewound to, where it is, what its source let go of, and how it captured."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        found = epochs.said(where, *choose.one(Registry(where), stream), limit)
        if as_json:
            ending.emit(found)
        else:
            typer.echo("\n".join(epochs.lines(found)))


def doctor_(
    bus: Annotated[str, typer.Option(metavar="URL", help="Look at this bus, too: log:PATH, kafka://HOST:PORT.")] = "",
    bus_config: options.BusConfig = "",
    hypervisor: Annotated[
        str, typer.Option(metavar="URI", help="This libvirt has to be there; else qemu:///system is looked at.")
    ] = "",
    scratch: Annotated[
        str, typer.Option(metavar="DIR", help="`scratch` of the source's configuration: may QEMU reach what is in it?")
    ] = places.SCRATCH,
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Tell what this machine can do and what is missing, each with the command that mends it."""
    with ending.told(as_json, debug):
        said = doctor.said(options.places_of(state), bus, bus_config, hypervisor, scratch)
        if as_json:
            ending.emit(said)
        else:
            typer.echo("\n".join(doctor.lines(said)))
        doctor.check(said)
