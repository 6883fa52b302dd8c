"""`vmferry target definition`: the machine of a replica, for libvirt to take over at the target's host."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any

import typer

from engine import errors, linux, places
from engine.cli import choose, ending, kept, options
from engine.hypervisor import definition
from engine.registry import Disk, Registry, Replica, Stream
from engine.store import peek
from engine.store.replicas import KeptEpoch, State

_MODE = 0o600
"""Keys and boot passwords may be in it."""


def add(target: typer.Typer) -> None:
    """Register this command."""
    target.command("definition")(definition_)


def definition_(
    stream: options.Stream,
    epoch: Annotated[
        int, typer.Option(min=0, metavar="EPOCH", help="As it was at an epoch that is kept; else where the replica is.")
    ] = 0,
    nvram: Annotated[
        str, typer.Option(metavar="FILE", help="Write the UEFI variables there, and let the machine use them.")
    ] = "",
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Print the machine as libvirt takes it, its disks being the replica: for `virsh define /dev/stdin`."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        said = command(where, *choose.one(Registry(where), stream), epoch, nvram)
        if as_json:
            ending.emit(said)
            return
        for note in said["notes"]:
            typer.echo(f"vmferry: {note}", err=True)
        typer.echo(said["xml"], nl=False)


def command(where: places.Places, stream: Stream, replica: Replica, epoch: int, nvram: str) -> dict[str, Any]:
    """The object of --json.  Raises NotFound where nothing is known of the machine, or not of that epoch."""
    path = where.replica(stream.stream, replica.replica) / "state.sqlite"
    if not replica.begun:
        raise errors.NotFound(f"the replica {replica.disks[0].path} holds no epoch yet")
    now, found, _ = peek.replica(path)
    at = epoch or now.position.epoch
    _check_kept(at, now, found)
    known = peek.definition(path, at)
    if known is None:
        raise errors.NotFound(
            f"stream {stream.label} has said nothing of its machine up to epoch {at}: its source is no VM of"
            " libvirt, or older than that"
        )
    goal = os.path.abspath(nvram) if nvram else ""
    fitted = definition.fitted(known, {disk.name: _place(disk) for disk in replica.disks}, goal)
    if goal:
        _keep(Path(goal), known.nvram)
    return {
        "event": "end", "ok": True, "stream": stream.stream, "label": stream.label, "target": replica.disks[0].path,
        "epoch": at, "position": kept.position(now.position), "form": known.form.value, "xml": fitted.text,
        "nvram": goal or None, "nvram_bytes": len(known.nvram),
        "notes": [*_warnings(stream, replica, now, at), *fitted.notes],
    }  # fmt: skip


def _check_kept(epoch: int, now: State, found: list[KeptEpoch]) -> None:
    known = [one.position.epoch for one in found]
    if epoch not in (now.position.epoch, *known):
        words = ", ".join(map(str, known)) or "none"
        raise errors.NotFound(f"epoch {epoch} is not kept; these are: {words}; the replica is at {now.position.epoch}")


def _place(disk: Disk) -> definition.Place:
    """Raises Usage for a replica that libvirt has no file of."""
    if "://" in disk.path:
        raise errors.Usage(f"the replica {disk.path} is an export of a server: a machine here needs a file or a device")
    try:
        block = stat.S_ISBLK(os.stat(disk.path).st_mode)
    except OSError as why:
        raise linux.failure(why, disk.path, "look at it", opening=True) from why
    return definition.Place(os.path.abspath(disk.path), disk.format, block)


def _warnings(stream: Stream, replica: Replica, now: State, epoch: int) -> list[str]:
    """What must be done before the machine may be started."""
    found = []
    if epoch != now.position.epoch:
        found.append(
            f"its disks are at epoch {now.position.epoch}: `vmferry target rewind {stream.label} --to {epoch}` takes"
            " them back"
        )
    elif not now.position.usable:
        found.append(f"the replica is at {kept.at_epoch(kept.position(now.position))}")
    if not (replica.held or now.held):
        found.append(
            f"the replica is still applied to: `vmferry target release {stream.label}` before the machine is started"
        )
    return found


def _keep(path: Path, data: bytes) -> None:
    """Durably, and never over what is there: a machine may be using it.  Raises Usage, Full, DeviceFailed."""
    if os.path.lexists(path):
        raise errors.Usage(f"{path} is there already: name another file, or remove it if no machine uses it")
    linux.replace_bytes(path, data, _MODE)
