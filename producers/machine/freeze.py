"""The file systems of a guest, frozen by its agent for as long as the instant is fixed: never longer.

Order: the intent is durable; a process of its own stands ready that thaws when we are gone, or silent for too long;
only then they are frozen.  Killed at any point, that process thaws; and with the whole host gone, the guest is gone as
well.  What finds an intent at its start thaws once more, for the case that both were killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from engine import errors, linux
from engine.hypervisor.connection import Hypervisor

log = logging.getLogger("vmferry.machine")
T = TypeVar("T")
FILE = "frozen.json"
AGENT = 5.0
"""Seconds that an agent has to freeze: one that takes longer is asked to thaw, and the cut is crash-consistent."""
LONGEST = 10.0
"""Seconds after which a guest is thawed by the process beside us, whatever we are at."""
_READY = 10.0


class Freezer:
    """For one machine.  `why` says why the last cut was not a frozen one; `url` is libvirt's."""

    def __init__(self, machines: Hypervisor, url: str, machine: str, directory: Path) -> None:
        self._machines, self._url, self._machine = machines, url, machine
        self._intent = directory / FILE
        self._left: set[asyncio.Future[int]] = set()
        "What still thaws after we gave up."
        self.why = ""

    async def around(self, fix: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """`fix()` while everything is frozen; whether it was.  Raises what `fix` does; then it is thawed as well."""
        self.why = ""
        linux.replace_text(self._intent, json.dumps({"version": 1, "machine": self._machine}))
        guard = await self._guard()
        if guard is None:
            return await fix(), False
        thawed = False
        try:
            frozen = await self._freeze()
            try:
                return await fix(), frozen
            finally:
                thawed = await self._thaw(frozen)
        finally:
            if thawed:
                await _dismiss(guard)
            else:
                self._leave(guard)

    async def _guard(self) -> asyncio.subprocess.Process | None:
        """The process that thaws in our place; None where it does not come up: then nothing is frozen."""
        words = (sys.executable, "-m", "producers.machine.thaw", self._url, self._machine, str(LONGEST))
        guard = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert guard.stdout is not None
        try:
            async with asyncio.timeout(_READY):
                line = await guard.stdout.readline()
        except TimeoutError:
            line = b""
        if line != b"ready\n":
            await _dismiss(guard)
            self.why = "it was not frozen: the process that would thaw it did not come up"
            log.warning("%s: %s", self._machine, self.why)
            return None
        return guard

    def _leave(self, guard: asyncio.subprocess.Process) -> None:
        """It goes on thawing, for as long as it tries: an agent that is silent now may freeze, or stay frozen, later.
        Nobody waits for it."""
        if guard.stdin is not None:
            guard.stdin.close()
        task = asyncio.ensure_future(guard.wait())
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    async def _freeze(self) -> bool:
        try:
            count = await self._machines.freeze(self._machine, AGENT)
        except errors.FerryError as why:
            self.why = f"its file systems could not be frozen: {why}"
            log.warning("%s: %s", self._machine, self.why)
            return False
        if not count:
            self.why = "its agent found no file system to freeze"
        return bool(count)

    async def _thaw(self, frozen: bool) -> bool:
        """Whether it was thawed.  Tried also where the freeze failed: an agent may do it after it was given up."""
        try:
            await self._machines.thaw(self._machine, AGENT)
        except errors.FerryError as why:
            if frozen:
                self.why = (
                    f"it may be frozen still, and is asked to thaw for a minute: `virsh domfsthaw` does it: {why}"
                )
                log.error("%s: %s", self._machine, self.why)
            return False
        self._intent.unlink(missing_ok=True)
        return True

    async def recover(self, runs: bool) -> None:
        """Thaw what a killed run may have left frozen.  A machine that does not run is not frozen any more."""
        if self._intent.exists() and (not runs or await self._thaw(frozen=True)):
            self._intent.unlink(missing_ok=True)


async def _dismiss(guard: asyncio.subprocess.Process) -> None:
    """It has nothing to do any more; one that thaws at this moment is waited for."""
    if guard.stdin is not None and guard.returncode is None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            guard.stdin.write(b"done\n")
            await guard.stdin.drain()
        guard.stdin.close()
    await guard.wait()
