"""The commands of `vmferry`, and the words of their options.  What they do is in the files beside this one."""

from __future__ import annotations

import functools
import sys
from typing import Annotated

import typer

from engine import units
from engine.cli import ending, setting
from engine.cli import replicate as replicating
from engine.cli.options import BusConfig, Debug, Json, State, places_of

app = typer.Typer(
    name="vmferry", no_args_is_help=True, pretty_exceptions_enable=False,
    help="Replicates KVM virtual machine disks between sites as a provable event log.",
)  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        import importlib.metadata  # it loads all that reads e-mail, for which no run should wait

        typer.echo(f"vmferry {importlib.metadata.version('vmferry')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which it is.")
    ] = False,
) -> None:
    """Replicates KVM virtual machine disks between sites as a provable event log."""


@app.command()
def replicate(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The disk: an image, a block device, or an NBD URL.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Its replica; made when it is not there.")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on, with a cut every so often.")] = False,
    every: Annotated[str, typer.Option(metavar="TIME", help="How often, as in 30s or 5m.")] = "30s",
    bus: Annotated[
        str, typer.Option(metavar="URL", help="log:PATH (default: in the state), kafka://HOST:PORT,...")
    ] = "",
    bus_config: BusConfig = "",
    state: State = "",
    name: Annotated[str, typer.Option(metavar="LABEL", help="What the stream is called.")] = "",
    format: Annotated[str, typer.Option(help="Format of SRC: raw, qcow2, luks, vmdk, vhdx, vdi.")] = "",
    target_format: Annotated[str, typer.Option(help="Format of DST.")] = "",
    secret_file: Annotated[str, typer.Option(metavar="FILE", help="Secret of encrypted images.")] = "",
    block_size: Annotated[str, typer.Option(metavar="SIZE", help="Unit of comparison, once for all; 64K.")] = "",
    rate: Annotated[str, typer.Option(metavar="SIZE", help="Bytes per second at most, or off; `vmferry rate`.")] = "",
    undo_quota: Annotated[str, typer.Option(metavar="SIZE", help="Most that pre-images of DST may take.")] = "",
    log_quota: Annotated[str, typer.Option(metavar="SIZE", help="Most that an embedded log may take.")] = "",
    state_quota: Annotated[str, typer.Option(metavar="SIZE", help="Most that maps and digests may take.")] = "",
    adopt: Annotated[bool, typer.Option("--adopt", help="Take a DST that exists: overwrite what differs.")] = False,
    force_share: Annotated[
        bool, typer.Option("--force-share", help="Read a SRC that is in use; proves nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and write nothing.")] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the proof, and trouble.")] = False,
    debug: Debug = False,
) -> None:
    """Bring DST to the state of SRC, and prove it; only what differs travels."""
    with ending.told(as_json, debug):
        wanted = setting.Wanted(
            source, target, bus, name, format, target_format, units.size(block_size) if block_size else None, adopt,
            bus_config,
        )  # fmt: skip
        asked = replicating.Asked(
            every=units.seconds(every) if follow else None,
            rate=units.rate(rate) if rate else None,
            undo_quota=units.size(undo_quota) if undo_quota else 0,
            log_quota=units.size(log_quota) if log_quota else None,
            state_quota=units.size(state_quota) if state_quota else 0,
            secret_file=secret_file, force_share=force_share, as_json=as_json, quiet=quiet, debug=debug,
            dry_run=dry_run,
        )  # fmt: skip
        replicating.command(places_of(state), wanted, asked)


@functools.cache
def whole() -> typer.Typer:
    """`app` with every command."""
    from engine.cli import daemons, keeping, leaving, machine, protecting, rate, watching

    rate.add(app)
    watching.add(app)
    keeping.add(app)
    daemons.add(app, keeping.target)
    leaving.add(app, keeping.target)
    machine.add(keeping.target)
    protecting.add(app)
    return app


def main() -> None:
    """The script.  Ends the process with the code of what happened (docs/EXIT-CODES.md)."""
    # What `replicate` does not need is half of what there is to load: a fifth of a second of each small change.
    made = app if sys.argv[1:2] == ["replicate"] else whole()
    made(prog_name="vmferry")
