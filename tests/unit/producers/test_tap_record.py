"""Records of a tap's spool, as bytes."""

from __future__ import annotations

import pytest

from engine import errors
from producers.tap import record
from producers.tap.record import ENTRY, Entry, Kind

NONCE = bytes(range(16))
GOLDEN = bytes.fromhex(
    "56544150" "01" "00" "0003" "0000000100000005" "18e4a1b2c3d4e5f6" "000102030405060708090a0b0c0d0e0f"
    "02" "00" "0001" "00000003" "0000000000001000"
    "03" "00" "0000" "80000000" "0000000000000200"
    "05" "00" "0000" "00000002" "0000000000000000"
    "616263" "6869"
)  # fmt: skip


def test_a_record_is_the_bytes_of_the_table() -> None:
    entries = [
        ENTRY.pack(Kind.WRITTEN, 1, 3, 0x1000),
        ENTRY.pack(Kind.ZEROED, 0, 1 << 31, 0x200),
        ENTRY.pack(Kind.MARK, 0, 2, 0),
    ]
    arrived = 0x18E4A1B2C3D4E5F6
    assert record.pack((1 << 32) + 5, arrived, NONCE, entries, [b"abc", memoryview(b"hi")]) == GOLDEN
    assert record.head(GOLDEN) == ((1 << 32) + 5, 3)
    assert record.unpack(GOLDEN) == [
        Entry((1 << 32) + 5, Kind.WRITTEN, 1, 0x1000, 3, arrived, NONCE, b"abc"),
        Entry((1 << 32) + 6, Kind.ZEROED, 0, 0x200, 1 << 31, arrived, NONCE, b""),
        Entry((1 << 32) + 7, Kind.MARK, 0, 0, 2, arrived, NONCE, b"hi"),
    ]


def test_who_begins_says_which_disks_it_has_in_their_order() -> None:
    disks = {"vdb": 4096, "vda": 1 << 40}
    assert list(record.disks(record.began(disks)).items()) == list(disks.items())


def test_a_newer_record_is_refused_as_such() -> None:
    with pytest.raises(errors.Newer, match="version 2"):
        record.unpack(GOLDEN[:4] + b"\2" + GOLDEN[5:])


@pytest.mark.parametrize(
    "said",
    [
        b"",
        GOLDEN[:39],
        b"VTAQ" + GOLDEN[4:],
        GOLDEN[:60],
        GOLDEN[:-1],
        GOLDEN + b"x",
        GOLDEN[:6] + b"\0\0" + GOLDEN[8:],
    ],
)
def test_what_does_not_fit_together_is_damage(said: bytes) -> None:
    with pytest.raises(errors.Damaged):
        record.unpack(said)
