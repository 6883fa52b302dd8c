"""`vmferry protect` and `unprotect`: a machine of libvirt's, asked of the source daemon."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engine import units
from engine.cli import daemons, ending, leaving, options

Machine = Annotated[str, typer.Argument(metavar="VM", help="Its name or UUID, as `virsh list --all` has them.")]


def add(app: typer.Typer) -> None:
    """Register these commands."""
    app.command()(protect)
    app.command()(unprotect)


def protect(
    vm: Machine,
    mode: Annotated[
        str, typer.Option(help="auto, or no better than: checkpoint (reads what changed), scan (reads everything).")
    ] = "auto",
    every: Annotated[str, typer.Option(metavar="TIME", help="How often a cut is made, as in 30s or 5m.")] = "",
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Have the guest agent freeze file systems around each cut.")
    ] = False,
    exclude: Annotated[list[str] | None, typer.Option(metavar="DISK", help="A disk to leave out, as vdb.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be captured, and change nothing.")] = False,
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Replicate a virtual machine while it runs: all its disks at one instant, and its definition."""
    with ending.told(as_json, debug):
        if every:
            units.seconds(every)
        asked = {
            "do": "protect", "machine": vm, "mode": mode, "every": every, "freeze": freeze, "exclude": exclude or [],
            "dry_run": dry_run,
        }  # fmt: skip
        said = daemons.ask(options.places_of(state), asked, ("source",))
        leaving.say(said, _lines(said), as_json)


def _lines(said: dict[str, Any]) -> list[str]:
    verb = "would be protected" if said["dry_run"] else "is protected"
    found = [f"{said['label']} ({said['stream']}) {verb}:"]
    for one in said["disks"]:
        if not one["excluded"]:
            found.append(f"  {one['name']:<6} {one['path']}, {one['format']}, {units.shown(one['size'])}")
    found += [f"note: {one}" for one in said["warnings"]]
    return found if said["dry_run"] else [*found, f"`vmferry status {said['label']}` tells how it goes"]


def unprotect(
    vm: Machine,
    purge: Annotated[bool, typer.Option("--purge", help="Remove its topic and state too, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Let a virtual machine go: no bitmap, job or file of vmferry's stays with it."""
    with ending.told(as_json, debug):
        if purge and not yes:
            leaving.confirm(f"Remove the topic and the state of {vm} at this site?", as_json)
        asked = {"do": "unprotect", "machine": vm, "purge": purge}
        said = daemons.ask(options.places_of(state), asked, ("source",))
        leaving.say(said, leaving.lines(said), as_json)
