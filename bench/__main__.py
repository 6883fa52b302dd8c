"""`python -m bench`: measure everything and write bench/RESULTS.md."""

from __future__ import annotations

import argparse
import datetime
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import copies, idle, kafka, machine, measure, report, scan, settle, tap

Measure = Callable[[Path, bool, int], report.Section]
SECTIONS: dict[str, Measure] = {
    "baseline": copies.baseline,
    "delta": copies.delta,
    "kafka": kafka.section,
    "scan": scan.section,
    "memory": copies.memory,
    "settle": settle.section,
    "idle": idle.section,
    "tap": tap.section,
}
TOOLS = ("qemu-img", "qemu-nbd", "nbdcopy", "nbdkit", "rsync", "dd", "java")
ROOM = 40 * measure.GIB


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, 1 round, nothing written: does it work?")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each comparison (5; quick: 1)")
    parser.add_argument("--only", default="", help=f"sections, by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--directory", type=Path, default=None, help="where images lie meanwhile (needs 40 GiB)")
    parser.add_argument("--output", type=Path, default=None, help="where the results go")
    given = parser.parse_args()
    chosen = {name: SECTIONS[name] for name in SECTIONS if not given.only or name in given.only.split(",")}
    missing = [tool for tool in TOOLS if shutil.which(tool, path=measure.PATH) is None]
    if missing:
        parser.exit(1, f"bench: {', '.join(missing)} not found; sh tools/install-test-tools.sh brings them\n")
    # Not the system's directory for temporary files: that may be memory, and durability is measured here.
    parent = given.directory or measure.ROOT
    if not given.quick and shutil.disk_usage(parent).free < ROOM:
        parser.exit(1, f"bench: {parent} has less than 40 GiB free; give another --directory\n")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=parent) as directory:
        page = measured(Path(directory), chosen, given.quick, given.rounds or (1 if given.quick else 5))
    output = given.output or (None if given.quick or given.only else measure.ROOT / "bench" / "RESULTS.md")
    if output:
        output.write_text(page)
    print(page)


def measured(directory: Path, chosen: dict[str, Measure], quick: bool, rounds: int) -> str:
    """All sections, one after the other, as the page that shows them."""
    began, sections = time.monotonic(), []
    for name, section in chosen.items():
        measure.tell(f"{name} (load average {measure.load():.1f})")
        sections.append(section(directory, quick, rounds))
    minutes = (time.monotonic() - began) / 60
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    busy = max(one.load for one in sections)
    command = f"python -m bench{' --quick' if quick else ''}"
    head = [
        f"Written by `{command}` on {today}, in {minutes:.0f} minutes, all in one run on one machine."
        f"  In each of {rounds} rounds every contender has a turn, the order changing, after a `sync`.  Medians count.",
    ]
    if busy >= measure.BUSY:
        head.append(
            f"\nThe machine was not idle (load average up to {busy:.1f} before a section): ratios count, seconds less."
        )
    return report.page(head, machine.describe(directory), sections)


if __name__ == "__main__":
    main()
