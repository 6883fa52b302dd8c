"""What a backup in pull mode serves, read through our NBD client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine.nbd import client, constants

_DIRTY = 1
"""NBD's "qemu:dirty-bitmap" context: bit 0 says that it changed."""
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class Pulled:
    """Bytes of the export, those that were copied, and those that were set to zero."""

    size: int
    copied: int
    zeroed: int


async def pull(socket: str | Path, export: str, raw: Path, bitmap: str = "") -> Pulled:
    """Copy `export` into the raw image `raw`: all of it, or only what changed by `bitmap` into what is there."""
    wanted = [constants.ALLOCATION, *([f"qemu:dirty-bitmap:{bitmap}"] if bitmap else [])]
    connection = await client.Client.connect(client.Place(socket=str(socket)), export, wanted)
    try:
        assert set(connection.export.contexts.values()) == set(wanted), connection.export.contexts
        return await _copy(connection, raw, wanted)
    finally:
        await connection.close()


async def _copy(connection: client.Client, raw: Path, contexts: list[str]) -> Pulled:
    size, at, copied, zeroed = connection.export.size, 0, 0, 0
    with _opened(raw, len(contexts) > 1) as file:
        file.truncate(size)
        while at < size:
            said = await connection.status(at, size - at)
            length = min(said[context][0][0] for context in contexts)
            length, flags = min(length, size - at, _MOST), [said[context][0][1] for context in contexts]
            if len(flags) == 1 or flags[1] & _DIRTY:
                zero = bool(flags[0] & constants.ZERO)
                file.seek(at)
                file.write(bytes(length) if zero else await connection.read(at, length))
                copied, zeroed = copied + length * (not zero), zeroed + length * zero
            at += length
    return Pulled(size, copied, zeroed)


def _opened(raw: Path, there: bool) -> BinaryIO:
    return open(raw, "r+b" if there else "wb")
