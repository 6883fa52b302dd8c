"""One side of a stream as a process of its own: what `vmferry replicate` runs in two threads, for tests that kill one.

    python -m tests.support.side source|target STATE SRC [EVERY [PART]]

The records of stream and replica are those that an earlier `vmferry replicate SRC DST --state STATE` made.  Passing
trouble is waited out, as with --follow; everything else ends the process with its error.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import consumers.site
import producers.site
from engine import errors, places, registry
from producers import post
from producers.passes import Passes

log = logging.getLogger("vmferry.side")
PASSING = (errors.Transient, errors.Full, errors.InUse)


async def source(
    where: places.Places, stream: registry.Stream, replica: registry.Replica, every: float, part: int
) -> None:
    """Ship a cut every `every` seconds, for ever."""
    options = producers.site.Options(ship=post.Settings(part=part))
    async with producers.site.open_source(where, stream, frozenset({replica.identity}), options) as site:
        passes = Passes(site.shipper, replica.identity)
        await site.shipper.start()
        while True:
            await passes.run(steady=False)
            await passes.idle(every)


async def target(where: places.Places, stream: registry.Stream, replica: registry.Replica) -> None:
    """Apply what comes, for ever."""
    async with consumers.site.open_replica(where, stream, replica, consumers.site.Options()) as site:
        await site.recover()
        await site.run(lambda: True)


async def _for_ever(main: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await main()
        except PASSING as why:
            log.warning("once more: %s", why)
            await asyncio.sleep(0.2)


def main(side: str, state: str, image: str, every: str = "0.2", part: str = str(1 << 20)) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    where = places.Places(Path(state))
    known = registry.Registry(where)

    async def run() -> None:
        # The records are read anew for each try: the replica's says which image is whose.
        stream = known.of_source(image)
        assert stream is not None, f"{image} is no stream of {state}"
        replica = known.replicas(stream.stream)[0]
        if side == "source":
            await source(where, stream, replica, float(every), int(part))
        else:
            await target(where, stream, replica)

    asyncio.run(_for_ever(run))


if __name__ == "__main__":
    main(*sys.argv[1:])
