"""Streams and replicas of several disks: what they are found by, and what is said of a move of one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from consumers import state
from engine import leftover, places, registry
from engine.registry import Disk, Registry, Replica, Stream

UUID = "0e2c1b7a-58a3-4c1c-9d36-7d2a7a1f0e01"


@pytest.fixture
def known(tmp_path: Path) -> Registry:
    return Registry(places.Places(tmp_path / "state"))


def disk(name: str, path: Path, there: bool = True) -> Disk:
    if there:
        path.write_bytes(name.encode())
    return registry.identified(Disk(name, str(path), "raw", 512))


def test_a_stream_is_known_by_its_first_disk_that_is_read_and_by_no_other(tmp_path: Path, known: Registry) -> None:
    disks = Disk("gone", "", "raw", 512), disk("vdb", tmp_path / "b"), disk("vdc", tmp_path / "c")
    known.save(Stream(UUID, "web", "log:/x", disks))
    found = known.of_source(str(tmp_path / "b"))
    assert found is not None
    assert found.disks == disks
    assert known.of_source(str(tmp_path / "c")) is None
    os.rename(tmp_path / "b", tmp_path / "moved")
    found = known.of_source(str(tmp_path / "moved"))
    assert found is not None
    assert found.disks == (disks[0], replace(disks[1], path=str(tmp_path / "moved")), disks[2])


def test_of_a_replica_the_disks_are_there_whose_images_were_made(tmp_path: Path) -> None:
    first, second, third = (disk(name, tmp_path / name, name != "vdc") for name in ("vda", "vdb", "vdc"))
    record = Replica("ab", UUID, "log:/x", (first, second, third), begun=True)
    assert state.there(record) == (first, second)
    os.unlink(tmp_path / "vdb")  # it was there once: it is missed
    assert state.there(record) == (first, second)
    assert state.there(replace(record, disks=(third,))) == (third,), "without any there is nothing to open"
    (tmp_path / "vdc").write_bytes(b"")  # made, and not known to be ours when the power went
    assert len(state.there(record)) == 3


def test_an_unfinished_move_of_one_disk_says_of_which(tmp_path: Path) -> None:
    goal = tmp_path / "there.img"
    paths = {"vda": "/r/web.img", "vdb": "/r/web-vdb.img"}
    leftover.begin(tmp_path, str(goal), "vdb")
    assert leftover.words(tmp_path, paths, "web") == "", "nothing was made yet"
    goal.write_bytes(b"")
    words = leftover.words(tmp_path, paths, "web")
    assert f"a move to {goal} was not finished, and the replica is /r/web-vdb.img as before" in words
    assert words.endswith(f"remove it, then `vmferry target move web {goal} --disk vdb`")
    assert leftover.words(tmp_path, {**paths, "vdb": str(goal)}, "web") == "", "it is taken"
    leftover.begin(tmp_path, str(goal))
    assert leftover.words(tmp_path, {"vda": "/r/web.img"}, "web").endswith(f"`vmferry target move web {goal}`")
