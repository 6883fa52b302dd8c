"""Machines to be known by a producer, one like the other but for their memory."""

from __future__ import annotations

from schemas import events


def machine(memory: int, nvram: bytes = b"") -> events.Defined:
    """One of so much memory, in KiB."""
    return events.Defined(events.Form.LIBVIRT, f"<domain type='kvm'><memory>{memory}</memory></domain>\n", nvram)
