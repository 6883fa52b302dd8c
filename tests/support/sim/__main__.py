"""`python -m tests.support.sim FIRST COUNT [--jobs N]`: run seeds, say which fail."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.support.sim.hunt import one


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--show", type=int, default=3)
    options = parser.parse_args()
    began, failed, applied = time.time(), [], 0
    with ProcessPoolExecutor(options.jobs) as pool:
        for seed, problem, epochs in pool.map(one, range(options.first, options.first + options.count), chunksize=20):
            applied += epochs
            if problem:
                failed.append(seed)
                if len(failed) <= options.show:
                    print(f"seed {seed}:\n{problem}\n", flush=True)
    seconds = time.time() - began
    print(f"{options.count} seeds, {applied} epochs acknowledged, {len(failed)} failed, {seconds:.0f} s")
    print("failed:", failed[:40])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
