"""docs/CLI.md, made from the commands themselves: `python -m tools.cli_reference [--check]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from engine.cli import app, ending
from tools import exit_codes

DOCUMENT = Path(__file__).parent.parent / "docs" / "CLI.md"
_HEAD = """# The command line

Made by `python -m tools.cli_reference` from the commands; do not edit.

STREAM is the label of a stream, its UUID or the first characters of it (four at least), the path of its source, or the
path of one of its replicas; a stream with several replicas is told apart by those.  With `--json` every line on stdout
is an object, and the last one has `"event": "end"`.  Shells complete commands, options and streams after
`vmferry --install-completion`.
"""
_CODES = """
## Exit codes

| code | name | meaning |
| ---: | --- | --- |
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something: its words, and its click.Command."""

    def below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield words, command
        for name, one in getattr(command, "commands", {}).items():
            yield from below(f"{words} {name}", one)

    yield from below("vmferry", typer.main.get_command(app.whole()))


def text() -> str:
    """What the file must hold."""
    parts = [_HEAD, *(_section(words, command) for words, command in commands()), _CODES]
    rows = "".join(f"| {code} | {name} | {meaning} |\n" for code, name, meaning in ending.codes())
    return "".join(parts) + rows + exit_codes.monitoring()


def _section(words: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    usage = " ".join([words, *(_argument(one) for one in arguments), "[OPTIONS]"])
    lines = [f"\n## {words}\n", f"    {usage}\n", _plain(command.help)]
    table = [(f"`{_argument(one)}`", one.help or "") for one in arguments]
    table += [(_option(one), one.help or "") for one in options]
    lines.append(
        "\n| given | meaning |\n| --- | --- |\n" + "\n".join(f"| {name} | {_plain(words)} |" for name, words in table)
    )
    return "\n".join(lines) + "\n"


def _plain(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


def _argument(one: Any) -> str:
    return str(one.metavar or one.name.upper())


def _option(one: Any) -> str:
    names = ", ".join(f"`{name}`" for name in one.opts)
    if one.is_flag:
        return names
    return f"{names} `{one.metavar or one.name.upper()}`{' (required)' if one.required else ''}"


def main() -> int:
    options = argparse.ArgumentParser(description="Makes docs/CLI.md from the commands.")
    options.add_argument("--check", action="store_true", help="write nothing; fail when the file is out of date")
    if not options.parse_args().check:
        DOCUMENT.write_text(text())
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != text():
        print("docs/CLI.md is not what the commands say: run python -m tools.cli_reference", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
