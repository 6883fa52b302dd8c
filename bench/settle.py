"""What one small epoch costs: found, shipped, applied, settled and proved."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench import images
from bench.measure import MIB, ROOT, load, python, tell
from bench.report import Section

_SIZES = (1, 64, 1024)
_PARTS = ("apply", "flush", "read_back", "settle")


class _Watch:
    """Adds up how long calls take."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(_PARTS, 0.0)

    def over(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return await call(*arguments)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed


async def _measure(directory: Path, image: Path, count: int) -> dict[str, list[dict[str, float]]]:
    """Both sides in this process, over an embedded log; for each size its rounds."""
    from consumers import site as consuming
    from engine import places, registry
    from engine.cli import setting
    from producers import site as producing
    from producers.passes import Passes

    where = places.Places(directory / "state")
    with setting.settled(where):
        pair = await setting.pair(where, setting.Wanted(str(image), str(directory / "settle-replica.img")))
        records = registry.Registry(where)
        records.save(pair.stream)
        records.save(pair.replica)
    expect, going = frozenset({pair.replica.identity}), True
    options = consuming.Options(sizes=pair.sizes)
    async with (
        producing.open_source(where, pair.stream, expect, producing.Options()) as source,
        consuming.open_replica(where, pair.stream, pair.replica, options) as replica,
    ):
        await replica.recover()
        running = asyncio.ensure_future(replica.run(lambda: going))
        await source.shipper.start()
        passes = Passes(source.shipper, pair.replica.identity)
        await passes.run()
        watch, target = _Watch(), replica.replay.target
        for name, thing in (("apply", target), ("flush", target), ("read_back", target), ("settle", replica.replay)):
            setattr(thing, name, watch.over(name, getattr(thing, name)))
        found: dict[str, list[dict[str, float]]] = {str(size): [] for size in _SIZES}
        for turn in range(count):
            for size in _SIZES:
                images.change(image, size, 1000 * turn + size)
                watch.seconds = dict.fromkeys(_PARTS, 0.0)
                began = time.perf_counter()
                outcome = await passes.run()
                found[str(size)].append({"whole": time.perf_counter() - began, **watch.seconds})
                if not outcome.proved:
                    raise RuntimeError("an epoch was not proved")
        going = False
        await running
    return found


def section(directory: Path, quick: bool, count: int) -> Section:
    """Epochs of 1, 64 and 1,024 changed blocks of 64 KiB."""
    home, data = directory / "settle", (128 if quick else 512) * MIB
    home.mkdir()
    image = home / "settle.img"
    images.make(image, 2 * data, data)
    busy = load()
    done = subprocess.run(
        python("-m", "bench.settle", str(home), str(image), str(2 * count)),
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout)
    made = Section(
        f"6. One epoch of 1, 64 and 1,024 changed blocks of 64 KiB ({2 * data / MIB:,.0f} MiB image, half of it data)",
        f"Both sides in one process on the embedded log; medians of {2 * count}.  The pass counts everything: the scan "
        "of the source, log, undo log, replica, read back from the medium, transaction, receipts heard, roots equal.",
        ("blocks", "whole pass", "apply (pre-images, undo synced, writes)", "settle", "of it flush", "of it read back"),
        load=busy,
    )
    for size, turns in found.items():
        middle = {name: statistics.median(turn[name] for turn in turns) * 1000 for name in turns[0]}
        names = ("whole", "apply", "settle", "flush", "read_back")
        made.rows.append((f"{int(size):,}", *(f"{middle[name]:.1f} ms" for name in names)))
        tell(f"  {size} blocks: {middle['whole']:.1f} ms")
    return made


if __name__ == "__main__":
    result = asyncio.run(_measure(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
    sys.stdout.write(json.dumps(result) + "\n")
