"""`vmferry replicate --dry-run`: what a run would do, found out without writing anything anywhere."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import typer

from engine import errors, places, units
from engine.cli import ending, room, setting, wings

ASSUMED = 100 << 20
"""Bytes per second that are taken for what nothing was measured of: log, target, and the reading back."""


def command(
    where: places.Places, wanted: setting.Wanted, secret_file: str, force_share: bool, undo_quota: int,
    state_quota: int, rate: int, as_json: bool,
) -> None:  # fmt: skip
    """Say it.  Raises Full when there is no room, once everything is said."""
    pair = asyncio.run(setting.pair(where, wanted, still=True))
    directory = where.source(pair.stream.stream)
    forecast = asyncio.run(wings.producers("forecast").of(pair.stream.disks[0], directory, secret_file, force_share))
    travels = forecast.travels if pair.replica.begun else forecast.data
    needed = room.needs(where, pair, forecast.data, travels, undo_quota)
    pace = min(rate, ASSUMED) if rate else ASSUMED
    seconds = (forecast.data / forecast.speed if forecast.speed else 0.0) + travels / pace
    said = {
        "event": "end", "ok": True, "dry_run": True, "stream": pair.stream.label, "known": not pair.new,
        "source": pair.stream.disks[0].path, "target": pair.replica.disks[0].path, "size": forecast.size,
        "read": forecast.data, "travels": travels, "zeros": forecast.zeros, "read_speed": round(forecast.speed),
        "seconds": round(seconds, 1), "needs": [asdict(need) for need in needed],
    }  # fmt: skip
    short = room.short(needed)
    if as_json:
        ending.emit({**said, "ok": not short})
    else:
        typer.echo("\n".join(_lines(said, pace)))
    if short:
        raise errors.Full(short)
    room.refuse_state(where, pair, forecast.data, state_quota)


def _lines(said: dict[str, Any], pace: int) -> list[str]:
    first = "" if said["known"] else " (new stream)"
    found = [
        f"stream  {said['stream']}{first}: {said['source']} to {said['target']}",
        f"reads   {units.shown(said['read'])} of {units.shown(said['size'])}; {units.shown(said['zeros'])} are holes",
        f"travels {units.shown(said['travels'])}",
        f"time    about {units.duration(said['seconds'])}: the source reads at {units.shown(said['read_speed'])}/s,"
        f" for the rest {units.shown(pace)}/s are assumed",
    ]
    for need in said["needs"]:
        free = "unknown" if need["free"] is None else units.shown(need["free"])
        found.append(f"{need['what']:<7} needs at most {units.shown(need['amount'])} at {need['path']}; {free} free")
    return [*found, "nothing was written"]
