"""Seeds of the simulator: the real code, bad luck of every kind, and no promise broken; planted bugs, each caught.

100,000 seeds are run by hand: docs/SOAKS.md.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.support.sim.bugs import BUGS
from tests.support.sim.hunt import hunt, one

SEEDS = 1200


def _first_seed() -> int:
    """Each commit of CI may look at other seeds: VMFERRY_SEED says from which on."""
    return int(os.environ.get("VMFERRY_SEED", "1000000"))


@pytest.mark.timeout(300)
def test_no_promise_is_broken_whatever_happens() -> None:
    first = _first_seed()
    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(one, range(first, first + SEEDS), chunksize=25))
    failed = [f"seed {seed}:\n{problem}" for seed, problem, _ in results if problem]
    assert not failed, "\n\n".join(failed[:2])
    assert sum(applied for *_, applied in results) > 5 * SEEDS, "the worlds were too quiet to show anything"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(BUGS))
def test_a_planted_bug_is_caught(name: str) -> None:
    caught = hunt(BUGS[name], range(1500))
    assert caught is not None, f"1500 seeds, and none noticed: {name}"
