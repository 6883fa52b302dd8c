"""A producer that knows its machine: says what it is in the first epoch after each start, and when it differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from producers.parts import Part
from producers.ship import Shipper
from schemas import events


def machine(memory: int, nvram: bytes = b"") -> events.Defined:
    """One of so much memory, in KiB."""
    return events.Defined(events.Form.LIBVIRT, f"<domain type='kvm'><memory>{memory}</memory></domain>\n", nvram)


def define(shipper: Shipper, now: Callable[[], events.Defined], repeats: bool = True) -> None:
    """Have `shipper` say what `now()` gives, before all else in an epoch.  Unless it `repeats`, only what differs."""
    opened: Any = shipper._open
    said: list[events.Defined] = []

    async def open_and_say() -> Part:
        first = shipper._first and repeats
        part: Part = await opened()
        if first or said != [now()]:
            said[:] = [now()]
            await shipper.post.add(part.writer.change(said[0]), said[0])
        return part

    shipper._open = open_and_say  # type: ignore[method-assign]
