"""What a machine is, for its replicas: its XML, and the file that keeps its UEFI variables."""

from __future__ import annotations

import logging
import os

from engine.hypervisor.domain import Domain
from schemas import events, wire

log = logging.getLogger("vmferry.machine")


def of(domain: Domain) -> events.Defined | None:
    """The definition; None, said aloud, for one that is larger than a record may be."""
    if len(domain.definition.encode()) > wire.MAX_ITEMS:
        log.warning("the definition of %s is larger than %d bytes, and is not sent", domain.name, wire.MAX_ITEMS)
        return None
    return events.Defined(events.Form.LIBVIRT, domain.definition, _nvram(domain))


def _nvram(domain: Domain) -> bytes:
    """Its bytes; none where there is no such file, or it is not for us to read, or too large."""
    if not domain.nvram:
        return b""
    try:
        with open(domain.nvram, "rb") as file:
            if os.fstat(file.fileno()).st_size <= wire.MAX_PAYLOAD:
                return file.read()
        log.warning("%s of %s is larger than %d bytes, and is not sent", domain.nvram, domain.name, wire.MAX_PAYLOAD)
    except OSError as why:
        log.warning("%s of %s is not sent: %s", domain.nvram, domain.name, why.strerror)
    return b""
