"""What every File must do, and what an operating system's file must do beyond it."""

from __future__ import annotations

import errno
import os
import random
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine import errors, linux
from engine.store import file
from engine.store.file import OsFile

Open = Callable[[], OsFile]


@pytest.fixture(params=["plain", "mapped"])
def open_file(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    return lambda: OsFile(tmp_path / "f", mapped=request.param == "mapped")


def test_a_new_file_is_empty_and_reads_nothing(open_file: Open) -> None:
    store = open_file()
    assert (store.size(), store.read(0, 10), store.read(99, 1)) == (0, b"", b"")
    store.close()


def test_what_was_written_is_read_and_survives_reopening(open_file: Open) -> None:
    store = open_file()
    store.write(3, b"abc")
    store.sync()
    assert store.read(0, 100) == b"\0\0\0abc"
    store.close()
    again = open_file()
    assert again.read(4, 2) == b"bc"
    again.close()


def test_a_read_is_short_at_the_end_and_holes_are_zeros(open_file: Open) -> None:
    store = open_file()
    store.write(1 << 20, b"tail")
    assert store.read((1 << 20) - 2, 100) == b"\0\0tail"
    assert store.read(0, 4096) == bytes(4096)
    store.close()


def test_appends_are_seen_by_reads_between_them(open_file: Open) -> None:
    store, model = open_file(), b""
    for number in range(400):
        piece = bytes([number % 256]) * 97
        store.write(len(model), piece)
        model += piece
        assert store.read(max(0, len(model) - 150), 150) == model[-150:]
    assert store.read(0, len(model)) == model
    store.close()


def test_discard_reads_as_zeros_and_keeps_the_size(open_file: Open) -> None:
    store = open_file()
    store.write(0, b"x" * 10_000)
    store.discard(100, 5_000)
    store.discard(9_990, 500)
    store.discard(20_000, 10)
    assert store.size() == 10_000
    assert store.read(0, 10_000) == b"x" * 100 + bytes(5_000) + b"x" * 4_890 + bytes(10)
    store.close()


def test_truncate_cuts_and_grows_with_zeros(open_file: Open) -> None:
    store = open_file()
    store.write(0, b"y" * 9_000)
    assert store.read(0, 9_000) == b"y" * 9_000
    store.truncate(5)
    store.truncate(12)
    assert (store.size(), store.read(0, 99)) == (12, b"yyyyy" + bytes(7))
    store.sync()
    store.close()


def test_random_operations_equal_a_bytearray(open_file: Open) -> None:
    store, model, dice = open_file(), bytearray(), random.Random(7)
    for _ in range(1_500):
        start, length = dice.randrange(200_000), dice.randrange(9_000)
        what = dice.random()
        if what < 0.45:
            data = dice.randbytes(length)
            store.write(start, data)
            if data:
                model.extend(bytes(max(0, start + length - len(model))))
                model[start : start + length] = data
        elif what < 0.55:
            store.discard(start, length)
            stop = max(start, min(start + length, len(model)))
            model[start:stop] = bytes(stop - start)
        elif what < 0.6:
            store.truncate(start)
            model = model[:start] + bytes(max(0, start - len(model)))
        else:
            assert store.read(start, length) == model[start : start + length]
    assert (store.size(), store.read(0, len(model))) == (len(model), bytes(model))
    store.close()


def test_close_may_be_called_twice_and_a_closed_file_takes_nothing(open_file: Open) -> None:
    store = open_file()
    store.close()
    store.close()
    with pytest.raises(errors.DeviceFailed, match="closed"):
        store.write(0, b"x")


def test_discard_gives_space_back(tmp_path: Path) -> None:
    store = OsFile(tmp_path / "f")
    store.write(0, os.urandom(1 << 20))
    store.sync()
    store.discard(0, 1 << 20)
    store.sync()
    assert os.stat(store.path).st_blocks * 512 < 64 << 10
    store.close()


def test_discard_writes_zeros_where_holes_cannot_be_punched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no")))
    store = OsFile(tmp_path / "f")
    store.write(0, b"x" * 3_000_000)
    store.discard(1, 2_500_000)
    assert store.read(0, 3_000_000) == b"x" + bytes(2_500_000) + b"x" * 499_999
    store.close()


def test_the_directory_is_synced_before_the_first_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(linux, "sync_directory", lambda path: calls.append(f"directory of {Path(path).name}"))
    monkeypatch.setattr(os, "fdatasync", lambda _: calls.append("data"))
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("data and size"))
    store = OsFile(tmp_path / "f")
    store.sync()
    store.sync()
    store.truncate(0)
    store.sync()
    store.close()
    assert calls == ["directory of f", "data", "data", "data and size"]


def test_after_a_failed_sync_nothing_more_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = OsFile(tmp_path / "f")
    store.write(0, b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(errors.DeviceFailed, match=r"/f: cannot make its data durable: .*EIO"):
            store.sync()
    for later in (store.sync, lambda: store.write(0, b"y"), lambda: store.truncate(0), lambda: store.discard(0, 1)):
        with pytest.raises(errors.DeviceFailed, match="an earlier sync failed"):
            later()
    assert store.read(0, 1) == b"x"
    store.close()


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, errors.Full), (errno.EDQUOT, errors.Full), (errno.EIO, errors.DeviceFailed)]
)
def test_a_failed_write_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[errors.FerryError]
) -> None:
    store = OsFile(tmp_path / "f")
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
    with pytest.raises(kind, match=r"/f: cannot write 3 bytes at 4,096"):
        store.write(4096, b"abc")
    store.close()


def test_a_missing_directory_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="none/f: cannot open it: No such file"):
        OsFile(tmp_path / "none" / "f")
    with pytest.raises(errors.Usage, match="is a directory"):
        OsFile(tmp_path)


def resident_file_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssFile"))


def test_a_mapping_gives_its_pages_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "TOUCHED", 8 << 20)
    size = 128 << 20
    store = OsFile(tmp_path / "f", mapped=True)
    for start in range(0, size, 1 << 20):
        store.write(start, b"z" * (1 << 20))
    before, most = resident_file_bytes(), 0
    for start in range(0, size, 4096):
        assert store.read(start, 32) == b"z" * 32
        if start % (4 << 20) == 0:
            most = max(most, resident_file_bytes() - before)
    store.close()
    assert most < 24 << 20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_threads_read_a_mapped_file_while_it_grows(tmp_path: Path) -> None:
    """As the map of a disk that grew is read: each thread finds the mapping too small, and makes another."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(10):
            store = OsFile(tmp_path / str(number), mapped=True)
            with ThreadPoolExecutor(4) as pool:
                for power in range(10, 18):
                    store.write(0, bytes([power]) * (1 << power))
                    ends = range(1 << (power - 2), 1 << power, 1 << (power - 7))
                    reads = [pool.submit(store.read, 0, end) for end in ends]
                    assert all(set(one.result()) == {power} for one in reads)
            store.close()
    finally:
        sys.setswitchinterval(before)
