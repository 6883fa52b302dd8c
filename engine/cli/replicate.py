"""`vmferry replicate`: what is said before, meanwhile and after."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

import typer

from engine import places, quotas, registry, units
from engine.cli import dryrun, ending, setting, summary, view, wings
from engine.cli.replication import Choices, Numbers, Replication
from engine.cli.stopping import Stopping


@dataclass(frozen=True, slots=True)
class Asked:
    """The options that are about how, not about what."""

    every: float | None = None
    rate: int | None = None
    undo_quota: int = 0
    log_quota: int | None = None
    state_quota: int = 0
    secret_file: str = ""
    force_share: bool = False
    as_json: bool = False
    quiet: bool = False
    dry_run: bool = False
    debug: bool = False


def command(where: places.Places, wanted: setting.Wanted, asked: Asked) -> None:
    """Run it, and say what came of it.  Raises what ends it."""
    if asked.dry_run:
        dryrun.command(
            where, wanted, asked.secret_file, asked.force_share, asked.undo_quota, asked.state_quota, asked.rate or 0,
            asked.as_json,
        )  # fmt: skip
        return
    with setting.settled(where):
        pair = asyncio.run(setting.pair(where, wanted))
        records = registry.Registry(where)
        before = next((one for one in records.streams() if one.stream == pair.stream.stream), pair.stream)
        # Another bus is remembered by the sides, once it was reached.
        records.save(replace(pair.stream, bus=before.bus))
        records.save(replace(pair.replica, bus=before.bus))
        quotas.keep(where.stream(pair.stream.stream), quotas.STATE, asked.state_quota)
    choices = Choices(
        wings.producers().Options(asked.rate, asked.log_quota, asked.force_share, asked.secret_file),
        wings.consumers().Options(pair.sizes, asked.secret_file, asked.undo_quota),
        asked.every,
        not asked.force_share,
        asked.state_quota,
    )
    run, began = Replication(where, pair, choices), time.monotonic()
    with Stopping() as stopping:
        ended = _watched(run, stopping, asked)
    if not ended:
        raise ending.Interrupted(summary.on_interrupt(run.numbers, sum(pair.sizes)))
    _say(summary.of(run, time.monotonic() - began), asked)


def _watched(run: Replication, stopping: Stopping, asked: Asked) -> bool:
    shown = view.make(asked.as_json, asked.quiet, asked.debug)
    told = 0

    def watch(numbers: Numbers) -> bool:
        nonlocal told
        shown.show(numbers)
        if asked.every is not None and len(run.outcomes) > told:
            told = len(run.outcomes)
            _say_pass(run, asked)
        return not stopping.wanted

    try:
        return run.run(watch)
    finally:
        shown.close()


def _say_pass(run: Replication, asked: Asked) -> None:
    """With --follow: a line for each cut that is applied."""
    said = summary.of(run, 0.0)
    if asked.as_json:
        ending.emit({**said, "event": "cut"})
    elif not asked.quiet and (said["epochs"] or len(run.outcomes) == 1):
        proved = "proved" if said["proved"] else "applied, not proved"
        typer.echo(f"{said['instant']} epoch {said['epoch']} {proved}, sent {units.shown(said['sent'])} so far")


def _say(said: dict[str, object], asked: Asked) -> None:
    if asked.as_json:
        ending.emit(said)
    elif asked.quiet:
        typer.echo(summary.proof(said))
    else:
        typer.echo("\n".join(summary.lines(said)))
