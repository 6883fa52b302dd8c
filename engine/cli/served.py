"""What running daemons say of their streams: in sentences, and as monitoring judges it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine import units
from engine.cli import kept
from engine.cli.judged import Judged

Answer = dict[str, Any]
_OPEN = "not encrypted: whoever can read the bus can read the disks (this version has no keys yet)"


def only(said: Answer, name: str) -> Answer:
    """The answer with the streams that `name` means; with all of them where it is empty."""
    wanted = [
        one
        for one in said["streams"]
        if not name
        or name in (one["label"], f"{one['site']}/{one['label']}", *(disk["path"] for disk in one.get("disks", ())))
        or (len(name) > 3 and one["stream"].startswith(name))
    ]
    return {**said, "streams": wanted}


def lines(said: Answer) -> list[str]:
    """The answer of one daemon to `status`."""
    head = f"daemon     {said['daemon']} of site {said['site']}, process {said['pid']}, {said['config']}"
    found = [head, f"bus        {said['bus']}, topics {said['prefix']}.*; {_OPEN}"]
    for one in said["streams"]:
        found += ["", *(_source(one) if said["daemon"] == "source" else _target(one))]
    if not said["streams"]:
        found.append("streams    none")
    heard = [f"warning: no other site is heard: {said['away']}"] if said["away"] else []
    heard += [f"warning: the bus: {said['bus_trouble']}"] if said.get("bus_trouble") else []
    heard += [f"warning: {problem}" for problem in said["problems"]]
    heard += [f"warning: {one['label']}: {one['warning']}" for one in said["streams"] if one.get("warning")]
    return found + (["", *heard] if heard else [])


def _state(one: Answer) -> str:
    times = one["restarts"]
    again = f" (begun again {times} time{'s' if times > 1 else ''} since the daemon's start)" if times else ""
    return f"{one['state']}{': ' if one['why'] else ''}{one['why']}{again}"


def _source(one: Answer) -> list[str]:
    found = [f"stream     {one['label']} ({one['stream'] or 'no UUID yet'})"]
    found += [f"  vm       {one['vm']}"] if one["vm"] else []
    found += [f"  disk     {one['disk']}"] if one["disk"] else []
    found += [f"  {line}" for line in kept.further(one)]
    found.append(f"  state    {_state(one)}")
    if "epoch" not in one:
        return found
    if one["rung"]:
        found.append(f"  capture  {one['rung']}{f': {why}' if (why := one['rung_why']) else ''}")
        found += [f"  freeze   {why}"] if (why := one["unfrozen"]) else []
    rate = f"{units.shown(one['rate'])}/s at most" if one["rate"] else "no limit"
    found.append(
        f"  sent     {units.shown(one['sent_bytes'])} since it was opened, {rate}; epoch {one['epoch']} sealed"
    )
    if one["missing_bytes"]:
        found.append(
            f"  missing  {units.shown(one['missing_bytes'])} have still to be read, and sent where they are data"
        )
    cap = f" of {units.shown(one['log_cap_bytes'])}" if one["log_cap_bytes"] else ""
    found.append(f"  log      {units.shown(one['log_bytes'])}{cap} kept for replicas")
    found += [f"  replica  {_peer(peer)}" for peer in one["replicas"]] or ["  replica  none yet"]
    return found + [f"  note     {note}" for note in one["notes"]]


def _peer(peer: Answer) -> str:
    heard = "not heard yet" if peer["heard_seconds"] is None else f"heard {units.duration(peer['heard_seconds'])} ago"
    where = f"at epoch {peer['epoch']}" if peer["epoch"] else "at no epoch yet"
    proved = ", proved" if peer["epoch"] and peer["proved_epoch"] == peer["epoch"] else ""
    lapsed = ", silent: nothing waits for it" if peer["lapsed"] else ""
    rpo = "" if peer["rpo_seconds"] is None else f", RPO {units.duration(peer['rpo_seconds'])}"
    return f"{peer['replica'][:8]} {where}{proved}{rpo}, {heard}{lapsed}"


def _target(one: Answer) -> list[str]:
    head = f"stream     {one['site']}/{one['label']} ({one['stream']})"
    if one["state"] == "unclaimed":
        return [head, f"  not taken: {one['why']}"]
    at = f"epoch {one['epoch']}" if one["epoch"] else "no epoch yet"
    usable = "nothing usable yet" if one["usable_epoch"] is None else f"epoch {one['usable_epoch']} usable"
    proved = "none proved" if one["proved_epoch"] is None else f"epoch {one['proved_epoch']} proved"
    found = [head, f"  replica  {one['path']}", *(f"  {line}" for line in kept.further(one))]
    found += [f"  state    {_state(one)}", f"  at       {at}; {usable}, {proved}"]
    if one["rpo_seconds"] is not None:
        found.append(f"  RPO      {units.duration(one['rpo_seconds'])}, by {one['rpo_by']}")
    heard = one["source_heard_seconds"]
    word = "not heard since this daemon began" if heard is None else f"heard {units.duration(heard)} ago"
    found.append(f"  source   {word}{'; it has forgotten the stream' if one['source_gone'] else ''}{_clocks(one)}")
    if one["undo_bytes"] is not None:
        quota = f" of {units.shown(one['undo_quota_bytes'])}" if one["undo_quota_bytes"] else ""
        found.append(f"  undo     {units.shown(one['undo_bytes'])}{quota}")
    return found + [f"  note     {note}" for note in one.get("notes", ())]


def _clocks(one: Answer) -> str:
    seconds = one["clock_difference_seconds"]
    if seconds is None:
        return ""
    side = "ahead of" if seconds > 0 else "behind"
    return f"; our clock is {units.duration(abs(seconds))} {side} its clock, time of travel included"


def judged(said: Answer) -> list[Judged]:
    """What monitoring judges of one daemon."""
    if said["away"] and not said["streams"]:
        return [Judged(f"site {said['site']}", None, bus_away=said["away"])]
    found = (
        [each for one in said["streams"] for each in _judged_source(one)]
        if said["daemon"] == "source"
        else [_judged_target(one) for one in said["streams"] if not one.get("forgotten")]
    )
    return [replace(one, bus_away=str(said.get("bus_trouble") or "")) for one in found]


def _trouble(one: Answer) -> tuple[str, ...]:
    found = (f"{one['state']}: {one['why']}",) if one["state"] in ("trouble", "paused", "unclaimed") else ()
    return (*found, one["warning"]) if one.get("warning") else found


def _judged_source(one: Answer) -> list[Judged]:
    peers = one.get("replicas", ())
    found = [
        Judged(one["label"], peer["rpo_seconds"], warnings=_trouble(one), name=peer["replica"][:8]) for peer in peers
    ]
    return found or [Judged(one["label"], None, warnings=_trouble(one), name=one["stream"])]


def _judged_target(one: Answer) -> Judged:
    label = f"{one['site']}/{one['label']}"
    if one["state"] == "unclaimed":
        return Judged(label, None, warnings=_trouble(one), name=one["stream"], taken=False)
    return Judged(label, one["rpo_seconds"], held=one["held"], warnings=_trouble(one), name=one["path"])
