"""The quota of an embedded log, as figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import errors
from engine.bus.room import Room


def _segment(tmp_path: Path, topic: str, size: int) -> None:
    (tmp_path / topic).mkdir(exist_ok=True)
    (tmp_path / topic / "00000000000000000000.seg").write_bytes(bytes(size))


def test_without_a_quota_everything_has_room(tmp_path: Path) -> None:
    Room(tmp_path / "not there", None).take(1 << 60)


def test_what_is_taken_and_not_yet_written_counts(tmp_path: Path) -> None:
    room = Room(tmp_path, 1000)
    room.take(600)
    with pytest.raises(errors.Full):
        room.take(600)
    room.landed(600)
    room.take(600)


def test_what_others_write_counts_before_it_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.bus.room.MEASURE_SECONDS", 0.0)
    room = Room(tmp_path, 1000)
    room.take(100)
    room.landed(100)
    _segment(tmp_path, "another", 700)
    with pytest.raises(errors.Full, match="holds 700 bytes, and 400 more would pass its quota of 1000"):
        room.take(400)


def test_only_segments_count(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(bytes(5000))
    Room(tmp_path, 1000).take(900)


def test_a_refused_amount_is_not_counted(tmp_path: Path) -> None:
    room = Room(tmp_path, 1000)
    for _ in range(5):
        with pytest.raises(errors.Full):
            room.take(1001)
    room.take(1000)
