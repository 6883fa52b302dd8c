"""A file system of few bytes, which is filled to the last one and given room again."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support import tools


class Small:
    """The file system at `place`.  Everything below `place` counts."""

    def __init__(self, place: Path) -> None:
        self.place, self._filler = place, place / "filler"

    def fill(self) -> None:
        """Take what is left."""
        with open(self._filler, "wb", buffering=0) as file:
            for piece in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(piece))
                        os.fsync(file.fileno())
        free = os.statvfs(self.place)
        assert free.f_bavail * free.f_bsize < 8192, f"{free.f_bavail} blocks are left"

    def give_room(self) -> None:
        self._filler.unlink()


@contextlib.contextmanager
def small(place: Path, size: int, block: int = 4096) -> Iterator[Small]:
    """An ext4 of `size` bytes in blocks of `block`, mounted at `place`, which is made.

    In the end nobody may be at it."""
    tools.need("mke2fs")
    place.mkdir(parents=True, exist_ok=True)
    image = place.with_name(f"{place.name}.ext4")
    with open(image, "wb") as file:
        file.truncate(size)
    environment = os.environ | {"PATH": tools.PATH}
    # -m 0: nothing is kept back for root.
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-b", str(block), image],
        env=environment,
        check=True,
    )
    mounted = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True, check=False)
    if mounted.returncode:
        tools.forbidden(f"a small file system cannot be mounted here: {mounted.stderr.strip()}; run as root")
    try:
        yield Small(place)
    finally:
        subprocess.run(["umount", place], check=True)
