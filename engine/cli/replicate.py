"""`vmferry replicate`: what is said before, meanwhile and after."""

from __future__ import annotations

import asyncio
import time

import typer

from engine import places, registry, units
from engine.cli import setting, wings
from engine.cli.replication import Choices, Replication


def command(where: places.Places, wanted: setting.Wanted) -> None:
    """Run it, and say what came of it."""
    with setting.settled(where):
        pair = asyncio.run(setting.pair(where, wanted))
        records = registry.Registry(where)
        records.save(pair.stream)
        records.save(pair.replica)
    choices = Choices(source=wings.producers().Options(), target=wings.consumers().Options(sizes=pair.sizes))
    run = Replication(where, pair, choices)
    began = time.monotonic()
    run.run(lambda: None)
    seconds, numbers, outcome = time.monotonic() - began, run.numbers(), run.outcomes[-1]
    typer.echo(
        f"{outcome.epochs} epochs, read {units.shown(numbers.read)}, sent {units.shown(numbers.sent)}"
        f" in {seconds:.2f} s ({units.shown(numbers.sent / seconds)}/s)"
    )
    root = " ".join(root.hex() for root in outcome.position.roots)
    typer.echo(f"proved: source and replica have the Merkle root {root}" if outcome.proved else "applied, not proved")
