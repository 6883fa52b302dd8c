"""What a store may take, as the last run was told: kept beside the store, so that `vmferry status` can say so."""

from __future__ import annotations

from pathlib import Path

from engine import linux

WARN_AT = 0.8
"""Share of a quota, or of a file system, from which on it is said aloud."""
UNDO = "undo-quota"
LOG = "log-quota"


def keep(directory: Path, name: str, amount: int) -> None:
    """Remember `amount` bytes, 0 for no quota.  Raises Full, DeviceFailed."""
    if kept(directory, name) == amount:
        return
    fresh = directory / f"{name}.new"
    try:
        fresh.write_text(f"{amount}\n")
        fresh.replace(directory / name)
    except OSError as why:
        raise linux.failure(why, str(fresh), "write it", opening=True) from why


def kept(directory: Path, name: str) -> int:
    """The quota in bytes; 0 where none was given, or what was kept does not read as one."""
    try:
        text = (directory / name).read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
