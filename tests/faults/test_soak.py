"""Five streams over three real brokers, everything killed and cut for a minute; tests.support.soak has it at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.soak import plan
from tests.support.soak.plan import Plan
from tests.support.soak.story import soak

STREAMS, SECONDS, SEED = 5, 60.0, 1


@pytest.mark.timeout(600)
def test_streams_outlive_every_fault_equal_and_with_memory_flat(tmp_path: Path) -> None:
    with soak(tmp_path, Plan(STREAMS, SECONDS, seed=SEED)) as one:
        report = one.run()
    assert not report.wrong, f"{report.table()}\nits logs are in {tmp_path}"
    assert report.faults.keys() >= {plan.SOURCE, plan.TARGET, plan.BROKER, plan.HANGS, plan.CONFIG}
    assert report.receipts.proved > STREAMS
