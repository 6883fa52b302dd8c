"""`vmferry doctor`: what this machine can do, what is missing, and the command that mends it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from engine import errors, places
from engine.cli import examine


def said(
    where: places.Places, bus: str, bus_config: str = "", hypervisor: str = "", scratch: str = ""
) -> dict[str, Any]:
    """The object of --json.  A `hypervisor` that is asked for has to be there; `scratch` is where its machines meet us,
    as in the source's configuration."""
    from engine.cli import virtual  # it loads libvirt, for which no other command should wait

    found = [*examine.machine(), *examine.state(where)]
    found += asyncio.run(virtual.hypervisor(hypervisor, scratch))
    if bus:
        found += asyncio.run(examine.bus(bus, bus_config, where))
    missing = [one.name for one in found if one.required and not one.ok]
    return {
        "event": "end" if not missing else "examined", "ok": not missing, "missing": missing,
        "found": [dataclasses.asdict(one) for one in found],
    }  # fmt: skip


def lines(said: dict[str, Any]) -> list[str]:
    """The same in sentences, each fault with what mends it."""
    found = []
    for one in said["found"]:
        mark = "ok" if one["ok"] else "MISSING" if one["required"] else "weak"
        found.append(f"{mark:<8} {one['name']:<14} {one['words']}")
        if not one["ok"] and one["mend"]:
            found.append(f"{'':<8} {'':<14} mend it: {one['mend']}")
    if said["ok"]:
        found.append("all that is needed is here")
    return found


def check(said: dict[str, Any]) -> None:
    """Raises NotFound when something is missing without which nothing works."""
    if said["missing"]:
        raise errors.NotFound(f"this machine lacks: {', '.join(said['missing'])}")
