"""One run and its log: which goes away, or has not room for everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ferry as ferries
from tests.support.ferry import MEBI, Ferry, image, same, until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", 24 * MEBI)


_FAILS_ONCE = """
from consumers import site
from engine import errors

really, failed = site.Site.run, []

async def run(self, going):
    if not failed:
        failed.append(True)
        raise errors.Transient("the broker is away")
    await really(self, going)

site.Site.run = run
"""


def test_a_broker_that_goes_away_in_the_first_run_leaves_the_new_replica_ours(
    tmp_path: Path, source: Path, target: Path
) -> None:
    process = Ferry(tmp_path / "state", _FAILS_ONCE).begin("replicate", source, target, "--follow", "--every", "300ms")
    until(lambda: process.poll() is not None or (target.exists() and same(source, target)))
    found = ferries.interrupted(process)
    assert (found.code, "the broker is away; trying again in" in found.err) == (130, True), found.err


def test_a_log_need_not_hold_all_that_one_run_sends(ferry: Ferry, tmp_path: Path, target: Path) -> None:
    """What was applied goes while the rest still comes: the log has segments of 128 MiB, and room for two of them."""
    large = image(tmp_path / "large.img", 720 * MEBI, {at * MEBI: 90 * MEBI for at in range(0, 720, 90)})
    assert ferry.replicate(large, target, "--log-quota", "400M")["sent"] > 700 * MEBI
    assert same(large, target)


def test_a_log_that_passes_its_quota_ends_the_run(ferry: Ferry, source: Path, target: Path) -> None:
    found = ferry.run("replicate", source, target, "--log-quota", "20M")
    assert (found.code, "quota" in found.err) == (5, True)
    ferry.replicate(source, target, "--log-quota", "200M")
    assert same(source, target)
