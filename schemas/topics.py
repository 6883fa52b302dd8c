"""Names of the topics on a bus."""

from __future__ import annotations

import re
import uuid

from schemas.errors import SchemaError

PREFIX = "vmferry"
_SAFE = re.compile(r"[A-Za-z0-9._-]{1,120}")


def stream(identity: bytes, prefix: str = PREFIX) -> str:
    """The topic of one stream: its UUID, never its name, so two things of one name never share a log."""
    return f"{_checked(prefix)}.{uuid.UUID(bytes=identity)}"


def receipts(prefix: str = PREFIX) -> str:
    """The one topic on which all replicas speak."""
    return f"{_checked(prefix)}.receipts"


def control(prefix: str = PREFIX) -> str:
    """The one topic that says who owns which stream."""
    return f"{_checked(prefix)}.control"


def _checked(prefix: str) -> str:
    if not _SAFE.fullmatch(prefix):
        raise SchemaError(f"topic prefix {prefix!r}: only letters, digits, '.', '_' and '-', at most 120")
    return prefix
