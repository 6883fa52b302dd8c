"""Which hop is slow, from the figures alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.cli.hop import Facts, slow

WELL = Facts(source_here=True, source_epoch=5, source_runs=True, source_written=False, epoch=5, target_runs=True)


@pytest.mark.parametrize(
    ("facts", "hop", "words"),
    [
        (WELL, "none", "nothing waits"),
        (replace(WELL, held="released"), "target", "it is held (released), and nothing is applied"),
        (replace(WELL, damaged="no"), "target", "compares digests"),
        (replace(WELL, away="nobody answers"), "bus", "not reachable from here: nobody answers"),
        (replace(WELL, source_epoch=7), "bus", "epoch 7, which the source sealed, is not on it any more"),
        (replace(WELL, waiting=2, size=2048), "target", "2 sealed epochs (2 KiB) on the bus wait to be applied"),
        (replace(WELL, waiting=2, size=2048, more=True), "target", "at least 2 sealed epochs"),
        (replace(WELL, waiting=2, target_runs=False), "target", "no process is at it: run `vmferry replicate`"),
        (replace(WELL, missing=1234), "source", "1,234 blocks have still to be read and sent"),
        (replace(WELL, missing=3, source_runs=False), "source", "run `vmferry replicate`"),
        (replace(WELL, source_written=True), "source", "written to since the last cut; the next cut brings it"),
        (replace(WELL, source_written=True, source_runs=False), "source", "run `vmferry replicate`"),
        (replace(WELL, epoch=0), "source", "still to be compared with its source"),
        (Facts(epoch=5), "none", "nothing waits"),
    ],
)  # fmt: skip
def test_the_hop_that_others_wait_for_is_named(facts: Facts, hop: str, words: str) -> None:
    found = slow(facts)
    assert found[0] == hop
    assert words in found[1]
