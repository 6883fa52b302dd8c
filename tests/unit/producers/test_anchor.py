"""Which checkpoint is believed, and that what is kept outlives a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import errors
from producers.anchor import FILE, VERSION, Anchor, FileStore

DISKS = (("vda", 1 << 30), ("vdb", 4096))


def anchored(tmp_path: Path) -> Anchor:
    Anchor(FileStore(tmp_path)).keep("c1", DISKS)
    return Anchor(FileStore(tmp_path))


def test_nothing_is_believed_before_a_pass_was_kept(tmp_path: Path) -> None:
    assert Anchor(FileStore(tmp_path)).since(["c1"], "c1", DISKS) == ("", "no pass over it was kept yet")


def test_what_was_kept_is_believed_also_by_the_next_process(tmp_path: Path) -> None:
    assert anchored(tmp_path).since(["c0", "c1", "c2"], "c1", DISKS) == ("c1", "")


@pytest.mark.parametrize(
    ("there", "mark", "disks", "why"),
    [
        (["c0"], "c1", DISKS, "its checkpoint c1 is gone"),
        (["c1"], "", DISKS, "it was started, reverted or changed offline since the last pass"),
        (["c1"], "c0", DISKS, "it was started, reverted or changed offline since the last pass"),
        (["c1"], "c1", DISKS[:1], "its disks, or their sizes, are others than in the last pass"),
        (["c1"], "c1", (("vda", 1 << 31), DISKS[1]), "its disks, or their sizes, are others than in the last pass"),
        (["c1"], "c1", DISKS[::-1], "its disks, or their sizes, are others than in the last pass"),
    ],
)
def test_each_reason_not_to_believe_is_told(
    tmp_path: Path, there: list[str], mark: str, disks: tuple[tuple[str, int], ...], why: str
) -> None:
    assert anchored(tmp_path).since(there, mark, disks) == ("", why)


def test_what_was_dropped_stays_so(tmp_path: Path) -> None:
    anchored(tmp_path).drop()
    assert Anchor(FileStore(tmp_path)).since(["c1"], "c1", DISKS)[0] == ""


def test_a_damaged_file_is_said_and_nothing_is_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    anchored(tmp_path)
    (tmp_path / FILE).write_text('{"version": 1, "checkpoint": "c1"')
    assert Anchor(FileStore(tmp_path)).checkpoint == ""
    assert "does not read as written" in caplog.text


def test_a_newer_file_is_refused_untouched(tmp_path: Path) -> None:
    anchored(tmp_path)
    text = json.dumps({"version": VERSION + 1, "checkpoint": "c1", "disks": []})
    (tmp_path / FILE).write_text(text)
    with pytest.raises(errors.Newer):
        Anchor(FileStore(tmp_path))
    assert (tmp_path / FILE).read_text() == text
