"""`python -m producers.tap run ORDER` is a tap, `python -m producers.tap watch ORDER` its watchdog.

Exit codes are those of docs/EXIT-CODES.md.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from engine import errors
from producers.tap import order as orders


def main(arguments: list[str]) -> int:
    """Run one of them to its end."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        what, path = arguments
        if what not in ("run", "watch"):
            raise ValueError(what)
    except ValueError:
        logging.error("%s", __doc__)
        return errors.Usage.exit_code
    try:
        order = orders.load(Path(path))
        if what == "run":
            from producers.tap.process import Tap

            Tap(order).run()
        else:
            from producers.tap.watchdog import Watchdog

            Watchdog(order).run()
    except errors.FerryError as why:
        logging.error("%s", why)
        return why.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
