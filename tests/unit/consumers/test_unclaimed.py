"""What is remembered of streams that are not taken, for how long, and how loudly."""

from __future__ import annotations

import logging

import pytest

from consumers.unclaimed import SILENT, Unclaimed
from schemas.control import Present
from schemas.identity import Volume

SAID = Present("ams", "web", (Volume("vda", 4096, 512),), 1, 0, 0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stream_that_nobody_has_any_more_is_dropped_and_one_that_is_heard_stays() -> None:
    clock = Clock()
    streams = Unclaimed(clock)
    streams.refuse("one", SAID, "no rule")
    streams.refuse("two", SAID, "no rule")
    clock.now += SILENT
    streams.refuse("two", SAID, "no rule")
    assert [one["stream"] for one in streams.told()] == ["one", "two"]
    clock.now += 1
    assert [one["stream"] for one in streams.told()] == ["two"]
    assert set(streams.named("web")) == set(streams.named("two")) == {"two"}
    assert streams.named("one") == {}


def test_why_is_said_once_and_again_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    streams = Unclaimed(Clock())
    with caplog.at_level(logging.INFO):
        streams.refuse("one", Present("ams", "web", (), 0, 0, 0), "not looked at yet")
        for why in ("no rule", "no rule", "no room"):
            streams.refuse("one", SAID, why)
        streams.refuse("two", SAID, "forgotten", forgotten=True)
    assert [(one.levelname, one.getMessage().rpartition(": ")[2]) for one in caplog.records] == [
        ("INFO", "not looked at yet"), ("WARNING", "no rule"), ("WARNING", "no room"), ("INFO", "forgotten"),
    ]  # fmt: skip
