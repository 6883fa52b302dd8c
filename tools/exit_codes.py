"""docs/EXIT-CODES.md, made from the classes of engine/errors.py: `python -m tools.exit_codes [--check]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine.cli import check, ending

DOCUMENT = Path(__file__).parent.parent / "docs" / "EXIT-CODES.md"
_HEAD = """# Exit codes

Made by `python -m tools.exit_codes` from the classes of `engine/errors.py`; do not edit.

Every command ends with one of these, but for `status --check` (below).  What went wrong is one line on stderr,
`vmferry: ...`; with `--json` the last line on stdout is an object with `"ok": false`, the name below as `error`,
`message` and `exit_code`.

| code | name | meaning |
| ---: | --- | --- |
"""


_CHECK = """
`vmferry status --check` is for monitoring and has codes of its own, those of Nagios plugins.  It ends with one of
these, also when the command is put wrong:

| code | name | meaning |
| ---: | --- | --- |
"""


def text() -> str:
    """What the file must hold."""
    rows = "".join(f"| {number} | {name} | {meaning} |\n" for number, name, meaning in ending.codes())
    return _HEAD + rows + monitoring()


def monitoring() -> str:
    """The codes of `status --check`."""
    return _CHECK + "".join(f"| {int(level)} | {level.name} | {meaning} |\n" for level, meaning in check.CODES.items())


def main() -> int:
    options = argparse.ArgumentParser(description="Makes docs/EXIT-CODES.md from the code.")
    options.add_argument("--check", action="store_true", help="write nothing; fail when the file is out of date")
    if not options.parse_args().check:
        DOCUMENT.write_text(text())
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != text():
        print("docs/EXIT-CODES.md is not what the code says: run python -m tools.exit_codes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
