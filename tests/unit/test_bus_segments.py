"""The bytes of a segment, by themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import errors
from engine.bus import segments
from engine.bus.segments import Torn


def _file(tmp_path: Path, *records: bytes, first: int = 0) -> int:
    """An open segment that holds `records`."""
    body = b"".join(segments.record_header(first + at, data) + data for at, data in enumerate(records))
    path = segments.path(tmp_path, first)
    path.write_bytes(segments.file_header(first) + body)
    return os.open(path, os.O_RDWR)


@pytest.fixture
def three(tmp_path: Path) -> int:
    return _file(tmp_path, b"one", b"", b"three" * 1000)


def test_the_bytes_of_format_1_are_these() -> None:
    assert segments.file_header(5).hex() == (
        "564d46594c4f47000000000100000000"  # magic, version, zero
        "0000000000000005a000172f543e6603"  # first offset, xxh3-64
    )
    assert segments.record_header(7, b"abc").hex() == "00000003000000000000000000000007" + "bd8fa37d2715bf32"


def test_records_are_taken_as_they_were_written(three: int) -> None:
    entries, position = segments.take(three, segments.FILE_HEADER, 0, 3, 1 << 20)
    assert [(entry.offset, entry.data) for entry in entries] == [(0, b"one"), (1, b""), (2, b"three" * 1000)]
    assert position == os.fstat(three).st_size
    os.close(three)


def test_no_record_is_taken_at_or_behind_the_end_that_is_asked_for(three: int) -> None:
    entries, _ = segments.take(three, segments.FILE_HEADER, 0, 2, 1 << 20)
    assert len(entries) == 2
    os.close(three)


def test_the_end_of_the_file_between_two_records_ends_the_taking(three: int) -> None:
    entries, position = segments.take(three, os.fstat(three).st_size, 3, 99, 1 << 20)
    assert (entries, position) == ([], os.fstat(three).st_size)
    os.close(three)


def test_a_limit_is_passed_by_at_most_one_record(three: int) -> None:
    assert len(segments.take(three, segments.FILE_HEADER, 0, 3, 1)[0]) == 1
    assert len(segments.take(three, segments.FILE_HEADER, 0, 3, 4)[0]) == 3
    os.close(three)


def test_records_larger_than_one_read_of_the_file_are_whole(tmp_path: Path) -> None:
    big = [os.urandom(size) for size in (3 << 20, 10, (1 << 20) - 24, 5 << 20)]
    fd = _file(tmp_path, *big)
    entries, _ = segments.take(fd, segments.FILE_HEADER, 0, 4, 64 << 20)
    assert [entry.data for entry in entries] == big
    os.close(fd)


def test_a_file_that_ends_within_a_record_is_torn_there(three: int) -> None:
    whole = os.fstat(three).st_size
    begins = segments.FILE_HEADER + 2 * segments.RECORD_HEADER + 3
    for size in range(begins + 1, whole, 97):
        os.ftruncate(three, size)
        assert len(segments.take(three, segments.FILE_HEADER, 0, 3, 1 << 20)[0]) == 2
        with pytest.raises(Torn) as torn:
            segments.take(three, begins, 2, 3, 1 << 20)
        assert torn.value.position == begins
    os.close(three)


def test_a_length_beyond_the_limit_is_refused_and_not_allocated(three: int) -> None:
    os.pwrite(three, (segments.RECORD_LIMIT + 1).to_bytes(4, "big"), segments.FILE_HEADER)
    with pytest.raises(Torn, match="not the one of this offset"):
        segments.take(three, segments.FILE_HEADER, 0, 3, 1)
    os.close(three)


def test_a_step_by_headers_finds_every_record(three: int) -> None:
    position = segments.FILE_HEADER
    for offset in range(3):
        assert segments.step(three, position, offset, False) == segments.step(three, position, offset, True)
        position = segments.step(three, position, offset, False)
    assert position == os.fstat(three).st_size
    with pytest.raises(Torn):
        segments.step(three, position, 3, True)
    os.close(three)


def test_writes_that_the_kernel_takes_in_part_are_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def miser(fd: int, views: list[memoryview], position: int) -> int:
        return real(fd, [views[0][:7]], position) if len(views[0]) > 7 else real(fd, views[:1], position)

    monkeypatch.setattr("engine.bus.segments.os.pwritev", miser)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    buffers = [bytes([number % 251]) * (number % 23) for number in range(1100)]
    segments.write_all(fd, buffers, 5)
    assert os.pread(fd, 1 << 20, 5) == b"".join(buffers)
    os.close(fd)


def test_a_file_header_is_whole_torn_newer_or_foreign(tmp_path: Path) -> None:
    file = segments.path(tmp_path, 3)
    file.write_bytes(segments.file_header(3))
    assert segments.check_file(tmp_path, 3)
    for torn in (b"", segments.file_header(3)[:31], bytes(40)):
        file.write_bytes(torn)
        assert not segments.check_file(tmp_path, 3)
    for refused in (segments.file_header(4), b"somebody's notes, which are longer", b"VMFYLOG\0\0\0\0\2" + bytes(99)):
        file.write_bytes(refused)
        with pytest.raises(errors.Damaged):
            segments.check_file(tmp_path, 3)
