"""How a command ends: with a sentence and an exit code for everything that is said on purpose."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from engine import errors

UNEXPECTED = 70
"""A bug of ours (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED = 130
"""Ctrl-C, or SIGTERM."""


class Interrupted(Exception):
    """The user wants it to end.  The message says how to go on."""


def codes() -> list[tuple[int, str, str]]:
    """Every exit code: (number, name, meaning), as docs/EXIT-CODES.md has them."""
    kinds: list[type[errors.FerryError]] = [errors.FerryError, *errors.FerryError.__subclasses__()]
    kinds.sort(key=lambda kind: kind.exit_code)
    found = [(kind.exit_code, kind.__name__, " ".join((kind.__doc__ or "").split())) for kind in kinds]
    done = (0, "done", "What was asked for is done; for `replicate`: applied, and proved unless the sentence says so.")
    wrong = (UNEXPECTED, "unexpected", "A bug of ours: please report it with what `--debug` prints.")
    cut = (INTERRUPTED, "interrupted", "Ctrl-C or SIGTERM: the state is left so that the same command goes on.")
    return [done, *found, wrong, cut]


@contextmanager
def told(as_json: bool, debug: bool = False) -> Iterator[None]:
    """Turn what is raised inside into its sentence on stderr, with --json an object on stdout too, and its code."""
    try:
        yield
    except errors.FerryError as why:
        if debug:
            traceback.print_exc()
        _end(as_json, type(why).__name__, str(why), why.exit_code)
    except Interrupted as why:
        _end(as_json, "Interrupted", str(why), INTERRUPTED)
    except KeyboardInterrupt:
        _end(as_json, "Interrupted", "interrupted", INTERRUPTED)
    except typer.Exit:
        raise
    except Exception as why:
        if debug:
            traceback.print_exc()
        _end(as_json, "Unexpected", f"unexpected {type(why).__name__}: {why} (see more with --debug)", UNEXPECTED)


def _end(as_json: bool, kind: str, message: str, code: int) -> NoReturn:
    sys.stderr.write(f"vmferry: {message}\n")
    if as_json:
        emit({"event": "end", "ok": False, "error": kind, "message": message, "exit_code": code})
    raise typer.Exit(code)


def emit(thing: dict[str, Any]) -> None:
    """One object on a line of its own, at once."""
    sys.stdout.write(json.dumps(thing, ensure_ascii=False) + "\n")
    sys.stdout.flush()
