"""A guest that never rests: changes an image, and knows every state that it has been in."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from pathlib import Path

MIB = 1 << 20
_SECTOR = 512


class Changer:
    """Owns the content of the raw image at `path`; `cuts` are the SHA-256 of all states that it was ever in."""

    def __init__(self, path: Path, size: int, seed: int) -> None:
        self.path, self.steps = path, 0
        self.chance = random.Random(seed)
        self.content = bytearray(size)
        self.cuts: set[bytes] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        for at in range(0, size, MIB):
            if self.chance.random() < 0.7:
                self.content[at : at + MIB] = self.chance.randbytes(MIB)
        path.write_bytes(self.content)
        self._remember()

    def _remember(self) -> None:
        self.cuts.add(hashlib.sha256(self.content).digest())

    def resize(self) -> None:
        """Another size, a little more or less.  Not while anybody reads, who would find the image too short."""
        size = max(MIB, len(self.content) + self.chance.randrange(-MIB, MIB) // _SECTOR * _SECTOR)
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))
        self._remember()
        os.truncate(self.path, size)

    def step(self) -> None:
        """A few writes in quick order, mostly small, some of them zeros."""
        with open(self.path, "r+b", buffering=0) as image:
            for _ in range(self.chance.randrange(1, 6)):
                start, data = self._write()
                self.content[start : start + len(data)] = data
                self._remember()
                os.pwrite(image.fileno(), data, start)
                self._stop.wait(self.chance.choice((0, 0, 0.001, 0.005, 0.02)))
        self.steps += 1

    def _write(self) -> tuple[int, bytes]:
        most = self.chance.choice((_SECTOR, 4096, 200_000, MIB, 6 * MIB))
        length = self.chance.randrange(1, min(most, len(self.content)) + 1)
        start = self.chance.randrange(0, len(self.content) - length + 1)
        return start, bytes(length) if self.chance.random() < 0.2 else self.chance.randbytes(length)

    def start(self) -> None:
        """Change the image in the background until `stop`.  Repeatable."""
        if self._thread is not None:
            return
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="changer")
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self.chance.uniform(0.02, 0.4)):
            self.step()

    def stop(self) -> None:
        """Between two steps.  Repeatable."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
