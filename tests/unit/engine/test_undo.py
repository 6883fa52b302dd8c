"""The undo log: what was appended comes back newest first, and nothing else ever does."""

from __future__ import annotations

import random
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import errors
from engine.store import undo
from engine.store.memory import MemoryFile
from engine.store.undo import PreImage, UndoLog

HEAD = 40
DATA = PreImage(0, 5, 2, True, b"D" * 64, b"old bytes of two")
HOLE = PreImage(3, 1 << 40, (1 << 32) - 1, False)
SHORT = PreImage(1, 9, 1, False, b"E" * 32, b"tail")
IMAGES = st.lists(
    st.builds(
        lambda volume, first, claimed, blocks, size: PreImage(
            volume, first, max(blocks, 1), claimed, b"d" * 32 * blocks, b"x" * size * blocks
        ),
        st.integers(0, 65535),
        st.integers(0, 1 << 60),
        st.booleans(),
        st.integers(0, 3),
        st.integers(1, 40),
    ),
    max_size=6,
)


def filled(*images: PreImage) -> tuple[MemoryFile, UndoLog]:
    file = MemoryFile()
    log = UndoLog(file)
    for image in images:
        log.append([image])
    log.sync()
    return file, log


def length(image: PreImage) -> int:
    return HEAD + len(image.digests) + len(image.data)


def spoiled(file: MemoryFile, at: int, data: bytes) -> MemoryFile:
    other = MemoryFile()
    other.write(0, file.read(0, file.size()))
    other.write(at, data)
    return other


@settings(deadline=None, max_examples=80)
@given(st.lists(IMAGES, max_size=4))
def test_what_was_appended_comes_back_newest_first_from_any_record_on(groups: list[list[PreImage]]) -> None:
    file = MemoryFile()
    log = UndoLog(file)
    for group in groups:
        log.append(group)
    log.sync()
    images = [one for group in groups for one in group]
    at = undo.START
    for done in range(len(images) + 1):
        again = UndoLog(file)
        assert list(again.newest_first(at)) == images[done:][::-1]
        assert again.valid_end(at) == again.end == log.end
        at += length(images[done]) if done < len(images) else 0


def test_an_empty_log_has_nothing_and_a_record_of_zeros_no_payload() -> None:
    _, log = filled()
    assert list(log.newest_first(undo.START)) == []
    assert (log.used, log.end) == (0, undo.START)
    log.append([HOLE])
    assert log.used == HEAD


def test_a_record_reads_as_its_table_says() -> None:
    file, _ = filled(HOLE, DATA)
    assert file.read(0, 16) == b"VMFYUNDO" + struct.pack(">II", 1, 0)
    head = struct.unpack(">IHBBQIIQ", file.read(16 + HEAD, HEAD - 8))
    assert head == (0x756E646F, 0, 1, 1, 5, 2, 80, 16 + HEAD)
    assert file.read(16 + 2 * HEAD, 99) == DATA.digests + DATA.data


@pytest.mark.parametrize("last", [DATA, HOLE, SHORT], ids=["data", "hole", "short"])
def test_a_last_record_that_is_torn_anywhere_is_none_and_those_before_it_are_whole(last: PreImage) -> None:
    file, log = filled(SHORT, DATA, last)
    whole, start = file.read(0, file.size()), log.end - length(last)
    for end in range(start, log.end):
        for rest in (b"", bytes(log.end - end), b"\xff" * 3):
            torn = MemoryFile()
            torn.write(0, whole[:end] + rest)
            again = UndoLog(torn)
            if torn.read(0, len(whole)) == whole:
                continue  # what is missing were zeros
            assert list(again.newest_first(undo.START)) == [DATA, SHORT]
            assert again.valid_end(undo.START) == start


def test_a_flipped_bit_ends_the_log_before_its_record() -> None:
    file, log = filled(SHORT, DATA, HOLE)
    for at in range(undo.START, log.end):
        for bit in range(8):
            flipped = spoiled(file, at, bytes([file.read(at, 1)[0] ^ 1 << bit]))
            before = [one for one, end in ((SHORT, 16 + 76), (DATA, 16 + 76 + 120)) if at >= end]
            assert list(UndoLog(flipped).newest_first(undo.START)) == before[::-1]


def test_records_of_an_earlier_life_are_not_taken_for_those_that_follow() -> None:
    # The tail was cut, and written again: at its end lie whole records of before, at places that are not theirs.
    file, log = filled(SHORT, DATA, SHORT, HOLE, SHORT)
    old = file.read(0, file.size())
    log.truncate(undo.START)
    log.append([HOLE])
    for at in range(undo.START, len(old) - HEAD):
        stale = spoiled(file, undo.START + HEAD, old[at:])
        found = list(UndoLog(stale).newest_first(undo.START))
        if at == undo.START + HEAD:
            continue
        assert found == [HOLE], at


def test_a_record_that_stands_at_its_own_place_again_is_one() -> None:
    file, log = filled(SHORT, DATA)
    old = file.read(0, file.size())
    log.truncate(log.end - length(DATA))
    assert list(log.newest_first(undo.START)) == [SHORT]
    assert list(UndoLog(spoiled(file, log.end, old[log.end :])).newest_first(undo.START)) == [DATA, SHORT]


def test_appending_goes_on_behind_a_cut_and_the_new_records_are_found() -> None:
    file, log = filled(SHORT, DATA)
    file.write(file.size(), b"torn")
    log = UndoLog(file)
    log.truncate(log.valid_end(undo.START))
    log.append([HOLE, SHORT])
    assert list(UndoLog(file).newest_first(undo.START)) == [SHORT, HOLE, DATA, SHORT]


def test_a_quota_names_what_is_needed_what_is_allowed_and_the_way_out() -> None:
    file = MemoryFile()
    log = UndoLog(file, quota=length(DATA) + length(SHORT))
    log.append([DATA])
    said = f"the undo log needs {2 * length(DATA)} bytes and may use {length(DATA) + length(SHORT)}"
    with pytest.raises(errors.Full, match=re.escape(said + ": give it more with --undo-quota")):
        log.append([DATA])
    log.append([SHORT])
    assert list(log.newest_first(undo.START)) == [SHORT, DATA]
    log.trim(undo.START + length(DATA))
    log.append([DATA])


def test_letting_go_of_the_front_keeps_every_record_behind_it_where_it_was() -> None:
    file, log = filled(DATA, HOLE, DATA, SHORT)
    kept = undo.START + length(DATA) + length(HOLE)
    log.trim(kept)
    log.trim(undo.START)
    assert log.begin == kept
    assert log.used == length(DATA) + length(SHORT)
    assert file.read(undo.START, kept - undo.START) == bytes(kept - undo.START)
    assert list(log.newest_first(kept)) == [SHORT, DATA]
    again = UndoLog(file)
    assert list(again.newest_first(kept)) == [SHORT, DATA]
    assert list(again.newest_first(undo.START)) == []


def test_what_was_synced_outlives_a_power_cut_and_what_was_not_is_whole_or_absent() -> None:
    for seed in range(60):
        file, log = filled(SHORT)
        log.append([DATA])
        log.append([HOLE, SHORT])
        file.lose(random.Random(seed))
        found = list(UndoLog(file).newest_first(undo.START))[::-1]
        assert found == [SHORT, DATA, HOLE, SHORT][: len(found)]
        assert found


@pytest.mark.parametrize(
    "begin",
    [b"VMFYUNDO\x00\x00\x00\x00\0\0\0\0", b"VMFYLOGS\x00\x00\x00\x01\0\0\0\0", b"some other file."],
    ids=["version", "magic", "foreign"],
)
def test_a_file_of_another_version_or_kind_is_refused_and_not_touched(begin: bytes) -> None:
    file = MemoryFile()
    file.write(0, begin + b"what follows")
    with pytest.raises(errors.Damaged, match=r"undo log begins with .* version \d+; b'VMFYUNDO' 1 is known"):
        UndoLog(file)
    assert file.read(0, 99) == begin + b"what follows"


def test_a_log_of_a_newer_version_says_so_and_is_not_touched() -> None:
    file, _ = filled(DATA)
    newer = spoiled(file, 8, struct.pack(">I", undo.VERSION + 1))
    before = newer.read(0, 999)
    with pytest.raises(errors.Newer, match="a file in memory is of version 2, and this vmferry knows 1: upgrade it"):
        UndoLog(newer)
    assert newer.read(0, 999) == before


@pytest.mark.parametrize("size", range(undo.START))
def test_a_header_that_was_never_whole_begins_anew(size: int) -> None:
    file = MemoryFile()
    file.write(0, b"VMFYUNDO\x00\x00\x00\x01\0\0\0\0"[:size])
    UndoLog(file).append([SHORT])
    assert list(UndoLog(file).newest_first(undo.START)) == [SHORT]


class Full(MemoryFile):
    """A file whose disk has room for the first `room` bytes of it."""

    room = 1 << 60

    def write(self, start: int, data: bytes) -> None:
        super().write(start, data[: max(self.room - start, 0)])
        if start + len(data) > self.room:
            raise errors.Full("no space left")


def test_what_found_no_room_leaves_nothing_behind_and_is_appended_again_when_there_is() -> None:
    file = Full()
    log = UndoLog(file)
    log.append([DATA])
    end, file.room = log.end, log.end + HEAD + 3
    with pytest.raises(errors.Full):
        log.append([HOLE, SHORT])
    assert (log.end, file.size()) == (end, end)
    file.room = Full.room
    log.append([SHORT])
    assert list(log.newest_first(0)) == [SHORT, DATA]
