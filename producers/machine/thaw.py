"""`python -m producers.machine.thaw URL MACHINE SECONDS`: thaws the guest unless it is told "done" in time.

Standard input at its end means that whoever froze it is gone.  It goes on trying for a while, as an agent may be slow.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import time

from engine import errors
from engine.hypervisor.connection import Hypervisor

_TRIES = 12
_PAUSE = 5.0


async def _run(url: str, machine: str, seconds: float) -> int:
    machines = await Hypervisor.connect(url)
    try:
        os.write(1, b"ready\n")
        if await asyncio.to_thread(_told_done, seconds):
            return 0
        for _ in range(_TRIES):
            try:
                await machines.thaw(machine, _PAUSE)
                return 0
            except errors.FerryError as why:
                sys.stderr.write(f"vmferry: {machine} may be frozen still: {why}\n")
            began = time.monotonic()
            if await asyncio.to_thread(_told_done, _PAUSE):
                return 0  # who froze it lives, and asks again with the next pass
            await asyncio.sleep(max(0.0, _PAUSE - (time.monotonic() - began)))
        return 1
    finally:
        await machines.close()


def _told_done(seconds: float) -> bool:
    """Whether "done" came within so many seconds, and before standard input ended."""
    deadline, said = time.monotonic() + seconds, b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([0], [], [], left)[0]:
            return False
        piece = os.read(0, 64)
        if not piece:
            return False
        said += piece
        if b"done\n" in said:
            return True
    return False


if __name__ == "__main__":
    sys.exit(asyncio.run(_run(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
