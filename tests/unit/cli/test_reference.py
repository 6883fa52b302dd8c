"""docs/CLI.md: up to date, and whole."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from engine.cli import app
from tools import cli_reference

COMMANDS = dict(cli_reference.commands())


def test_the_document_is_what_the_commands_say() -> None:
    assert cli_reference.DOCUMENT.read_text() == cli_reference.text(), "run python -m tools.cli_reference"


def test_every_command_of_the_issue_is_there() -> None:
    wanted = ("replicate", "status", "epochs", "verify", "target release", "target acquire", "recover", "doctor")
    assert {f"vmferry {words}" for words in wanted} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_and_option_is_explained(words: str) -> None:
    command = COMMANDS[words]
    assert command.help
    assert not [one.name for one in command.params if not one.help]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_speaks_json_and_can_be_told_where_state_lies(words: str) -> None:
    names = {name for one in COMMANDS[words].params for name in one.opts}
    assert {"--json", "--state"} <= names


@pytest.mark.parametrize("words", COMMANDS)
def test_help_is_shown_without_touching_anything(words: str) -> None:
    ended = CliRunner().invoke(app.whole(), [*words.split()[1:], "--help"])
    assert ended.exit_code == 0
    assert "Usage:" in ended.output
