"""kill -9 at any moment: of either side, of both, of the broker; what is on the bus does not travel again."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from engine import places, registry
from schemas import events
from schemas.identity import Address
from tests.support.ferry import MEBI, Ferry, image, same, until
from tests.support.rounds import Rounds, bus_of
from tests.support.witness import Witness

BLOCK = 64 << 10

_DIES = """
import os
from consumers import {module}

def dies(*_arguments, **_words):
    os._exit(9)

{module}.{name} = dies
"""

_KEEPS_THE_LOG = """
from producers import lease

async def trim(_shipper):
    pass

assert lease.trim_applied
lease.trim_applied = trim
"""


@pytest.mark.parametrize("name", ["_Keeper.claim", "state.begin", "Target.begin"])
@pytest.mark.parametrize("kind", ["img", "qcow2"])
def test_an_image_that_a_killed_run_had_made_is_no_stranger_to_the_next(tmp_path: Path, name: str, kind: str) -> None:
    ferry, source, target = Ferry(tmp_path / "state"), tmp_path / "disk.img", tmp_path / f"replica.{kind}"
    image(source, 2 * MEBI)
    dying = Ferry(ferry.state, _DIES.format(module="site", name=name))
    assert dying.run("replicate", source, target).code == 9
    assert target.exists()
    ferry.replicate(source, target)
    subprocess.run(["qemu-img", "compare", "-q", source, target], check=True)


@pytest.mark.timeout(110)
@pytest.mark.parametrize(("kind", "rounds"), [("log", 8), ("kafka", 5)])
def test_rounds_of_kill_9_leave_a_replica_that_is_equal(tmp_path: Path, kind: str, rounds: int) -> None:
    with bus_of(kind, tmp_path) as bus:
        done = Rounds(tmp_path, *bus, seed=7)
        done.run(rounds)
    assert not done.wrong
    assert done.recoveries >= 2
    assert same(done.changer.path, done.replica)


class Counting(Witness):
    """Counts how often each block of data travelled."""

    def __init__(self, url: str, stream: bytes) -> None:
        self.times: Counter[int] = Counter()
        super().__init__(url, stream, bytes(16))

    def event(self, _address: Address, event: events.Event) -> None:
        if isinstance(event, events.Written):
            self.times.update(range(event.start, event.start + len(event.data), BLOCK))

    @property
    def durable(self) -> int:
        """Bytes of the image that are on the bus."""
        return BLOCK * len(self.times)

    @property
    def again(self) -> int:
        """Bytes that were there already, and came again."""
        return BLOCK * (self.times.total() - len(self.times))


@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", ["log", "kafka"])
def test_of_a_baseline_killed_at_90_percent_less_than_one_percent_travels_again(tmp_path: Path, kind: str) -> None:
    size = 128 * MEBI
    # What is trimmed before it is read cannot be counted.
    ferry = Ferry(tmp_path / "state", _KEEPS_THE_LOG)
    source, target = image(tmp_path / "disk.img", size), tmp_path / "replica.img"
    with bus_of(kind, tmp_path) as (url, _):
        process = ferry.begin("replicate", source, target, "--bus", url, "--rate", "16M", "--quiet")
        until(lambda: registry.Registry(places.Places(ferry.state)).streams())
        (stream,) = registry.Registry(places.Places(ferry.state)).streams()
        seen = Counting(url, stream.identity)
        try:
            until(lambda: seen.durable >= 0.9 * size)
            process.kill()
            process.communicate()
            asyncio.run(seen.catch_up())
            durable = seen.durable
            assert 0.9 * size <= durable < size, "it was killed too late: nothing was left to do"
            assert not seen.again
            ferry.replicate(source, target, "--rate", "off")
            asyncio.run(seen.catch_up())
        finally:
            seen.stop()
    assert same(source, target)
    assert seen.durable == size
    assert seen.again <= 0.01 * durable, f"{seen.again:,} of {durable:,} bytes have travelled twice"
