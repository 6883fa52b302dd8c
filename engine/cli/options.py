"""Options and arguments that several commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

from engine import errors, places, registry

State = Annotated[
    str, typer.Option(metavar="DIR", help="Where state lies.  Else $VMFERRY_STATE, /var/lib/vmferry as root, or XDG's.")
]
Json = Annotated[bool, typer.Option("--json", help="Objects on stdout, one a line; the last one always comes.")]
BusConfig = Annotated[
    str, typer.Option("--bus-config", metavar="FILE", help="Its [kafka] table says how to get in: TLS, user, password.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Tell more, with tracebacks.")]
Secret = Annotated[str, typer.Option("--secret-file", metavar="FILE", help="Secret of an encrypted replica.")]


def streams(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The streams whose label or UUID begins so, each with its source: for the shell to complete."""
    where = places.Places(places.state_directory(ctx.params.get("state") or None))
    try:
        known = registry.Registry(where).streams()
    except (errors.FerryError, OSError) as why:
        # A shell that completes shows nothing of an error; the command itself will.
        return [(incomplete, str(why))] if incomplete else []
    labels = [(one.label, one.disks[0].path) for one in known if one.label.startswith(incomplete)]
    return labels or [(one.stream, one.label) for one in known if one.stream.startswith(incomplete)]


STREAM_HELP = "Its label, UUID or the beginning of it, source or replica."
Stream = Annotated[str, typer.Argument(metavar="STREAM", help=STREAM_HELP, autocompletion=streams)]
AnyStream = Annotated[str, typer.Argument(metavar="[STREAM]", help=STREAM_HELP, autocompletion=streams)]


def places_of(state: str) -> places.Places:
    """The layout below --state, or where state lies without it."""
    return places.Places(places.state_directory(state or None))
