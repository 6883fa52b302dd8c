"""The order in which an embedded log makes things durable: a power cut may come between any two of its steps.

No test here cuts the power.  A witness stands between the log and the system: it knows what is only in the page cache,
and protests when the index promises it, or when something is built upon it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from engine.bus import segments
from engine.bus.embedded import EmbeddedBus
from engine.bus.index import Index, Mark, State

TOPIC = "stream"


class Witness:
    """Inodes with bytes, cuts or names that a power cut would take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, topic: Path) -> None:
        self._topic = topic
        self.written: set[int] = set()
        self.cut: set[int] = set()
        self.renamed: set[int] = set()
        self.forgotten: set[int] = set()
        "Written, and called clean by the kernel after an fdatasync that failed: only writing again helps."
        self.commits = 0
        real = {name: getattr(os, name) for name in ("pwritev", "ftruncate", "fdatasync", "fsync", "open", "unlink")}
        self._real = real
        for name in real:
            monkeypatch.setattr(os, name, getattr(self, name))
        commit, create = Index.commit, Index.create

        def committed(index: Index, tail: Mark, marks: Iterable[Mark]) -> None:
            self.promised()
            commit(index, tail, marks)

        def created(index: Index, state: State, marks: Iterable[Mark]) -> None:
            self.promised()
            create(index, state, marks)

        monkeypatch.setattr(Index, "commit", committed)
        monkeypatch.setattr(Index, "create", created)

    def promised(self) -> None:
        self.commits += 1
        assert not self.written | self.forgotten, "the index names records that are only in the page cache"
        assert not self.cut, "the index was committed while a cut tail could come back"
        assert not self.renamed, "the index names a segment whose directory entry is not durable"

    def pwritev(self, fd: int, buffers: Any, position: int) -> int:
        inode = os.fstat(fd).st_ino
        assert inode not in self.cut, "written where a tail was cut that could come back behind it"
        self.written.add(inode)
        self.forgotten.discard(inode)
        return int(self._real["pwritev"](fd, buffers, position))

    def ftruncate(self, fd: int, size: int) -> None:
        self.cut.add(os.fstat(fd).st_ino)
        self._real["ftruncate"](fd, size)

    def open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(".seg"):
            assert not self.written, "a new segment before the one that it follows is durable"
            self.renamed.add(self._topic.stat().st_ino)
        return int(self._real["open"](path, flags, *rest, **more))

    def unlink(self, path: Any, *rest: Any, **more: Any) -> None:
        if str(path).endswith(".seg"):
            self.renamed.add(self._topic.stat().st_ino)
        self._real["unlink"](path, *rest, **more)

    def fdatasync(self, fd: int) -> None:
        self._synced(fd)
        self._real["fdatasync"](fd)

    def fsync(self, fd: int) -> None:
        self._synced(fd)
        self._real["fsync"](fd)

    def _synced(self, fd: int) -> None:
        for what in (self.written, self.cut, self.renamed):
            what.discard(os.fstat(fd).st_ino)


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Witness:
    monkeypatch.setattr(segments, "SEGMENT_SIZE", 2000)
    monkeypatch.setattr("engine.bus.embedded.BUFFER", 700)
    return Witness(monkeypatch, tmp_path / TOPIC)


@pytest.mark.parametrize("shared", [False, True])
async def test_nothing_is_promised_before_it_is_durable(tmp_path: Path, witness: Witness, shared: bool) -> None:
    bus = EmbeddedBus(tmp_path)
    log = await bus.open(TOPIC, write=True, shared=shared)
    for number in range(12):
        await log.append([bytes(300)] * (1 + number % 5))
        await log.sync()
    await bus.close()
    assert witness.commits > 12
    assert len(segments.firsts(tmp_path / TOPIC)) > 3


@pytest.mark.parametrize("lost_index", [False, True])
async def test_what_a_recovery_keeps_is_written_again_and_what_it_cuts_is_cut_for_good(
    tmp_path: Path, witness: Witness, lost_index: bool
) -> None:
    bus = EmbeddedBus(tmp_path)
    log = await bus.open(TOPIC, write=True)
    await log.append([bytes(100)] * 3)
    await log.sync()
    await bus.close()
    last = segments.path(tmp_path / TOPIC, 0)
    _add(last, segments.record_header(3, b"whole") + b"whole" + segments.record_header(4, b"torn") + b"to")
    if lost_index:
        for file in (tmp_path / TOPIC).glob("index.sqlite*"):
            file.unlink()
    witness.forgotten.add(last.stat().st_ino)
    bus = EmbeddedBus(tmp_path)
    log = await bus.open(TOPIC, write=True)
    assert await log.ends() == (0, 4)
    await bus.close()


def _add(file: Path, data: bytes) -> None:
    with open(file, "ab") as opened:
        opened.write(data)
