"""kill -9 at any moment: of either side, of both, of the broker; what is on the bus does not travel again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ferry import MEBI, ROOT, Ferry, image, same
from tests.support.rounds import Rounds, bus_of

_DIES = """
import os, sys
from consumers import {module}
from engine import cli

def dies(*_arguments, **_words):
    os._exit(9)

{module}.{name} = dies
sys.argv[0] = "vmferry"
cli.main()
"""


def _killed(ferry: Ferry, module: str, name: str, *words: str | Path) -> None:
    """Run the command to the point where it calls `name` of consumers.MODULE: there it is gone."""
    code = _DIES.format(module=module, name=name)
    environment = {**os.environ, "VMFERRY_STATE": str(ferry.state)}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 9, done.stderr


@pytest.mark.parametrize("name", ["_Keeper.claim", "state.begin", "Target.begin"])
@pytest.mark.parametrize("kind", ["img", "qcow2"])
def test_an_image_that_a_killed_run_had_made_is_no_stranger_to_the_next(tmp_path: Path, name: str, kind: str) -> None:
    ferry, source, target = Ferry(tmp_path / "state"), tmp_path / "disk.img", tmp_path / f"replica.{kind}"
    image(source, 2 * MEBI)
    _killed(ferry, "site", name, "replicate", source, target)
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
