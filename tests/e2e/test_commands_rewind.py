"""target rewind and resume as their user sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.dying import die
from tests.support.ferry import MEBI, Ferry, copied, same, scribble

pytestmark = pytest.mark.timeout(240)
BLOCK = 64 << 10


@pytest.fixture
def history(ferry: Ferry, source: Path, target: Path) -> list[tuple[int, Path]]:
    """Three epochs, and what the source was at each."""
    found = []
    for step in range(3):
        scribble(source, (2 + step) * MEBI, MEBI, seed=step)
        epoch = ferry.replicate(source, target)["epoch"]
        found.append((epoch, copied(source, str(step))))
    return found


def test_a_replica_is_rewound_held_and_resumed(
    ferry: Ferry, source: Path, target: Path, history: list[tuple[int, Path]]
) -> None:
    epoch, was = history[0]
    found = ferry.run("target", "rewind", "disk", "--to", str(epoch))
    assert found.code == 0, found.err
    assert f"epoch      epoch {epoch}, crash-consistent of " in found.out
    assert "`vmferry target resume disk` lets `replicate` go on" in found.out
    assert same(was, target)
    assert ferry.run("verify", "disk").code == 0
    assert ferry.told("epochs", "disk")["epochs"][-1]["epoch"] == epoch
    refused = ferry.run("replicate", source, target)
    assert refused.code == 2
    assert f"is held (rewound from epoch {history[2][0]})" in refused.err
    assert f"`vmferry target resume {target}`" in refused.err
    assert same(was, target)
    assert ferry.run("target", "resume", "disk").code == 0
    assert "is not held" in ferry.run("target", "resume", "disk").err
    done = ferry.replicate(source, target)
    assert done["sent"] < 3 * MEBI
    assert done["notes"] == []
    assert same(source, target)


def test_a_rewind_is_said_on_the_bus(ferry: Ferry, target: Path, history: list[tuple[int, Path]]) -> None:
    ferry.run("target", "rewind", "disk", "--to", str(history[1][0]))
    (segment,) = (ferry.state / "log" / "vmferry.receipts").glob("*.seg")
    assert b"abandoned" in segment.read_bytes()


def test_a_rewind_without_its_bus_is_done_and_said_later(
    ferry: Ferry, source: Path, target: Path, history: list[tuple[int, Path]]
) -> None:
    (stream,) = ferry.state.glob("streams/*/replica-*/replica.json")
    stream.write_text(stream.read_text().replace(f"log:{ferry.state}/log", "kafka://127.0.0.1:9"))
    epoch, was = history[1]
    found = ferry.run("target", "rewind", "disk", "--to", str(epoch))
    assert found.code == 0, found.err
    assert "not said on the bus yet, which the next run does" in found.out
    assert same(was, target)
    stream.write_text(stream.read_text().replace("kafka://127.0.0.1:9", f"log:{ferry.state}/log"))
    assert ferry.run("target", "resume", "disk").code == 0
    ferry.replicate(source, target)
    (segment,) = (ferry.state / "log" / "vmferry.receipts").glob("*.seg")
    assert b"abandoned" in segment.read_bytes()


def test_a_rewound_replica_can_be_released_and_acquired(
    ferry: Ferry, source: Path, target: Path, history: list[tuple[int, Path]]
) -> None:
    epoch, was = history[1]
    ferry.run("target", "rewind", "disk", "--to", str(epoch))
    assert ferry.told("target", "release", "disk")["epoch"] == epoch
    assert same(was, target)
    assert ferry.run("target", "acquire", "disk").code == 0
    assert ferry.replicate(source, target)["sent"] < 3 * MEBI
    assert same(source, target)


def test_an_epoch_that_is_not_kept_changes_nothing(
    ferry: Ferry, source: Path, target: Path, history: list[tuple[int, Path]]
) -> None:
    found = ferry.run("target", "rewind", "disk", "--to", "999")
    assert found.code == 3
    assert f"epoch 999 cannot be rewound to; these can: {', '.join(str(epoch) for epoch, _ in history)}" in found.err
    assert same(source, target)
    ferry.replicate(source, target)


def test_pre_images_that_rot_refuse_a_rewind_before_it_begins(
    ferry: Ferry, source: Path, target: Path, history: list[tuple[int, Path]]
) -> None:
    (undo,) = ferry.state.rglob("replica-*/undo")
    scribble(undo, undo.stat().st_size - 5000, 10)
    found = ferry.run("target", "rewind", "disk", "--to", str(history[0][0]))
    assert found.code == 8
    assert "is damaged at byte " in found.err
    assert f"epoch {history[0][0]} cannot be rewound to; these can: {history[2][0]}.  Nothing was changed" in found.err
    assert same(source, target)
    ferry.replicate(source, target)


@pytest.mark.parametrize(
    "point",
    [
        "consumers.replay:Replay._finish_rewind:1", "consumers.block:Target._put_back:2",
        "consumers.block:Target.flush:2", "consumers.block:Target.read_back:2",
        "engine.store.sqlite:SqliteReplicaStore.commit:2", "engine.store.undo:UndoLog.truncate:2",
        "consumers.block:Target.fit:2",
    ],
)  # fmt: skip
def test_a_rewind_that_is_killed_is_finished_by_the_next_start(
    ferry: Ferry, source: Path, target: Path, history: list[tuple[int, Path]], point: str
) -> None:
    epoch, was = history[0]
    where, nth = point.rsplit(":", 1)
    die(ferry, where, int(nth), "target", "rewind", "disk", "--to", str(epoch))
    assert "vmferry target resume" in ferry.run("replicate", source, target).err
    found = ferry.told("recover")["replicas"][0]
    assert found["epoch"] == epoch
    assert found["held"].startswith("rewound from epoch")
    assert same(was, target)
    assert ferry.run("target", "resume", "disk").code == 0
    ferry.replicate(source, target)
    assert same(source, target)


def test_a_rewind_that_cannot_be_finished_ends_in_an_acquire_that_reads_the_digests(
    ferry: Ferry, source: Path, target: Path, history: list[tuple[int, Path]]
) -> None:
    die(ferry, "consumers.block:Target._put_back", 2, "target", "rewind", "disk", "--to", str(history[0][0]))
    (undo,) = ferry.state.glob("streams/*/replica-*/undo")
    scribble(undo, undo.stat().st_size - 100, 50)
    for words in (("recover",), ("target", "resume", "disk")):
        found = ferry.run(*words)
        assert found.code == 8, found.out
        assert "and a rewind is on its way over it" in found.err
        assert f"`vmferry target acquire {target}` reads the replica for its digests" in found.err
    assert ferry.run("target", "acquire", "disk").code == 0
    done = ferry.replicate(source, target)
    assert done["sent"] < 4 * MEBI
    assert same(source, target)
