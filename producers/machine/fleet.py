"""The hypervisor of a daemon: one connection for all machines, made when the first of them is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from engine.hypervisor.connection import Hypervisor


class Fleet:
    """All machines at one libvirt URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._hypervisor: Hypervisor | None = None
        self._one = asyncio.Lock()

    async def hypervisor(self) -> Hypervisor:
        """The connection, which comes again by itself.  Raises Usage, Transient (libvirtd is away)."""
        async with self._one:
            if self._hypervisor is None:
                self._hypervisor = await Hypervisor.connect(self.url)
            return self._hypervisor

    async def close(self) -> None:
        """Repeatable."""
        found, self._hypervisor = self._hypervisor, None
        if found is not None:
            await found.close()


@dataclass(frozen=True, slots=True)
class Captured:
    """How one stream's machine is captured.  `scratch`: where QEMU keeps what is overwritten during a pass."""

    hypervisor: Callable[[], Awaitable[Hypervisor]]
    url: str
    scratch: Path
    checkpoints: bool = True
    exclude: frozenset[str] = frozenset()
    freeze: bool = False
