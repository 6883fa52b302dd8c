"""Small pieces of a file, those together that lie near each other.

A call costs more than the bytes between two pieces, and most of all where many threads wait for the interpreter: a
change of 1,310 scattered blocks made 25,000 calls of 32 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine import ports

_PAGE = 4096
_MOST = 128 << 10
"""Bytes of one call, from where on it costs what its bytes cost."""


def read(file: ports.File, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of each (start, length); what lies beyond the end reads as zeros."""
    found: list[bytes] = []
    for group in _groups(ranges):
        whole = _whole(file, group)
        first = group[0][0]
        found += [whole[start - first : start - first + length] for start, length in group]
    return found


def write(file: ports.File, pieces: Sequence[tuple[int, bytes]]) -> None:
    """Write each (start, data), in this order.  What lies between two is written once more, as it is.

    To be called by the one who changes the file, and by nobody else meanwhile.  Raises Full, DeviceFailed.
    """
    at = 0
    for group in _groups([(start, len(data)) for start, data in pieces]):
        some = pieces[at : at + len(group)]
        at += len(group)
        if len(some) == 1:
            file.write(*some[0])
            continue
        whole, first = bytearray(_whole(file, group)), group[0][0]
        for start, data in some:
            whole[start - first : start - first + len(data)] = data
        file.write(first, bytes(whole))


def _whole(file: ports.File, group: Sequence[tuple[int, int]]) -> bytes:
    first = group[0][0]
    length = sum(group[-1]) - first
    return file.read(first, length).ljust(length, b"\0") if length else b""


def _groups(ranges: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Neighbours that rise, lie within a page of each other, and are not too much for one call."""
    group: list[tuple[int, int]] = []
    for start, length in ranges:
        if group:
            end = sum(group[-1])
            if not end <= start <= end + _PAGE or start + length - group[0][0] > _MOST:
                yield group
                group = []
        group.append((start, length))
    if group:
        yield group
