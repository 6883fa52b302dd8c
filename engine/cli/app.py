"""The commands, and how each of them ends: a sentence and an exit code for everything that is said on purpose."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from engine import errors, places
from engine.cli import replicate as replicating
from engine.cli import setting

app = typer.Typer(
    name="vmferry", no_args_is_help=True, pretty_exceptions_enable=False,
    help="Replicates KVM virtual machine disks between sites as a provable event log.",
)  # fmt: skip
UNEXPECTED = 70
"""A bug of ours (EX_SOFTWARE of sysexits.h)."""


@app.callback()
def _root() -> None:
    """Replicates KVM virtual machine disks between sites as a provable event log."""


@app.command()
def replicate(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="image of a disk: a file, a block device, or an NBD URL")
    ],
    target: Annotated[str, typer.Argument(metavar="DST", help="where its replica lies; made when it is not there")],
    state: Annotated[str, typer.Option(help="where state lies")] = "",
    bus: Annotated[str, typer.Option(help="log:PATH or kafka://HOST:PORT,...")] = "",
    name: Annotated[str, typer.Option(help="what the stream is called")] = "",
    adopt: Annotated[bool, typer.Option("--adopt", help="take an existing DST and overwrite what differs")] = False,
) -> None:
    """Bring DST to the state of SRC, and prove it."""
    wanted = setting.Wanted(source, target, bus, name, adopt=adopt)
    replicating.command(places.Places(places.state_directory(state)), wanted)


def main() -> None:
    """The script.  Ends the process with the code of what happened (docs/EXIT-CODES.md)."""
    try:
        app(standalone_mode=True)
    except errors.FerryError as why:
        sys.stderr.write(f"vmferry: {why}\n")
        sys.exit(why.exit_code)
