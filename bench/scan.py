"""Scanning an image that did not change, against reading it to /dev/null."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path

from bench import images
from bench.measure import GIB, MIB, Contender, drop_caches, load, python, replicate, rounds, run, spread, tell
from bench.report import Section, Verdict


async def _scan(image: Path, directory: Path) -> float:
    """Seconds of one scan of `image` against the map in `directory`, as the source side does it."""
    from engine import tuning
    from engine.device.raw import RawDevice
    from engine.pool import Pool
    from engine.store.sqlite import SqliteSourceStore
    from producers import state
    from producers.scan import Scan

    tuning.bulk()
    store, maps, pool = SqliteSourceStore(directory / state.STATE), state.Maps(directory), Pool("scan")
    known = store.load()
    block_map = maps(known.volumes)
    device = await RawDevice.open(image, False, offload=pool)
    began = time.perf_counter()
    async for found in Scan(0, device, block_map.volumes[0], known.seed, pool).changed():
        raise RuntimeError(f"something has changed: {found}")
    seconds = time.perf_counter() - began
    await device.close()
    maps.close()
    store.close()
    pool.close()
    return seconds


def _child(image: Path, directory: Path) -> float:
    """The same in a process of its own: memory that earlier work left behind would help it."""
    import subprocess

    from bench.measure import ROOT

    done = subprocess.run(
        python("-m", "bench.scan", str(image), str(directory)), capture_output=True, text=True, cwd=ROOT, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout)


def section(directory: Path, quick: bool, count: int) -> Section:
    """Warm cache, and cold where we may drop it."""
    data = 128 * MIB if quick else 2 * GIB
    image, state, goal = directory / "scan.img", directory / "scan-state", directory / "scan-replica.img"
    images.make(image, data, data)
    rounds([Contender("vmferry", {"first": replicate(image, goal, state)})], 1)
    side = next((state / "streams").glob("*/source"))
    busy = load()
    found: dict[str, list[float]] = {"read warm": [], "scan warm": [], "read cold": [], "scan cold": [], "whole": []}
    cold = True
    for turn in range(count):
        images.warm(image)
        for name in ("read", "scan") if turn % 2 else ("scan", "read"):
            found[f"{name} warm"].append(_child(image, side) if name == "scan" else _read(image))
        found["whole"].append(run(replicate(image, goal, state)).seconds)
        for name in ("read", "scan") if turn % 2 else ("scan", "read"):
            cold = cold and drop_caches()
            if cold:
                found[f"{name} cold"].append(_child(image, side) if name == "scan" else _read(image))
        tell(
            f"  round {turn + 1}/{count}: "
            + ", ".join(f"{name} {each[-1]:.2f} s" for name, each in found.items() if each)
        )
    for path in (image, goal):
        path.unlink()
    return _told(found, data, busy)


def _read(image: Path) -> float:
    return run(("dd", f"if={image}", "of=/dev/null", "bs=1M")).seconds


def _told(found: dict[str, list[float]], data: int, busy: float) -> Section:
    made = Section(
        f"4. Scan of an unchanged image of {data / GIB:.2f} GiB, all of it data",
        "Every block is read and compared with its xxh3-128 in the map.  Reading: `dd bs=1M of=/dev/null`.  Cold: "
        "after dropping the page cache of the whole machine.",
        ("", "median", "least - most", "rate"),
        load=busy,
    )
    names = {
        "read warm": "dd to /dev/null, in the page cache",
        "scan warm": "**scan**, in the page cache",
        "read cold": "dd to /dev/null, from the medium",
        "scan cold": "**scan**, from the medium",
        "whole": "the whole `vmferry replicate` that finds nothing to do, in the page cache",
    }
    for key, name in names.items():
        if found[key]:
            middle = statistics.median(found[key])
            made.rows.append((name, f"{middle:.2f} s", spread(found[key]), f"{data / middle / MIB:,.0f} MiB/s"))
    for kind in ("warm", "cold"):
        if found[f"scan {kind}"]:
            share = statistics.median(found[f"read {kind}"]) / statistics.median(found[f"scan {kind}"])
            made.verdicts.append(
                Verdict(
                    f"scan against reading, {kind} cache", f"{share:.0%}", ">= 50 %", share >= 0.5,
                    "dd's buffer stays in the CPU's cache; a scan takes windows of 4 MiB and hashes them",
                )
            )  # fmt: skip
    return made


if __name__ == "__main__":
    sys.stdout.write(f"{asyncio.run(_scan(Path(sys.argv[1]), Path(sys.argv[2])))}\n")
