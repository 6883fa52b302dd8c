from __future__ import annotations

import subprocess
import sys

from tests.support.ferry import ROOT

_PROGRAM = """
from pathlib import Path
from engine import linux

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) >> 10

linux.keep_freed_memory()
kept = [bytearray(b"x") * (256 << 10) for _ in range(512)]
full = resident()
kept = kept[::8]
freed = resident()
linux.give_back_memory()
print(full, freed, resident(), sum(map(len, kept)) >> 20)
"""


def test_memory_that_is_free_between_pieces_in_use_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    full, freed, after, used = map(int, done.stdout.split())
    assert used == 16
    assert full > 120
    assert freed > full - 16, "by itself malloc keeps it"
    assert after < full - 80
