"""What goes wrong while `vmferry replicate` runs: said in words, nothing lost, and the same command goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import envelope
from engine.bus import embedded
from schemas import events
from tests.support import ferry as ferries
from tests.support.ferry import MEBI, Ferry, copied, image, same, scribble, until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted: run as root")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", 64 * MEBI)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "vmferry-test", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


async def sealed(ferry: Ferry) -> list[list[events.Written]]:
    """The changes of each sealed epoch of the only stream, in order."""
    bus = embedded.EmbeddedBus(ferry.state / "log")
    (topic,) = [path.name for path in (ferry.state / "log").iterdir() if not path.name.endswith("receipts")]
    log = await bus.open(topic)
    found: list[list[events.Written]] = []
    open_: list[events.Written] = []
    at, end = await log.ends()
    while at < end:
        for entry in await log.read(at, 8 * MEBI, 0):
            at = entry.offset + 1
            event = envelope.event(entry.data)[1]
            if isinstance(event, events.Open | events.Started):
                open_ = []
            elif isinstance(event, events.Written):
                open_.append(event)
            elif isinstance(event, events.Seal):
                found.append(open_)
    await bus.close()
    return found


def placed(ferry: Ferry) -> int:
    """Bytes in the log's segments."""
    return sum(path.stat().st_size for path in ferry.state.glob("log/*/*.seg"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_a_run_that_is_ended_in_the_middle_goes_on_there(
    ferry: Ferry, source: Path, target: Path, how: signal.Signals
) -> None:
    process = ferry.begin("replicate", source, target, "--rate", "20M")
    until(lambda: placed(ferry) > 30 * MEBI)
    found = ferries.interrupted(process, how)
    if how is not signal.SIGKILL:
        assert found.code == 130
        assert "run the same command again to go on; " in found.err
    before = await sealed(ferry)
    assert len(before) >= 2
    said = ferry.replicate(source, target, "--rate", "off")
    assert same(source, target)
    durable = {one.start for epoch in before for one in epoch}
    again = [one for epoch in (await sealed(ferry))[len(before) :] for one in epoch if one.start in durable]
    assert sum(len(one.data) for one in again) <= 64 * MEBI // 100
    assert said["sent"] < 64 * MEBI * 1.01 - sum(len(one.data) for epoch in before for one in epoch)


def test_a_second_ctrl_c_ends_at_once(ferry: Ferry, source: Path, target: Path) -> None:
    process = ferry.begin("replicate", source, target, "--rate", "1M")
    until(lambda: placed(ferry) > MEBI)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)  # two within a moment count as one
    assert ferries.interrupted(process).code == 130
    ferry.replicate(source, target, "--rate", "off")
    assert same(source, target)


QEMU = """
import sys, time
from engine.device.locks import ImageLock
image = open(sys.argv[1], "r+b")
ImageLock(image.fileno(), sys.argv[1]).acquire(True)
print("held", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def in_use(path: Path) -> Iterator[int]:
    """Another process holds the image as a running VM does."""
    process = subprocess.Popen(
        [sys.executable, "-c", QEMU, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ferries.ROOT)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_source_in_use_is_refused_and_read_unproved_only_when_asked(ferry: Ferry, source: Path, target: Path) -> None:
    with in_use(source) as pid:
        found = ferry.run("replicate", source, target)
        assert (found.code, f"pid {pid}" in found.err, "--force-share" in found.err) == (4, True, True)
        forced = ferry.run("replicate", source, target, "--force-share", "--json")
        assert (forced.code, forced.last["proved"], forced.last["cut"]) == (0, False, "none")
        assert any("no cut of it is consistent" in note for note in forced.last["notes"])
    assert ferry.replicate(source, target)["sent"] < 4096


def test_a_target_in_use_is_refused(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    with in_use(target) as pid:
        found = ferry.run("replicate", source, target)
    assert (found.code, f"pid {pid}" in found.err) == (4, True)


def test_a_target_that_was_deleted_is_made_anew_aloud(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    target.unlink()
    said = ferry.replicate(source, target)
    assert "was deleted, and is made anew): everything travels" in said["notes"][0]
    assert same(source, target)


def test_a_target_that_is_deleted_under_us_ends_the_run_in_words(ferry: Ferry, source: Path, target: Path) -> None:
    process = ferry.begin("replicate", source, target, "--follow", "--every", "200ms")
    until(lambda: target.exists() and same(source, target))
    target.unlink()
    scribble(source, 0, 10)
    found = ferries.ended(process)
    assert (found.code, "deleted under us" in found.err) == (3, True)
    ferry.replicate(source, target)
    assert same(source, target)


def test_a_target_that_somebody_wrote_to_is_compared_and_healed(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    scribble(target, 5 * MEBI, 100_000)
    said = ferry.replicate(source, target)
    assert "was written to by somebody else" in said["notes"][0]
    assert said["sent"] < 400_000
    assert same(source, target)


def test_a_target_that_was_replaced_is_compared_and_healed(
    ferry: Ferry, source: Path, target: Path, tmp_path: Path
) -> None:
    ferry.replicate(source, target)
    (tmp_path / "copy").write_bytes(target.read_bytes())
    scribble(tmp_path / "copy", 0, 70_000)
    (tmp_path / "copy").rename(target)
    said = ferry.replicate(source, target)
    assert "is another file than the one" in said["notes"][0]
    assert said["sent"] < 200_000
    assert same(source, target)


def garbled(path: Path) -> None:
    path.write_bytes(b"\\x17" * 5000)


def gone(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [garbled, gone, cut_short])
@pytest.mark.parametrize("side", ["source", "replica-*"])
def test_lost_state_of_either_side_is_a_comparison_said_aloud_and_no_full_copy(
    ferry: Ferry, source: Path, target: Path, side: str, harm: object
) -> None:
    ferry.replicate(source, target)
    scribble(source, 9 * MEBI, 100)
    (store,) = ferry.state.glob(f"streams/*/{side}/state.sqlite")
    assert callable(harm)
    harm(store)
    said = ferry.replicate(source, target)
    assert same(source, target)
    assert "was lost" in said["notes"][0]
    assert said["sent"] < 200_000
    assert said["seconds"] < 10, "a source that began anew is fenced, and need not wait for answers"
    assert store.with_name("state.sqlite.damaged-1").exists() == (harm is not gone)
    assert ferry.replicate(source, target)["notes"] == []


@pytest.mark.parametrize("name", ["source/0.prints", "source/0.digests", "replica-*/0.claims", "replica-*/undo"])
def test_a_lost_file_of_digests_is_a_comparison_said_aloud(ferry: Ferry, source: Path, target: Path, name: str) -> None:
    ferry.replicate(source, target)
    (file,) = ferry.state.glob(f"streams/*/{name}")
    file.unlink()
    said = ferry.replicate(source, target)
    assert same(source, target)
    assert "missing" in said["notes"][0]
    assert said["sent"] < 200_000


def test_a_state_of_a_newer_version_is_refused_untouched(ferry: Ferry, source: Path, target: Path) -> None:
    import sqlite3

    ferry.replicate(source, target)
    (store,) = ferry.state.glob("streams/*/source/state.sqlite")
    with contextlib.closing(sqlite3.connect(store)) as plain:
        plain.execute("PRAGMA user_version = 9")
    before = store.read_bytes()
    found = ferry.run("replicate", source, target)
    assert (found.code, "upgrade it" in found.err) == (8, True)
    assert store.read_bytes() == before


def test_a_lost_log_costs_nothing_that_both_sides_have(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    (ferry.state / "log").rename(ferry.state / "lost")
    assert ferry.replicate(source, target)["sent"] < 4096
    scribble(source, 0, 10)
    ferry.replicate(source, target)
    assert same(source, target)


@needs_root
def test_no_room_at_the_target_is_refused_before_anything_travels(ferry: Ferry, source: Path, small: Path) -> None:
    found = ferry.run("replicate", source, small / "replica.img")
    assert (found.code, "are needed, and its file system has" in found.err) == (5, True)
    assert not list(small.iterdir())
    assert ferry.run("replicate", source, small / "replica.img", "--dry-run").code == 5


@needs_root
def test_a_target_that_fills_up_ends_the_run_and_goes_on_when_there_is_room(
    ferry: Ferry, small: Path, tmp_path: Path
) -> None:
    source, target = image(tmp_path / "disk.img", 64 * MEBI, {0: 8 * MEBI}), small / "replica.img"
    ferry.replicate(source, target)
    content = target.read_bytes()
    (small / "filler").write_bytes(bytes(10 * MEBI))
    scribble(source, 20 * MEBI, 12 * MEBI)
    found = ferry.run("replicate", source, target)
    assert (found.code, "no space left" in found.err) == (5, True)
    (small / "filler").unlink()
    assert ferry.run("replicate", source, target, "--dry-run").code == 0
    ferry.replicate(source, target)
    assert same(source, target)
    assert content != target.read_bytes()


@needs_root
def test_a_full_target_is_waited_for_while_following(ferry: Ferry, small: Path, tmp_path: Path) -> None:
    source, target = image(tmp_path / "disk.img", 64 * MEBI, {0: 8 * MEBI}), small / "replica.img"
    ferry.replicate(source, target)
    (small / "filler").write_bytes(bytes(10 * MEBI))
    scribble(source, 20 * MEBI, 12 * MEBI)
    process = ferry.begin("replicate", source, target, "--follow", "--every", "300ms")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    assert process.poll() is None
    (small / "filler").unlink()
    until(lambda: same(source, target))
    found = ferries.interrupted(process)
    assert (found.code, "no space left" in found.err, "trying again in" in found.err) == (130, True, True)


@needs_root
def test_a_target_that_cannot_be_written_to_is_said(ferry: Ferry, source: Path, small: Path, tmp_path: Path) -> None:
    tiny, target = image(tmp_path / "tiny.img", MEBI), small / "replica.img"
    ferry.replicate(tiny, target)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    found = ferry.run("replicate", tiny, target)
    assert (found.code, "read-only" in found.err) == (2, True)


def test_epochs_that_fit_the_undo_budget_one_by_one_give_up_older_ones_aloud(
    ferry: Ferry, source: Path, target: Path
) -> None:
    ferry.replicate(source, target)
    scribble(source, 0, 60 * MEBI)
    found = ferry.run("replicate", source, target, "--undo-quota", "4M")
    assert found.code == 0, found.err
    assert re.search(r"no room for pre-images: epoch \d+ can no longer be rewound to", found.err)
    assert same(source, target)
    assert len(ferry.told("epochs", source)["epochs"]) == 1


def test_an_epoch_larger_than_the_undo_budget_leaves_the_replica_where_it_is(
    ferry: Ferry, source: Path, target: Path
) -> None:
    ferry.replicate(source, target)
    before = copied(target, "before")
    scribble(source, 0, 60 * MEBI)
    found = ferry.run("replicate", source, target, "--undo-quota", "10K")
    assert found.code == 5
    assert "may use 10240: give it more with --undo-quota" in found.err
    assert ferry.told("recover", source)["replicas"][0]["usable"]
    assert same(before, target)
    assert ferry.run("verify", source).code == 0
    ferry.replicate(source, target, "--undo-quota", "4M")
    assert same(source, target)


@needs_root
def test_a_state_directory_that_is_full_ends_the_run_and_loses_nothing(
    small: Path, source: Path, target: Path, tmp_path: Path
) -> None:
    ferry = Ferry(small / "state")
    ferry.replicate(source, target, "--bus", f"log:{tmp_path / 'bus'}")
    before = copied(target, "before")
    fill(small)
    scribble(source, MEBI, 8 * MEBI)
    found = ferry.run("replicate", source, target)
    assert (found.code, "no space left" in found.err, "free some" in found.err) == (5, True, True)
    assert "its file system is 100 % full" in ferry.run("status").out
    (small / "filler").unlink()
    assert ferry.told("recover", source)["replicas"][0]["usable"]
    assert same(before, target)
    ferry.replicate(source, target)
    assert same(source, target)


def test_a_state_that_passes_its_quota_is_refused_before_anything_is_sent(
    ferry: Ferry, source: Path, target: Path
) -> None:
    for words in (("--dry-run",), ()):
        found = ferry.run("replicate", source, target, "--state-quota", "256K", *words)
        assert (found.code, "--state-quota allows 256 KiB: give it more" in found.err) == (5, True)
    assert not list(ferry.state.glob("log/*/*.seg")) or placed(ferry) < MEBI
    ferry.replicate(source, target, "--state-quota", "4M")
    before = copied(target, "before")
    scribble(source, MEBI, 100)
    assert ferry.run("replicate", source, target, "--state-quota", "64K").code == 5
    assert same(before, target)
    (store,) = [one for one in ferry.told("status")["streams"][0]["stores"] if one["name"] == "state"]
    assert store["used"] > store["quota"] == 64 << 10
    assert "% of its quota" in ferry.run("status").out
    ferry.replicate(source, target)
    assert same(source, target)


def fill(place: Path) -> None:
    """Until nothing more goes there."""
    with contextlib.suppress(OSError), open(place / "filler", "wb", buffering=0) as filler:
        while filler.write(bytes(MEBI)) == MEBI:
            continue
    with contextlib.suppress(OSError), open(place / "filler", "ab", buffering=0) as filler:
        while filler.write(bytes(4096)):
            continue


def test_a_bus_that_was_never_reached_is_not_remembered(ferry: Ferry, source: Path, tmp_path: Path) -> None:
    assert ferry.run("replicate", source, tmp_path / "dst").code == 0
    assert ferry.run("replicate", source, tmp_path / "dst", "--bus", "kafka://127.0.0.1:1").code == 6
    assert ferry.run("replicate", source, tmp_path / "dst").code == 0
