"""Run a seed, or hunt for a planted bug until some seed catches it."""

from __future__ import annotations

import logging
import random
import traceback
from contextlib import ExitStack
from dataclasses import replace

from tests.support.sim.bugs import Bug
from tests.support.sim.loop import run
from tests.support.sim.plan import Plan
from tests.support.sim.world import World


def one(seed: int, luck: dict[str, object] | None = None) -> tuple[int, str, int]:
    """Run a seed: (seed, what went wrong or nothing, epochs acknowledged)."""
    logging.disable(logging.CRITICAL)
    chance = random.Random(seed)
    plan = Plan.of(chance)
    world = World(seed, replace(plan, **luck) if luck else None)  # type: ignore[arg-type]
    try:
        run(world.live())
    except Exception:
        return seed, traceback.format_exc(limit=-4) + world.describe(), world.oracle.applied
    finally:
        logging.disable(logging.NOTSET)
    return seed, "", world.oracle.applied


def hunt(bug: Bug, seeds: range) -> tuple[int, str] | None:
    """The first seed that catches the bug, and how; None when none of `seeds` does."""
    with ExitStack() as stack:
        bug.plant(stack)
        for seed in seeds:
            _, problem, _ = one(seed, bug.luck)
            if problem:
                return seed, problem
    return None
