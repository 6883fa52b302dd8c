"""The stage: whole entries in order, and never a part of one."""

from __future__ import annotations

import random

import pytest

from engine import errors
from engine.store.memory import MemoryFile
from engine.store.stage import Stage, Staged, StagedBlocks, StagedZeros
from schemas.identity import Attempt, Chain, SealId, Volume

VOLUMES = (Volume("vda", 12345, 64), Volume("vdb", 0, 4096))


def entry(epoch: int) -> Staged:
    blocks = StagedBlocks(1, epoch, b"p" * 32, b"d" * 64)
    seal = SealId(1, Attempt(epoch, b"a" * 8), epoch)
    return Staged(seal, Chain(bytes([epoch]) * 32), VOLUMES, (blocks,) * epoch, (StagedZeros(0, 7, 1 << 40),))


def staged(*entries: Staged) -> MemoryFile:
    file = MemoryFile()
    stage = Stage(file)
    assert stage.load() == []
    for one in entries:
        stage.append(one)
    return file


def test_entries_come_back_oldest_first_with_every_field() -> None:
    entries = [entry(1), entry(2), entry(5)]
    file = staged(*entries)
    assert Stage(file).load() == entries
    assert Stage(file).load() == entries


def test_an_entry_is_durable_when_append_returns() -> None:
    for seed in range(20):
        file = staged(entry(1), entry(2))
        file.lose(random.Random(seed))
        assert Stage(file).load() == [entry(1), entry(2)]


@pytest.mark.parametrize("rest", [b"", b"\0" * 40, b"\xff" * 40])
def test_a_last_entry_torn_at_any_byte_is_cut_off(rest: bytes) -> None:
    first = staged(entry(1)).size()
    whole = staged(entry(1), entry(2)).read(0, 1 << 16)
    for end in range(first, len(whole)):
        file = MemoryFile()
        file.write(0, whole[:end] + rest)
        if file.read(0, len(whole)) == whole:
            continue  # what is missing were zeros
        stage = Stage(file)
        assert stage.load() == [entry(1)], end
        assert file.size() == first
        stage.append(entry(3))
        assert Stage(file).load() == [entry(1), entry(3)]


def test_nothing_behind_a_spoiled_entry_is_taken() -> None:
    first = staged(entry(1)).size()
    whole = staged(entry(1), entry(2), entry(3)).read(0, 1 << 16)
    size = staged(entry(1), entry(2)).size()
    for at in range(first, size):
        file = MemoryFile()
        file.write(0, whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        if at == first + 3:
            with pytest.raises(errors.Newer):  # the digit of its version: nobody can tell, so nothing is cut off
                Stage(file).load()
            continue
        assert Stage(file).load() == [entry(1)], at


def test_a_cleared_stage_is_empty_for_good_and_begins_anew() -> None:
    file = staged(entry(1), entry(2))
    stage = Stage(file)
    stage.load()
    stage.clear()
    stage.clear()
    assert file.size() == 0
    file.lose(random.Random(1))
    assert Stage(file).load() == []
    stage.append(entry(3))
    assert Stage(file).load() == [entry(3)]


def test_a_clear_that_is_lost_leaves_all_entries_or_none() -> None:
    for seed in range(20):
        file = staged(entry(1), entry(2))
        file.truncate(0)  # what `clear` does before its sync
        file.lose(random.Random(seed))
        assert Stage(file).load() in ([entry(1), entry(2)], [])


@pytest.mark.parametrize("older", [(), (entry(1),)], ids=["first", "behind one of ours"])
def test_an_entry_of_a_newer_version_is_refused_and_not_cut_off(older: tuple[Staged, ...]) -> None:
    file = staged(*older)
    at = file.size()
    file = staged(*older, entry(2))
    file.write(at, b"stg2")
    before = file.read(0, 1 << 16)
    with pytest.raises(errors.Newer, match="a file in memory is of version 2, and this vmferry knows 1: upgrade it"):
        Stage(file).load()
    assert file.read(0, 1 << 16) == before
