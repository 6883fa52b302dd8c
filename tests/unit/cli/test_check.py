"""What monitoring is told, from the figures alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from engine import errors
from engine.cli import check
from engine.cli.check import Level, Limits
from engine.cli.judged import Judged

WITHIN = Limits(critical=60, warning=48)
WELL = Judged("web-1", 12.0)


@pytest.mark.parametrize(
    ("one", "level", "words"),
    [
        (WELL, Level.OK, "1 replica within 60 s, worst is web-1: RPO 12 s"),
        (replace(WELL, rpo=0.0), Level.OK, "RPO 0 s"),
        (replace(WELL, rpo=48.0), Level.OK, "RPO 48 s"),
        (replace(WELL, rpo=48.5), Level.WARNING, "web-1: RPO 48 s is above 48 s"),
        (replace(WELL, rpo=60.0), Level.WARNING, "RPO 60 s is above 48 s"),
        (replace(WELL, rpo=61.0), Level.CRITICAL, "web-1: RPO 61 s is above 60 s"),
        (replace(WELL, rpo=7200.0), Level.CRITICAL, "web-1: RPO 2 h 00 min is above 60 s"),
        (replace(WELL, rpo=None), Level.CRITICAL, "web-1: no usable epoch"),
        (replace(WELL, held="released"), Level.CRITICAL, "web-1: held (released)"),
        (replace(WELL, damaged="bad page"), Level.CRITICAL, "web-1: damaged (bad page)"),
        (replace(WELL, rpo=None, damaged="bad page"), Level.CRITICAL, "web-1: damaged (bad page)"),
        (replace(WELL, bus_away="nobody answers"), Level.WARNING, "web-1: bus away (nobody answers)"),
        (replace(WELL, rpo=90.0, bus_away="no"), Level.CRITICAL, "web-1: RPO 90 s is above 60 s, bus away (no)"),
        (replace(WELL, warnings=("the log /x: 90 % of its quota",)), Level.WARNING, "web-1: the log /x: 90 %"),
    ],
)
def test_one_replica_is_judged(one: Judged, level: Level, words: str) -> None:
    verdict = check.judge([one], WITHIN)
    assert verdict.level is level
    assert verdict.line.startswith(f"VMFERRY {level.name} - ")
    assert words in verdict.line


def test_codes_are_those_of_nagios() -> None:
    assert [int(level) for level in Level] == [0, 1, 2]
    assert set(check.CODES) == set(Level)


def test_no_stream_at_all_is_critical() -> None:
    assert check.judge([], WITHIN) == check.Verdict(Level.CRITICAL, "VMFERRY CRITICAL - no stream is known here", ())


def test_the_worst_comes_first_and_those_that_are_well_are_counted() -> None:
    verdict = check.judge(
        [
            Judged("well", 3.0), Judged("late", 50.0), Judged("later", 70.0), Judged("none", None),
            Judged("latest", 80.0), Judged("fine", 1.0),
        ],
        WITHIN,
    )  # fmt: skip
    assert verdict.level is Level.CRITICAL
    assert [one.name for one in verdict.found] == ["none", "latest", "later", "late", "well", "fine"]
    assert verdict.line.partition(" | ")[0] == (
        "VMFERRY CRITICAL - none: no usable epoch; latest: RPO 80 s is above 60 s; later: RPO 70 s is above 60 s; "
        "late: RPO 50 s is above 48 s; 2 more OK"
    )


def test_behind_the_bar_is_a_number_for_each() -> None:
    verdict = check.judge([WELL, Judged("db", None)], Limits(60, 45.5))
    assert verdict.line.partition(" | ")[2] == "'db'=U;45.5;60 'web-1'=12.000s;45.5;60"


def test_a_stream_that_nobody_took_has_no_number_and_is_no_alarm() -> None:
    verdict = check.judge([WELL, Judged("db", None, warnings=("no rule takes it",), taken=False)], Limits(60, 45.5))
    assert verdict.level is Level.WARNING
    assert verdict.line == "VMFERRY WARNING - db: no rule takes it; 1 more OK | 'db'=U;45.5;60 'web-1'=12.000s;45.5;60"


def test_several_replicas_of_one_label_are_told_apart() -> None:
    one, other = replace(WELL, name="/a.img"), replace(WELL, name="/b.img", rpo=70.0)
    verdict = check.judge([one, other, Judged("db", 1.0, name="/c.img")], WITHIN)
    assert [one.name for one in verdict.found] == ["web-1 /b.img", "web-1 /a.img", "db"]
    assert "'web-1 /a.img'=12.000s" in verdict.line


def test_words_of_others_cannot_break_the_line() -> None:
    verdict = check.judge([Judged("it's=a|b", 90.0, held="x | 'y'=0\nVMFERRY OK - \udcff")], WITHIN)
    assert "\n" not in verdict.line
    assert verdict.line.count("|") == 1
    assert verdict.line.endswith(" | 'it''s-a/b'=90.000s;48;60")
    assert verdict.line.encode()


def test_a_warning_begins_at_four_fifths_unless_it_is_said() -> None:
    assert check.limits("60s", "") == Limits(60, 48)
    assert check.limits("60s", "10s") == Limits(60, 10)
    assert check.limits("", "") == Limits(300, 240)
    with pytest.raises(errors.Usage, match=re.escape("--warn-rpo 61s is above --max-rpo 60s")):
        check.limits("60s", "61s")
    with pytest.raises(errors.Usage, match="is no duration"):
        check.limits("soon", "")
