"""The guests of a soak: one thread that keeps changing all images, each in its manner."""

from __future__ import annotations

import heapq
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.soak.plan import BUSY, RESTLESS, RHYTHM, Stream

_BLOCK = 64 << 10
_SECTOR = 512
_SMALL_PLACE = 1 << 20
"""Where a restless stream writes: much else would be the same blocks again."""
_MOST = {RESTLESS: 4096, BUSY: 256 << 10}
_GROWS = 0.02


class Writer:
    """Owns the content of the images.  `writes` and `bytes` count what it wrote since they were made."""

    def __init__(self, streams: Sequence[Stream], disk: Callable[[str], Path], seed: int) -> None:
        self._streams, self._disk = {one.name: one for one in streams}, disk
        self._chance = random.Random(seed + 3)
        self.writes = self.bytes = 0
        self.failed: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer")

    def make(self) -> None:
        """The images as they are at first: sparse, half of them data."""
        for one in self._streams.values():
            with open(self._disk(one.name), "wb") as file:
                file.truncate(one.size)
                for start in range(0, one.size - _BLOCK, 2 * _BLOCK):
                    file.seek(start)
                    file.write(self._chance.randbytes(_BLOCK))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Between two bursts; then a last word into each image, so that there is something new of each.

        Raises what ended the thread before."""
        self._stop.set()
        self._thread.join()
        if self.failed is not None:
            raise self.failed
        for name in self._streams:
            self._write(name, _SECTOR)

    def _run(self) -> None:
        due = [(time.monotonic() + self._pause(one.name), one.name) for one in self._streams.values()]
        heapq.heapify(due)
        try:
            while not self._stop.wait(max(0.0, due[0][0] - time.monotonic())):
                name = heapq.heappop(due)[1]
                self._burst(name)
                heapq.heappush(due, (time.monotonic() + self._pause(name), name))
        except BaseException as why:
            self.failed = why

    def _pause(self, name: str) -> float:
        return self._chance.uniform(*RHYTHM[self._streams[name].manner])

    def _burst(self, name: str) -> None:
        """A few writes, mostly small; now and then an image grows."""
        manner = self._streams[name].manner
        for _ in range(self._chance.randrange(1, 5) if manner == BUSY else 1):
            self._write(name, self._chance.choice((_SECTOR, 4096, _MOST.get(manner, 64 << 10))))
        if manner != RESTLESS and self._chance.random() < _GROWS:
            path = self._disk(name)
            os.truncate(path, path.stat().st_size + self._chance.randrange(1, 1 << 20) // _SECTOR * _SECTOR)

    def _write(self, name: str, most: int) -> None:
        path, length = self._disk(name), self._chance.randrange(1, most + 1)
        end = _SMALL_PLACE if self._streams[name].manner == RESTLESS else path.stat().st_size
        data = bytes(length) if self._chance.random() < 0.2 else self._chance.randbytes(length)
        with open(path, "r+b", buffering=0) as image:
            os.pwrite(image.fileno(), data, self._chance.randrange(0, end - length + 1))
        self.writes, self.bytes = self.writes + 1, self.bytes + length
