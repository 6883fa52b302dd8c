"""What the command tests begin with: a state of their own, a disk, and where its replica goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ferry import MEBI, Ferry, image


@pytest.fixture
def ferry(tmp_path: Path) -> Ferry:
    return Ferry(tmp_path / "state")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", 32 * MEBI, {MEBI: 4 * MEBI, 20 * MEBI: MEBI})


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "replica.img"
