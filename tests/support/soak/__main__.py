"""A soak by hand: many streams over a real Kafka, and everything killed and cut at random.

    python -m tests.support.soak --streams 50 --minutes 30 --brokers 3 --seed 1 [--every 2s] [--json FILE]

The table is for docs/SOAKS.md.  When something is wrong its directory stays, and is named.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.support.soak.plan import Plan
from tests.support.soak.story import soak


def main() -> int:
    parser = argparse.ArgumentParser(description="A soak: faults at random, and what came of them.")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--brokers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", default="2s", help="how often a cut of each stream is made")
    parser.add_argument("--keep", action="store_true", help="let its directory stay also when all is well")
    parser.add_argument("--json", metavar="FILE", help="everything that was measured")
    chosen = parser.parse_args()
    planned = Plan(chosen.streams, 60 * chosen.minutes, chosen.brokers, chosen.seed, chosen.every)
    for number in (signal.SIGTERM, signal.SIGHUP):  # daemons and brokers are not to be left behind
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    home = Path(tempfile.mkdtemp(prefix="vmferry-soak-"))
    print(f"{len(planned.faults())} faults are planned; all of it lies in {home}", file=sys.stderr, flush=True)
    try:
        with soak(home, planned) as one:
            report = one.run()
    except BaseException:
        print(f"it did not come to its end; its logs stay in {home}", file=sys.stderr)
        raise
    print(report.table())
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(report.plain(), indent=1))
    if report.wrong:
        print(f"its logs stay in {home}", file=sys.stderr)
        return 1
    if not chosen.keep:
        shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
