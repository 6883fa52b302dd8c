"""What a killed writer, a flipped bit or a lost index leave of an embedded log, and what is made of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from engine import errors
from engine.bus import index, segments
from engine.bus.embedded import EmbeddedBus

TOPIC = "stream"
RECORDS = [b"%03d" % number * 30 for number in range(6)]
ACKNOWLEDGED = 5


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """A log whose writer was killed: five records synced, a sixth only appended."""
    bus = EmbeddedBus(tmp_path / "log")
    log = await bus.open(TOPIC, write=True)
    await log.append(RECORDS[:ACKNOWLEDGED])
    await log.sync()
    await bus.close()
    _add(tmp_path / "log", segments.record_header(ACKNOWLEDGED, RECORDS[ACKNOWLEDGED]) + RECORDS[ACKNOWLEDGED])
    return tmp_path / "log"


def _segment(home: Path) -> Path:
    return segments.path(home / TOPIC, 0)


def _add(home: Path, data: bytes) -> None:
    with open(_segment(home), "ab") as file:
        file.write(data)


def _make_newer(segment: Path) -> bytes:
    whole = bytearray(segment.read_bytes())
    whole[8:12] = (segments.VERSION + 1).to_bytes(4, "big")
    segment.write_bytes(whole)
    return bytes(whole)


def _delete_index(home: Path) -> None:
    for file in (home / TOPIC).glob(f"{index.NAME}*"):
        file.unlink()


async def _read_all(home: Path, write: bool = False) -> list[bytes]:
    bus = EmbeddedBus(home)
    try:
        log = await bus.open(TOPIC, write=write)
        begin, end = await log.ends()
        return [entry.data for entry in await log.read(begin, 1 << 20, 0)] if end > begin else []
    finally:
        await bus.close()


async def _append(home: Path, data: bytes) -> int:
    bus = EmbeddedBus(home)
    try:
        log = await bus.open(TOPIC, write=True)
        await log.append([data])
        return await log.sync()
    finally:
        await bus.close()


async def test_a_reader_sees_nothing_of_what_was_not_synced(home: Path) -> None:
    assert await _read_all(home) == RECORDS[:ACKNOWLEDGED]


async def test_the_next_writer_keeps_a_whole_record_that_was_not_synced(home: Path) -> None:
    assert await _read_all(home, write=True) == RECORDS


@pytest.mark.parametrize("lost_index", [False, True])
async def test_a_record_torn_at_any_byte_is_cut_and_nothing_else_is(home: Path, lost_index: bool) -> None:
    whole = _segment(home).read_bytes()
    last = segments.RECORD_HEADER + len(RECORDS[ACKNOWLEDGED])
    for kept in range(last):
        _segment(home).write_bytes(whole[: len(whole) - last + kept])
        if lost_index:
            _delete_index(home)
        assert await _append(home, b"new %d" % kept) == ACKNOWLEDGED + 1
        assert await _read_all(home) == [*RECORDS[:ACKNOWLEDGED], b"new %d" % kept]
        _put_back(home, whole)


def _put_back(home: Path, whole: bytes) -> None:
    """The state after the kill once more: the index says five records."""
    bus_files = home / TOPIC
    last = segments.RECORD_HEADER + len(RECORDS[ACKNOWLEDGED])
    _segment(home).write_bytes(whole)
    opened = index.Index(bus_files)
    opened.commit(index.Mark(ACKNOWLEDGED, 0, len(whole) - last), [])
    opened.close()


@pytest.mark.parametrize("garbage", [bytes(500), b"\xff" * 500, segments.record_header(9, b"far") + b"far"])
async def test_what_a_power_cut_left_behind_the_last_record_is_cut(home: Path, garbage: bytes) -> None:
    _add(home, garbage)
    await _append(home, b"new")
    assert await _read_all(home) == [*RECORDS, b"new"]


async def test_what_is_cut_is_said(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    _add(home, bytes(77))
    size = _segment(home).stat().st_size
    with caplog.at_level(logging.WARNING, "vmferry.bus"):
        await _append(home, b"new")
    assert f"{_segment(home)}: cut at byte {size - 77} of {size}" in caplog.text
    assert "kept 1 whole records that were not synced" in caplog.text


async def test_a_flipped_bit_anywhere_in_a_record_is_damage_by_file_byte_and_offset(home: Path) -> None:
    whole = bytearray(_segment(home).read_bytes())
    length = segments.RECORD_HEADER + len(RECORDS[0])
    begins = segments.FILE_HEADER + 2 * length
    for at in range(begins, begins + length):
        whole[at] ^= 0x10
        _segment(home).write_bytes(whole)
        bus = EmbeddedBus(home)
        log = await bus.open(TOPIC)
        assert [entry.data for entry in await log.read(0, 1 << 20, 0)] == RECORDS[:2]
        with pytest.raises(errors.Damaged, match=rf"{_segment(home)} byte {begins}: record 2 of {TOPIC}"):
            await log.read(2, 1 << 20, 0)
        if at < begins + 4:  # the length: then the way to record 3 is lost, and that is said
            with pytest.raises(errors.Damaged, match=rf"{_segment(home)} byte {begins}: record 2 of {TOPIC}"):
                await log.read(3, 1, 0)
        await bus.close()
        whole[at] ^= 0x10


async def test_a_deleted_index_is_rebuilt_with_all_that_was_synced(home: Path) -> None:
    _delete_index(home)
    assert await _read_all(home) == RECORDS


async def test_an_index_that_does_not_read_is_rebuilt(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    _delete_index(home)
    (home / TOPIC / index.NAME).write_bytes(b"no database at all" * 100)
    assert (await _read_all(home, write=True))[:ACKNOWLEDGED] == RECORDS[:ACKNOWLEDGED]
    assert "rebuilt from the segments" in caplog.text


async def test_damage_before_a_whole_record_is_never_taken_for_a_torn_tail(home: Path) -> None:
    _delete_index(home)
    whole = bytearray(_segment(home).read_bytes())
    whole[segments.FILE_HEADER + segments.RECORD_HEADER + 3] ^= 1
    _segment(home).write_bytes(whole)
    with pytest.raises(errors.Damaged, match=r"record 0 does not read as written, and the whole record 1 comes after"):
        await _append(home, b"new")
    assert _segment(home).read_bytes() == whole


async def test_a_segment_shorter_than_what_was_synced_is_damage_and_not_appended_to(home: Path) -> None:
    short = _segment(home).read_bytes()[:200]
    _segment(home).write_bytes(short)
    with pytest.raises(errors.Damaged, match="holds 200 bytes, and"):
        await _append(home, b"new")
    assert _segment(home).read_bytes() == short


async def test_a_segment_of_a_newer_version_is_refused_untouched(home: Path) -> None:
    whole = _make_newer(_segment(home))
    for lost_index in (False, True):
        if lost_index:
            _delete_index(home)
        for using in (_append(home, b"new"), _read_all(home)):
            with pytest.raises(errors.Newer, match=rf"is of version {segments.VERSION + 1}, .*upgrade it"):
                await using
        assert _segment(home).read_bytes() == whole


async def test_a_reader_believes_no_segment_of_a_newer_version_that_came_while_it_read(home: Path) -> None:
    bus = EmbeddedBus(home)
    log = await bus.open(TOPIC)
    await log.ends()
    _make_newer(_segment(home))
    with pytest.raises(errors.Newer, match="upgrade it"):
        await log.read(0, 1 << 20, 0)
    await bus.close()


async def test_an_index_of_a_newer_version_is_refused_untouched(home: Path) -> None:
    opened = index.Index(home / TOPIC)
    opened._db.execute("PRAGMA user_version = 9")
    opened.close()
    for write in (True, False):
        with pytest.raises(errors.Newer, match="upgrade it"):
            await _read_all(home, write=write)


@pytest.mark.parametrize("lost_index", [False, True])
async def test_a_segment_whose_creation_did_not_end_is_made_anew(home: Path, lost_index: bool) -> None:
    for torn in (b"", segments.MAGIC, bytes(segments.FILE_HEADER)):
        segments.path(home / TOPIC, ACKNOWLEDGED + 1).write_bytes(torn)
        if lost_index:
            _delete_index(home)
        assert (await _read_all(home, write=True)) == RECORDS
        assert segments.firsts(home / TOPIC) == [0]


async def test_a_file_that_is_no_segment_is_refused_untouched(home: Path) -> None:
    foreign = segments.path(home / TOPIC, 99)
    foreign.write_bytes(b"somebody's notes, which must stay as they are")
    with pytest.raises(errors.Damaged, match="is not a segment"):
        await _append(home, b"new")
    assert foreign.read_bytes().startswith(b"somebody's notes")
