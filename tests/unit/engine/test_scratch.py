"""Where the nodes of trees lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.store import scratch


@pytest.mark.parametrize("size", [1, 128 << 10, (128 << 10) + 1])
def test_room_is_zeros_and_keeps_what_is_written(tmp_path: Path, size: int) -> None:
    room = scratch.in_directory(tmp_path)(size)
    assert len(room) == size
    assert room[0:size] == bytes(size)
    room[size - 1 : size] = b"x"
    assert room[0:size] == bytes(size - 1) + b"x"
    assert os.listdir(tmp_path) == []


def test_only_what_is_large_is_a_file(tmp_path: Path) -> None:
    make = scratch.in_directory(tmp_path)
    assert isinstance(make(128 << 10), bytearray)
    assert isinstance(make((128 << 10) + 1), scratch.Buffer)
