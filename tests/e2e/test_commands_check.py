"""`status --check` as monitoring sees it: one line, a code, and what is wrong with a real replica."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.ferry import Ended, Ferry, scribble

pytestmark = pytest.mark.timeout(180)


def check(ferry: Ferry, code: int, *words: str) -> str:
    """The line that it says."""
    found: Ended = ferry.run("status", "--check", *words)
    assert found.code == code, found.out + found.err
    (line,) = found.out.splitlines()
    assert line.startswith(f"VMFERRY {('OK', 'WARNING', 'CRITICAL')[code]} - ")
    return line


def test_a_replica_that_has_everything_is_well(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    assert check(ferry, 0).endswith("worst is disk: RPO 0 s | 'disk'=0.000s;240;300")
    assert check(ferry, 0, "disk", "--max-rpo", "60s").endswith("'disk'=0.000s;48;60")
    found = ferry.run("status", "--check", "--json").last
    assert (found["ok"], found["check"], found["exit_code"]) == (True, "ok", 0)
    assert found["replicas"] == [{"name": "disk", "check": "ok", "rpo_seconds": 0.0, "words": []}]


def test_beyond_its_limits_it_warns_and_then_alarms(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    scribble(source, 2 << 20, 100)
    assert re.search(r"disk: RPO \S+ s is above 0.001 s \| 'disk'=", check(ferry, 2, "--max-rpo", "1ms"))
    assert "disk: RPO" in check(ferry, 1, "--max-rpo", "9d", "--warn-rpo", "1ms")
    assert "1 replica within" in check(ferry, 0, "--max-rpo", "9d")


def test_a_held_replica_is_critical(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    assert ferry.run("target", "release", "disk").code == 0
    assert "disk: held (released)" in check(ferry, 2)


def test_a_bus_that_is_away_and_a_store_that_fills_are_warnings(ferry: Ferry, source: Path, target: Path) -> None:
    stream = ferry.replicate(source, target)["stream"]
    (ferry.state / "streams" / stream / "source" / "log-quota").write_text("4096\n")
    assert "% of its quota" in check(ferry, 1)
    (ferry.state / "log").rename(ferry.state / "elsewhere")
    assert "disk: bus away" in check(ferry, 1)


def test_what_cannot_be_read_is_critical_and_stays_as_it_is(ferry: Ferry, source: Path, target: Path) -> None:
    stream = ferry.replicate(source, target)["stream"]
    directory = ferry.state / "streams" / stream
    (state,) = directory.glob("replica-*/state.sqlite")
    whole = state.read_bytes()
    state.write_bytes(b"no database" * 1000)
    assert "disk: damaged" in check(ferry, 2)
    state.write_bytes(whole)
    (directory / "stream.json").write_text("{}")
    for _ in range(2):
        assert "cannot be read" in check(ferry, 2)
    assert (directory / "stream.json").read_text() == "{}"


def test_no_stream_and_a_stream_that_is_not_there_are_critical(ferry: Ferry, source: Path, target: Path) -> None:
    assert "no stream is known here" in check(ferry, 2)
    ferry.replicate(source, target)
    assert "no stream 'dusk'" in check(ferry, 2, "dusk")


def test_a_check_that_is_put_wrong_does_not_pass_for_well(ferry: Ferry) -> None:
    assert "'soon' is no duration" in check(ferry, 2, "--max-rpo", "soon")
    found = ferry.run("status", "--max-rpo", "60s")
    assert found.code == 2
    assert "--max-rpo and --warn-rpo are limits for --check" in found.err
