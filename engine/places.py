"""Where state lies, and who holds it.

DIR/log/                             the embedded log, unless another bus was named
DIR/streams/UUID/stream.json         what the stream is of (engine/registry.py)
DIR/streams/UUID/source/             the source's state and map, its stage, its settings
DIR/streams/UUID/replica-ID/         a replica's position, undo log and digests
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from engine import errors, linux

VARIABLE = "VMFERRY_STATE"
SCRATCH = "/var/lib/vmferry-scratch"
"""Where QEMU meets us: sockets, and files that it writes.  packaging/ names it, too."""


def state_directory(given: str | None = None) -> Path:
    """--state, else $VMFERRY_STATE, else /var/lib/vmferry as root, else $XDG_STATE_HOME/vmferry or ~/.local/state."""
    named = given or os.environ.get(VARIABLE)
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/vmferry")
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "vmferry"


@dataclass(frozen=True, slots=True)
class Places:
    """The layout below one state directory."""

    root: Path

    @property
    def log(self) -> str:
        """The URL of the embedded log that is used when no bus is named."""
        return f"log:{self.root / 'log'}"

    @property
    def streams(self) -> Path:
        return self.root / "streams"

    def stream(self, stream: str) -> Path:
        return self.streams / stream

    def source(self, stream: str) -> Path:
        return self.stream(stream) / "source"

    def replica(self, stream: str, replica: str) -> Path:
        return self.stream(stream) / f"replica-{replica}"


def make(directory: Path) -> None:
    """The directory and its parents, for our eyes only, durably.  Raises Usage, Full, NotFound."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in reversed(missing):
            linux.sync_directory(str(path))
    except OSError as why:
        raise linux.failure(why, str(directory), "make this directory for its state", opening=True) from why


class Hold:
    """A flock on DIRECTORY/lock: one process for each side of a stream.  Goes with the process."""

    def __init__(self, directory: Path, what: str) -> None:
        path = directory / "lock"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as why:
            raise linux.failure(why, str(path), "open it", opening=True) from why
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "another"
            os.close(self._fd)
            raise errors.InUse(f"{what} is held by process {holder} ({path}): stop that one first") from None
        os.pwrite(self._fd, b"%-20d" % os.getpid(), 0)

    def close(self) -> None:
        """Repeatable."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def holder(directory: Path) -> int | None:
    """The process that holds DIRECTORY/lock, or None.

    By proc(5)'s list of locks, and not by trying: whoever starts at this moment must not find it locked by us.
    """
    path = directory / "lock"
    try:
        found = path.stat()
        locks = Path("/proc/locks").read_text().splitlines()
        said = path.read_text(errors="replace").strip()
    except OSError:
        return None
    here = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for words in map(str.split, locks):
        # 4: FLOCK  ADVISORY  WRITE 1702 fe:00:10010662 0 EOF; some file systems have another device number there.
        if words[1:2] == ["FLOCK"] and (
            words[5] == here or (words[4], words[5].split(":")[2]) == (said, str(found.st_ino))
        ):
            return int(words[4])
    return None
