"""State that is lost or damaged, met by every command: said in words, nothing changed, healed by the next replicate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine import registry
from tests.support.ferry import MEBI, Ferry, image, same, scribble

pytestmark = pytest.mark.timeout(240)
BLOCK = 64 << 10
COMMANDS = (
    ("epochs", "disk"), ("verify", "disk"), ("recover", "disk"), ("target", "release", "disk"),
    ("target", "rewind", "disk", "--to", "1"),
)  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", 16 * MEBI, {MEBI: 4 * MEBI})


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no file of ours " * 1000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    """One byte of the state's row: the database is whole, the row is not."""
    data = bytearray(path.read_bytes())
    at = data.index(b"position")
    data[at + 20] ^= 1
    path.write_bytes(data)


def side(ferry: Ferry, name: str) -> Path:
    (found,) = ferry.state.glob(f"streams/*/{name}")
    return found


@pytest.mark.parametrize(
    ("file", "harm", "said"),
    [
        ("state.sqlite", garbage, "file is not a database"),
        ("state.sqlite", empty, "holds no state"),
        ("state.sqlite", gone, "is missing"),
        ("state.sqlite", flip, "does not have its checksum"),
        ("undo", garbage, "undo log begins with"),
        ("undo", empty, "that were settled"),
        ("undo", gone, "undo"),
        ("0.claims", gone, "0.claims"),
        ("0.digests", gone, "0.digests"),
    ],
)
def test_a_replica_whose_state_is_damaged_is_refused_in_words_and_healed_by_digests(
    ferry: Ferry, source: Path, target: Path, file: str, harm: Callable[[Path], None], said: str
) -> None:
    ferry.replicate(source, target)
    scribble(source, 2 * MEBI, BLOCK)
    ferry.replicate(source, target)
    harm(side(ferry, f"replica-*/{file}"))
    before = target.read_bytes()
    for words in COMMANDS[1:] if file != "state.sqlite" else COMMANDS:
        found = ferry.run(*words)
        assert found.code == 8, (words, found.out, found.err)
        assert said in found.err
        assert "next `vmferry replicate`" in found.err or "`vmferry replicate` reads the replica" in found.err
    acquired = ferry.run("target", "acquire", "disk")
    assert acquired.code in (2, 3, 8), acquired.out
    assert target.read_bytes() == before
    if file == "state.sqlite":
        shown = ferry.run("status")
        assert shown.code == 0, shown.err
        assert f"warning: disk: the state of {target} cannot be read" in shown.out
        assert "slow     target: its state cannot be read" in shown.out
    scribble(source, 5 * MEBI, 100)
    done = ferry.replicate(source, target)
    assert "was lost" in done["notes"][0]
    assert "only what differs travels" in done["notes"][0]
    assert done["sent"] < 4 * BLOCK
    assert same(source, target)
    assert ferry.run("verify", "disk").code == 0


def test_digests_that_rot_are_found_and_healed(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    scribble(side(ferry, "replica-*/0.digests"), 20 * 32, 32)
    found = ferry.run("verify", "disk")
    assert found.code == 7
    assert f"1 block not as applied: vda bytes {20 * BLOCK:,} to {21 * BLOCK:,}" in found.err
    assert ferry.run("verify", "disk", "--repair").code == 7
    assert ferry.replicate(source, target)["sent"] < 2 * BLOCK
    assert same(source, target)
    assert ferry.run("verify", "disk").code == 0


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("state.sqlite", garbage), ("state.sqlite", gone), ("0.prints", gone), ("0.digests", gone), ("0.known", gone),
        ("0.unsure", gone), ("stage", garbage),
    ],
)  # fmt: skip
def test_a_source_whose_state_is_damaged_disturbs_no_replica(
    ferry: Ferry, source: Path, target: Path, file: str, harm: Callable[[Path], None]
) -> None:
    ferry.replicate(source, target)
    harm(side(ferry, f"source/{file}"))
    for words in (("epochs", "disk"), ("verify", "disk"), ("recover", "disk")):
        assert ferry.run(*words).code == 0
    shown = ferry.run("status")
    assert shown.code == 0, shown.err
    if file == "state.sqlite":
        assert "the state of its source cannot be read" in shown.out
        assert "reads the source to compare digests, and only what differs travels" in shown.out
    scribble(source, 3 * MEBI, 100)
    assert ferry.replicate(source, target)["sent"] < 4 * BLOCK
    assert same(source, target)


def test_a_stream_whose_record_is_damaged_is_set_aside_and_said(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    garbage(side(ferry, "stream.json"))
    found = ferry.run("status")
    assert found.code == 0
    assert "does not read as written" in found.err
    assert ".damaged-1" in found.err
    assert ferry.run("verify", "disk").code == 3


def test_state_of_a_newer_vmferry_is_left_alone(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    record = side(ferry, "replica-*/replica.json")
    record.write_text(record.read_text().replace(f'"version": {registry.VERSION}', '"version": 9'))
    newer = record.read_text()
    for words in (("status",), *COMMANDS):
        found = ferry.run(*words)
        assert found.code == 8, (words, found.out, found.err)
        assert f"is of version 9, and this vmferry knows {registry.VERSION}: upgrade it" in found.err
    assert record.read_text() == newer


def test_a_replica_that_somebody_wrote_to_is_not_recovered_over(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    scribble(target, 2 * MEBI, 100)
    mine = target.read_bytes()
    for words in (("recover", "disk"), ("target", "release", "disk"), ("target", "rewind", "disk", "--to", "1")):
        found = ferry.run(*words)
        assert found.code == 8, found.out
        assert "was written to by somebody else since" in found.err
    assert target.read_bytes() == mine
    assert ferry.replicate(source, target)["sent"] < 4 * BLOCK
    assert same(source, target)


def test_a_replica_that_is_gone_is_named(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    target.unlink()
    for words in (("verify", "disk"), ("recover", "disk"), ("target", "release", "disk")):
        found = ferry.run(*words)
        assert found.code in (3, 8), found.out
        assert str(target) in found.err
    assert ferry.run("status").code == 0


def test_recover_of_all_goes_on_past_one_that_cannot(ferry: Ferry, source: Path, target: Path, tmp_path: Path) -> None:
    ferry.replicate(source, target)
    ferry.replicate(image(tmp_path / "more.img", MEBI), tmp_path / "more-replica.img")
    (first, *_) = sorted(ferry.state.glob("streams/*/replica-*/state.sqlite"))
    garbage(first)
    found = ferry.run("recover")
    assert found.code == 8
    assert "file is not a database" in found.err
    assert found.out.count("now at     epoch ") == 1
