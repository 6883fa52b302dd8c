"""How commands end: the documented codes, one line, one object."""

from __future__ import annotations

import json

import pytest
import typer

from engine import errors
from engine.cli import ending
from tools import exit_codes


def test_the_document_is_what_the_classes_say() -> None:
    assert exit_codes.DOCUMENT.read_text() == exit_codes.text(), "run python -m tools.exit_codes"


def test_every_code_is_another_one() -> None:
    numbers = [number for number, _, _ in ending.codes()]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("kind", errors.FerryError.__subclasses__())
def test_a_fault_ends_with_its_own_code_and_one_line(
    kind: type[errors.FerryError], capsys: pytest.CaptureFixture[str]
) -> None:
    fault = errors.OffsetGone("log", 5, 1, 2) if kind is errors.OffsetGone else kind("what and why")
    with pytest.raises(typer.Exit) as ended, ending.told(as_json=True):
        raise fault
    said = capsys.readouterr()
    assert ended.value.exit_code == kind.exit_code
    assert said.err == f"vmferry: {fault}\n"
    assert json.loads(said.out) == {
        "event": "end", "ok": False, "error": kind.__name__, "message": str(fault), "exit_code": kind.exit_code,
    }  # fmt: skip


def test_a_bug_of_ours_says_so_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, ending.told(as_json=False):
        raise ZeroDivisionError("by nought")
    said = capsys.readouterr()
    assert ended.value.exit_code == ending.UNEXPECTED
    assert said.err == "vmferry: unexpected ZeroDivisionError: by nought (see more with --debug)\n"
    assert said.out == ""
