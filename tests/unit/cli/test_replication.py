"""The watch over both sides of a run, with sides that do nothing but fail."""

from __future__ import annotations

import itertools
import threading
from typing import Any, cast

import pytest

from engine import errors
from engine.cli import replication
from engine.cli.replication import Choices, Replication
from engine.cli.side import until


class Flaky(Replication):
    """Each side fails so many times before it comes through."""

    def __init__(self, every: float | None, **failures: int) -> None:
        super().__init__(cast(Any, None), cast(Any, None), Choices(None, None, every))
        self.left = {"source": 0, "target": 0, **failures}
        self.tries = {"source": 0, "target": 0}
        self.well = threading.Event()

    def _try(self, side: str) -> None:
        self.tries[side] += 1
        if self.left[side]:
            self.left[side] -= 1
            raise errors.Transient(f"{side}: the broker is away")

    async def _source(self) -> None:
        self._opened.set()
        await until(self._ready)
        self._try("source")
        await until(self.well)

    async def _target(self) -> None:
        self._ready.set()
        self._try("target")
        self.well.set()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "PAUSES", (0.2, 0.3))


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_side_whose_trouble_passes_is_begun_again(side: str) -> None:
    run = Flaky(1.0, **{side: 3})
    looks = itertools.count()
    assert run.run(lambda _: next(looks) >= 0)
    assert run.tries[side] == 4
    assert next(looks) > 8  # it was watched while it paused


def test_without_follow_the_first_trouble_ends_the_run() -> None:
    run = Flaky(None, source=1)
    with pytest.raises(errors.Transient, match="source: the broker is away"):
        run.run(lambda _: True)
    assert run.tries["source"] == 1


def test_a_run_that_is_ended_while_a_side_pauses_ends_at_once() -> None:
    run = Flaky(1.0, source=99)
    assert not run.run(lambda _: run.tries["source"] < 2)
