"""Image locks between two of our own openings; with QEMU's programs in tests/interop/test_images_locks.py."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.device import locks
from engine.device.locks import ImageLock

Pair = tuple[ImageLock, ImageLock]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "disk.raw").write_bytes(bytes(4096))
    return tmp_path / "disk.raw"


@pytest.fixture
def two(image: Path) -> Iterator[Pair]:
    opened = [os.open(image, os.O_RDWR) for _ in range(2)]
    yield ImageLock(opened[0], str(image)), ImageLock(opened[1], str(image))
    for fd in opened:
        os.close(fd)


def test_readers_share(two: Pair) -> None:
    for lock in two:
        lock.acquire(write=False)
        lock.guard()
        lock.guard()


@pytest.mark.parametrize("write", [True, False])
def test_a_writer_is_alone(two: Pair, write: bool) -> None:
    two[0].acquire(write=True)
    with pytest.raises(errors.InUse, match=r"disk\.raw: .* \(pid \d+\)"):
        two[1].acquire(write=write)


def test_a_reader_keeps_writers_out_with_and_without_guard(two: Pair) -> None:
    two[0].acquire(write=False)
    with pytest.raises(errors.InUse):
        two[1].acquire(write=True)
    two[0].guard()
    with pytest.raises(errors.InUse):
        two[1].acquire(write=True)


def test_who_was_refused_holds_nothing(two: Pair) -> None:
    two[0].acquire(write=True)
    with pytest.raises(errors.InUse):
        two[1].acquire(write=True)
    two[0].release()
    two[0].release()
    two[0].acquire(write=True)


def test_the_lock_goes_with_the_descriptor(image: Path) -> None:
    first, second = os.open(image, os.O_RDWR), os.open(image, os.O_RDWR)
    ImageLock(first, str(image)).acquire(write=True)
    os.close(first)
    ImageLock(second, str(image)).acquire(write=True)
    os.close(second)


def test_the_message_names_the_holder_and_the_way_out(two: Pair) -> None:
    two[0].acquire(write=True)
    with pytest.raises(errors.InUse) as caught:
        two[1].acquire(write=False)
    assert f"(pid {os.getpid()}) lets nobody else have it (consistent read)" in str(caught.value)
    assert "--force-share" in str(caught.value)


def taken(fd: int) -> set[int]:
    """The bytes below 300 that somebody else has locked."""
    found = set()
    for byte in range(300):
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        if struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK:
            found.add(byte)
    return found


def test_the_bytes_are_qemus(two: Pair, image: Path) -> None:
    other = os.open(image, os.O_RDONLY)
    two[0].acquire(write=True)
    assert taken(other) == {100, 101, 103, 200, 201, 203}
    two[0].release()
    assert taken(other) == set()
    two[0].acquire(write=False)
    assert taken(other) == {100}
    two[0].guard()
    assert taken(other) == {100, 201, 203}
    two[0].unguard()
    assert taken(other) == {100}
    os.close(other)


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (errno.EAGAIN, errors.InUse, "has it open"),
        (errno.ENOLCK, errors.Unsafe, "keeps no locks .* --force-share"),
        (errno.EIO, errors.DeviceFailed, "cannot lock it"),
    ],
)
def test_a_refusal_of_the_kernel_is_named(
    two: Pair, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[errors.FerryError], text: str
) -> None:
    def refuse(_fd: int, _command: int, argument: bytes) -> bytes:
        if struct.unpack("hhqqi4x", argument)[0] == fcntl.F_UNLCK:
            return argument
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(kind, match=text):
        two[0].acquire(write=True)


@pytest.mark.parametrize(
    ("fdinfo", "covers"),
    [
        ("pos:\t0\nlock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10011189 100 101\n", True),
        ("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10011189 102 103\n", False),
        ("lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:10011189 0 EOF\n", True),
        ("lock:\t1: POSIX  ADVISORY  READ 77 fe:00:10011189 100 101\n", False),
        ("pos:\t0\nflags:\t02\n", False),
    ],
)
def test_the_kernels_table_is_read(fdinfo: str, covers: bool) -> None:
    assert locks._locks(fdinfo, 101) is covers
