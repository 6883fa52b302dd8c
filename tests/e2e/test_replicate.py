"""`vmferry replicate` as its user sees it: what is equal, what travels, what is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import places
from tests.support import ferry as ferries
from tests.support.ferry import MEBI, Ferry, image, same, scribble, until


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """24 MiB, of which 9 MiB and a bit are data."""
    return image(tmp_path / "disk.img", 24 * MEBI, {0: 5 * MEBI, 10 * MEBI + 5000: 4 * MEBI, 24 * MEBI - 100: 100})


def test_a_first_time_makes_an_equal_sparse_replica_and_proves_it(ferry: Ferry, source: Path, target: Path) -> None:
    found = ferry.run("replicate", source, target)
    assert found.code == 0, found.err
    assert same(source, target)
    assert os.stat(target).st_blocks <= os.stat(source).st_blocks + 5 * 128  # the edges of 64 KiB blocks
    assert "proved: source and replica have the Merkle root " in found.out
    assert str(ferry.state) in found.out
    assert "crash-consistent" in found.out


def test_without_a_change_nothing_travels_and_it_is_proved_again(ferry: Ferry, source: Path, target: Path) -> None:
    first = ferry.replicate(source, target)
    again = ferry.replicate(source, target)
    assert again["sent"] < 4096
    assert (again["roots"], again["stream"], again["replica"]) == (first["roots"], first["stream"], first["replica"])


def test_only_changed_blocks_travel(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    scribble(source, 3 * MEBI + 10, 100)
    scribble(source, 17 * MEBI, 65536)
    said = ferry.replicate(source, target)
    assert same(source, target)
    assert 2 * 65536 < said["sent"] < 3 * 65536


def test_zeros_travel_as_words_and_become_holes(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    with open(source, "r+b") as file:
        file.write(bytes(4 * MEBI))
    said = ferry.replicate(source, target)
    assert same(source, target)
    assert said["sent"] < 65536
    assert os.stat(target).st_blocks * 512 < 6 * MEBI


@pytest.mark.parametrize("size", [40 * MEBI, 24 * MEBI + 777, 11 * MEBI + 3, 512])
def test_a_source_of_another_size_is_followed(ferry: Ferry, source: Path, target: Path, size: int) -> None:
    ferry.replicate(source, target)
    os.truncate(source, size)
    if size > 30 * MEBI:
        scribble(source, 30 * MEBI, 200_000)
    said = ferry.replicate(source, target)
    assert target.stat().st_size == said["size"] == size
    assert same(source, target)


def test_a_moved_source_is_the_same_stream(ferry: Ferry, source: Path, target: Path, tmp_path: Path) -> None:
    first = ferry.replicate(source, target)
    moved = source.rename(tmp_path / "elsewhere.img")
    again = ferry.replicate(moved, target)
    assert again["stream"] == first["stream"]
    assert again["sent"] < 4096


def test_a_second_replica_of_one_source_is_served_by_digests(
    ferry: Ferry, source: Path, target: Path, tmp_path: Path
) -> None:
    first = ferry.replicate(source, target)
    second = ferry.replicate(source, tmp_path / "second.img")
    assert second["stream"] == first["stream"]
    assert same(source, tmp_path / "second.img")
    scribble(source, 0, 10)
    ferry.replicate(source, tmp_path / "second.img")
    ferry.replicate(source, target)
    assert same(source, target)


def test_a_target_that_exists_is_refused_untouched_with_the_way_out(ferry: Ferry, source: Path, target: Path) -> None:
    target.write_bytes(b"precious")
    found = ferry.run("replicate", source, target)
    assert found.code == 2
    assert "give --adopt" in found.err
    assert target.read_bytes() == b"precious"
    assert not list(ferry.state.glob("streams/*"))


def test_an_adopted_target_takes_only_what_differs(ferry: Ferry, source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    scribble(target, 2 * MEBI, 300_000)
    said = ferry.replicate(source, target, "--adopt")
    assert same(source, target)
    assert said["sent"] < 600_000


def test_the_replica_of_one_stream_is_not_taken_for_another(
    ferry: Ferry, source: Path, target: Path, tmp_path: Path
) -> None:
    ferry.replicate(source, target)
    found = ferry.run("replicate", image(tmp_path / "other.img", MEBI), target, "--adopt")
    assert (found.code, "is the replica of stream disk" in found.err) == (2, True)
    assert same(source, target)


def test_a_disk_is_not_its_own_replica(ferry: Ferry, source: Path, tmp_path: Path) -> None:
    os.link(source, tmp_path / "link.img")
    for target in (source, tmp_path / "link.img"):
        found = ferry.run("replicate", source, target, "--adopt")
        assert (found.code, "cannot be its own replica" in found.err) == (2, True)


def test_what_is_not_there_is_said(ferry: Ferry, target: Path, tmp_path: Path) -> None:
    found = ferry.run("replicate", tmp_path / "none.img", target, "--json")
    assert (found.code, found.last["error"], found.last["ok"]) == (3, "NotFound", False)
    assert not target.exists()


def test_one_stream_is_replicated_by_one_process(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    process = ferry.begin("replicate", source, target, "--follow", "--every", "200ms")
    try:
        sides = [path.parent for path in ferry.state.glob("streams/*/*/lock")]
        until(lambda: [places.holder(side) for side in sides] == [process.pid] * 2)
        found = ferry.run("replicate", source, target)
        assert (found.code, str(process.pid) in found.err) == (4, True)
    finally:
        assert ferries.interrupted(process).code == 130


def test_a_dry_run_says_it_all_and_writes_nothing(ferry: Ferry, source: Path, target: Path, tmp_path: Path) -> None:
    def listing() -> list[tuple[str, int, int]]:
        found = (path for path in sorted(tmp_path.rglob("*")))
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found]

    before = listing()
    said = ferry.run("replicate", source, target, "--dry-run", "--json").last
    assert listing() == before
    assert (said["size"], said["known"], said["travels"]) == (24 * MEBI, False, said["read"])
    assert 9 * MEBI <= said["travels"] < 10 * MEBI
    assert {need["what"] for need in said["needs"]} == {"target", "log", "undo", "state"}
    ferry.replicate(source, target)
    scribble(source, 3 * MEBI, 10)
    before = listing()
    said = ferry.run("replicate", source, target, "--dry-run", "--json").last
    assert listing() == before
    assert (said["known"], said["travels"]) == (True, 65536)
    assert "nothing was written" in ferry.run("replicate", source, target, "--dry-run").out


def test_following_brings_each_change_until_it_is_ended(ferry: Ferry, source: Path, target: Path) -> None:
    process = ferry.begin("replicate", source, target, "--follow", "--every", "300ms", "--json")
    try:
        until(lambda: target.exists() and same(source, target))
        for seed in range(3):
            scribble(source, seed * MEBI, 100_000, seed)
            until(lambda: same(source, target))
    finally:
        found = ferries.interrupted(process)
    assert found.code == 130
    assert "run the same command again" in found.err
    assert found.out.count('"event": "cut"') >= 3, "the last one may be equal and not told of yet"
    assert ferry.replicate(source, target)["sent"] < 4096


def test_a_rate_is_kept_and_can_be_lifted_while_it_runs(ferry: Ferry, source: Path, target: Path) -> None:
    process = ferry.begin("replicate", source, target, "--name", "web", "--rate", "64K", "--json")
    until(lambda: ferry.run("rate", "web", "32K").code == 0)
    assert process.poll() is None
    assert ferry.run("rate", "web", "off").code == 0
    found = ferries.ended(process)
    assert (found.code, found.last["proved"]) == (0, True)
    assert ferry.run("rate", "none", "1M").code == 3
    assert ferry.run("rate", "web", "fast").code == 2


def test_state_can_be_told_where_to_lie(ferry: Ferry, source: Path, target: Path, tmp_path: Path) -> None:
    said = ferry.replicate(source, target, "--state", tmp_path / "here", "--bus", f"log:{tmp_path / 'bus'}")
    assert (said["state"], said["bus"]) == (str(tmp_path / "here"), f"log:{tmp_path / 'bus'}")
    assert not ferry.state.exists()
    assert any((tmp_path / "bus").iterdir())
