"""verify, recover, and target release and acquire as their user sees them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.dying import die
from tests.support.ferry import MEBI, Ferry, copied, same, scribble

pytestmark = pytest.mark.timeout(240)
BLOCK = 64 << 10


def damage(path: Path, *blocks: int) -> None:
    """Other bytes in these blocks, without a change of the time stamp: what a medium does."""
    before = path.stat()
    for block in blocks:
        scribble(path, block * BLOCK + 100, 50)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# -- verify ----------------------------------------------------------------------------------------------------------


def test_a_whole_replica_is_verified_down_to_its_root(ferry: Ferry, source: Path, target: Path) -> None:
    done = ferry.replicate(source, target)
    found = ferry.run("verify", "disk", "--sha256")
    assert found.code == 0, found.err
    assert f"root       {done['roots'][0]}" in found.out
    assert f"SHA-256    {hashlib.sha256(source.read_bytes()).hexdigest()}  vda" in found.out
    assert "512 of 512 blocks are equal" in found.out
    assert "verified: the replica, read from the medium, equals the Merkle root that its source named" in found.out


def test_a_replica_that_rots_is_found_named_and_healed_block_by_block(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    damage(target, 20, 21, 400)
    found = ferry.run("verify", "disk")
    assert found.code == 7
    assert f"3 blocks not as applied: vda bytes {20 * BLOCK:,} to {22 * BLOCK:,}, " in found.err
    assert "`vmferry verify --repair disk` lets the next `vmferry replicate` bring them, and only them" in found.err
    asked = ferry.run("verify", "disk", "--repair", "--json")
    assert asked.code == 7
    assert "Nothing is claimed of them any more: the next `vmferry replicate` brings them" in asked.last["message"]
    assert "which can no longer be rewound to" in asked.last["message"]
    assert not same(source, target), "repair writes nothing"
    healed = ferry.replicate(source, target)
    assert 2 * BLOCK < healed["sent"] < 4 * BLOCK
    assert healed["notes"] == []
    assert same(source, target)
    assert ferry.run("verify", "disk").code == 0


def test_a_replica_that_was_cut_short_differs_from_there_on(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    os.truncate(target, 31 * MEBI + 1)
    found = ferry.run("verify", "disk")
    assert found.code == 7
    assert f"vda bytes {31 * MEBI:,} to {32 * MEBI:,}" in found.err
    healed = ferry.replicate(source, target)
    assert "written to by somebody else since" in healed["notes"][0]
    assert same(source, target)


def test_a_replica_in_the_middle_of_an_epoch_is_recovered_first(ferry: Ferry, source: Path, target: Path) -> None:
    done = ferry.replicate(source, target)
    before = copied(source, "before")
    scribble(source, 2 * MEBI, MEBI)
    # The second flush is that of the settle: everything is written, nothing is settled.
    die(ferry, "consumers.block:Target.flush", 2, "replicate", source, target)
    assert not same(before, target)
    found = ferry.run("verify", "disk")
    assert found.code == 2
    assert "is in the middle of something (its undo log has" in found.err
    assert "run `vmferry recover`" in found.err
    recovered = ferry.run("recover", "disk")
    assert recovered.code == 0, recovered.err
    assert f"replica    {target}" in recovered.out
    assert "found      its undo log has" in recovered.out
    assert "put back   " in recovered.out
    assert f"now at     epoch {done['epoch']}, crash-consistent of" in recovered.out
    assert f"root       {done['roots'][0]}" in recovered.out
    assert same(before, target)
    assert ferry.run("verify", "disk").code == 0
    again = ferry.told("recover")
    assert [one["recovered"] for one in again["replicas"]] == [0]
    ferry.replicate(source, target)
    assert same(source, target)


@pytest.mark.parametrize(
    "point",
    ["consumers.block:Target._put_back:2", "consumers.block:Target.flush:1", "engine.store.undo:UndoLog.truncate:1"],
)
def test_a_recovery_that_is_killed_is_done_by_the_next(ferry: Ferry, source: Path, target: Path, point: str) -> None:
    epoch = ferry.replicate(source, target)["epoch"]
    before = copied(source, "before")
    scribble(source, 2 * MEBI, 2 * MEBI)
    for block in range(200, 210):
        scribble(source, block * BLOCK, 10)
    die(ferry, "consumers.block:Target.flush", 2, "replicate", source, target)
    where, nth = point.rsplit(":", 1)
    die(ferry, where, int(nth), "recover")
    assert ferry.told("recover")["replicas"][0]["epoch"] == epoch
    assert same(before, target)


# -- release and acquire ---------------------------------------------------------------------------------------------


def test_a_released_replica_is_safe_and_nothing_is_applied_to_it(ferry: Ferry, source: Path, target: Path) -> None:
    done = ferry.replicate(source, target)
    found = ferry.run("target", "release", "disk")
    assert found.code == 0, found.err
    for words in (
        f"released   {target}", f"epoch      epoch {done['epoch']}, crash-consistent of ",
        f"root       {done['roots'][0]}",
        "the replica is now safe to use", "nothing is applied to it before `vmferry target acquire disk`",
    ):  # fmt: skip
        assert words in found.out
    scribble(source, 0, 100)
    refused = ferry.run("replicate", source, target)
    assert refused.code == 2
    assert f"`vmferry target acquire {target}` takes it back" in refused.err
    for more in (["resume", "disk"], ["rewind", "disk", "--to", "1"]):
        assert "is released to its user" in ferry.run("target", *more).err
    assert "it is released: nothing to recover" in ferry.run("recover", "disk").out
    again = ferry.told("target", "release", "disk")
    assert (again["epoch"], again["note"]) == (done["epoch"], "it was released already")
    assert ferry.told("status")["streams"][0]["replicas"][0]["held"] == "released"


def test_release_rolls_the_open_epoch_back(ferry: Ferry, source: Path, target: Path) -> None:
    epoch = ferry.replicate(source, target)["epoch"]
    before = copied(source, "before")
    scribble(source, 2 * MEBI, MEBI)
    die(ferry, "consumers.block:Target.flush", 2, "replicate", source, target)
    found = ferry.told("target", "release", "disk")
    assert found["recovered"] > 0
    assert found["epoch"] == epoch
    assert same(before, target)


def test_what_its_user_changed_is_all_that_travels_after_acquire(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    ferry.run("target", "release", "disk")
    for block in (3, 70, 330):
        scribble(target, block * BLOCK + 7, 60)
    changed = ferry.run("verify", "disk")
    assert changed.code == 7
    assert "It is released, so its user may have changed it: `vmferry target acquire disk`" in changed.err
    found = ferry.run("target", "acquire", "disk")
    assert found.code == 0, found.err
    assert f"acquired   {target}" in found.out
    assert "which can no longer be rewound to" in found.out
    assert "the next `vmferry replicate` compares digests, and only what differs travels" in found.out
    done = ferry.replicate(source, target)
    assert done["sent"] < 4 * BLOCK
    assert done["notes"] == []
    assert same(source, target)
    assert ferry.run("verify", "disk").code == 0
    refused = ferry.run("target", "acquire", "disk")
    assert refused.code == 2
    assert "is not released: `vmferry replicate` goes on with it" in refused.err


def test_a_released_replica_may_be_resized_by_its_user(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    ferry.run("target", "release", "disk")
    os.truncate(target, 40 * MEBI)
    scribble(target, 39 * MEBI, 100)
    assert ferry.run("target", "release", "disk").code == 0
    assert target.stat().st_size == 40 * MEBI, "a second release leaves it alone"
    assert ferry.run("target", "acquire", "disk").code == 0
    assert ferry.replicate(source, target)["sent"] < 8 * BLOCK
    assert same(source, target)


@pytest.mark.parametrize(
    "point",
    [
        "consumers.state:Files.leaves:1", "engine.store.leaves:Leaves.sync:1", "engine.store.leaves:Leaves.sync:2",
        "engine.store.sqlite:SqliteReplicaStore.forget_before:1", "engine.store.sqlite:SqliteReplicaStore.commit:1",
        "engine.store.undo:UndoLog.trim:1", "engine.registry:Registry.save:2", "engine.registry:Registry.save:3",
    ],
)  # fmt: skip
def test_an_acquire_that_is_killed_is_done_by_the_next(ferry: Ferry, source: Path, target: Path, point: str) -> None:
    ferry.replicate(source, target)
    ferry.run("target", "release", "disk")
    scribble(target, 2 * MEBI, 100)
    where, nth = point.rsplit(":", 1)
    die(ferry, where, int(nth), "target", "acquire", "disk")
    assert "is released to its user" in ferry.run("replicate", source, target).err
    assert ferry.run("target", "acquire", "disk").code == 0
    assert ferry.replicate(source, target)["sent"] < 4 * BLOCK
    assert same(source, target)


def test_a_release_survives_the_loss_of_the_state(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    ferry.run("target", "release", "disk")
    scribble(target, 2 * MEBI, 100)
    mine = target.read_bytes()
    (state,) = ferry.state.rglob("replica-*/state.sqlite")
    state.write_bytes(b"no database at all" * 1000)
    assert "is released to its user" in ferry.run("replicate", source, target).err
    assert target.read_bytes() == mine
    found = ferry.run("target", "acquire", "disk")
    assert found.code == 0, found.err
    assert "lost       " in found.out
    assert "its state is begun anew" in found.out
    assert ferry.replicate(source, target)["sent"] < 4 * BLOCK
    assert same(source, target)


def test_a_qcow2_replica_is_released_changed_acquired_and_brought_back(
    ferry: Ferry, source: Path, tmp_path: Path
) -> None:
    tools.need("qemu-img", "qemu-io", "qemu-nbd")
    target = tmp_path / "replica.qcow2"
    ferry.replicate(source, target)
    assert ferry.run("verify", "disk").code == 0
    assert ferry.run("target", "release", "disk").code == 0
    writes = [word for block in (3, 70, 330) for word in ("-c", f"write -P 7 {block * BLOCK} 4096")]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, str(target)], check=True, capture_output=True)
    found = ferry.run("verify", "disk")
    assert found.code == 7
    assert "3 blocks not as applied" in found.err
    assert ferry.run("target", "acquire", "disk").code == 0
    assert ferry.replicate(source, target)["sent"] < 4 * BLOCK
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(source), str(target)]
    assert subprocess.run(compare, capture_output=True, check=False).returncode == 0
