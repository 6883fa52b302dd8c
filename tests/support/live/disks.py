"""What a disk of the live guest holds, looked at from outside: the promises of load.c, checked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import tools

_DIGITS, _BLOCK = 16, 4096


@dataclass(frozen=True, slots=True)
class Seen:
    """What one disk holds; 0 where the load has not come so far."""

    beat: int
    newest: int
    "The newest file that has its name."


class Torn(AssertionError):
    """A disk that no crash of the guest could have left so."""


def look(raw: Path) -> Seen:
    """What the raw image `raw` holds, whose journal is replayed first, in place.

    Raises Torn when e2fsck is not content after that, when a file is not whole, or the counter is torn.
    """
    # Bits 1 and 2 of e2fsck's exit code say that it mended something: here, that it replayed the journal.
    replayed = _e2fsck("-y", "-E", "journal_only", raw)
    if replayed.returncode > 3:
        raise Torn(f"{raw}: its journal cannot be replayed:\n{replayed.stdout}{replayed.stderr}")
    checked = _e2fsck("-fn", raw)
    if checked.returncode:
        raise Torn(f"{raw}: e2fsck says after the journal's replay:\n{checked.stdout}{checked.stderr}")
    with tempfile.TemporaryDirectory(dir=raw.parent) as scratch:
        beat, files = Path(scratch) / "beat", Path(scratch) / "files"
        _debugfs(raw, f"dump /beat {beat}")
        _debugfs(raw, f"rdump /files {scratch}")
        return Seen(_beat(beat), max((_whole(one) for one in _named(files)), default=0))


def look_together(raws: list[Path]) -> list[Seen]:
    """As `look`, of all disks of one instant in the guest's order.  Raises Torn when one is ahead of an earlier."""
    seen = [look(raw) for raw in raws]
    beats = [one.beat for one in seen]
    if beats != sorted(beats, reverse=True) or beats[0] - beats[-1] > 1:
        raise Torn(f"the disks are not of one instant: their counters are {beats}")
    return seen


def digest(raw: Path, path: str) -> str:
    """The SHA-256 of one file of the raw image `raw`; that of nothing where it has no such file."""
    with tempfile.TemporaryDirectory(dir=raw.parent) as scratch:
        copy = Path(scratch) / "copy"
        _debugfs(raw, f"dump {path} {copy}")
        return hashlib.sha256(copy.read_bytes() if copy.exists() else b"").hexdigest()


def _named(files: Path) -> list[Path]:
    return [path for path in files.iterdir() if path.suffix != ".tmp"] if files.exists() else []


def _beat(path: Path) -> int:
    content = path.read_bytes() if path.exists() else b""
    if not content:
        return 0
    if len(content) != _BLOCK or content != content[:_DIGITS] * (_BLOCK // _DIGITS):
        raise Torn(f"the counter is torn: {len(content)} bytes, {sorted(set(_pieces(content)))[:4]}")
    return int(content[:_DIGITS])


def _pieces(content: bytes) -> list[bytes]:
    return [content[at : at + _DIGITS] for at in range(0, len(content), _DIGITS)]


def _whole(path: Path) -> int:
    number = int(path.name)
    length = (1 + number % 16) * _BLOCK
    content = path.read_bytes()
    if content != f"{number:0{_DIGITS}}".encode() * (length // _DIGITS):
        raise Torn(f"file {number} is not whole: {len(content)} bytes of {length}, {_pieces(content)[:2]}")
    return number


def _e2fsck(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["e2fsck", *words], capture_output=True, text=True, check=False, env=_PLAIN)


def _debugfs(raw: Path, request: str) -> None:
    # A path that is not there is said on stderr only; what was to be made of it is missing then, which is looked at.
    done = subprocess.run(["debugfs", "-R", request, raw], capture_output=True, text=True, check=False, env=_PLAIN)
    assert done.returncode == 0, done.stderr


_PLAIN = os.environ | {"LC_ALL": "C", "PATH": tools.PATH}
