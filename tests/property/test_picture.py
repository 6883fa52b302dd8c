"""A picture is what a power cut at its number leaves, whatever the guest writes while the live disk is read."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import errors
from producers.tap.picture import Picture
from schemas.identity import Volume

BLOCK, SECTOR = 16, 4
SIZE = 10 * BLOCK + 2 * SECTOR
VOLUME = Volume("vda", SIZE, BLOCK)
SEEDS = 400


@dataclass(frozen=True)
class Write:
    start: int
    data: bytes
    zero: bool

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class Guest:
    """A disk as QEMU mirrors it: sectors of a write come to the disk in any order; once all are there it gets a number.
    Reads may see anything between."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.first = chance, chance.randbytes(SIZE)
        self.disk, self.log, self.flying = bytearray(self.first), list[Write](), list[Write]()

    def issue(self) -> None:
        start = self.chance.randrange(0, SIZE, SECTOR)
        length = min(self.chance.choice((SECTOR, BLOCK, 3 * BLOCK, SIZE)), SIZE - start)
        zero = self.chance.random() < 0.3
        one = Write(start, bytes(length) if zero else self.chance.randbytes(length), zero)
        if any(one.start < other.end and other.start < one.end for other in self.flying):
            return  # overlapping pieces of a mirror wait for each other
        self.flying.append(one)
        for at in range(start, one.end, SECTOR):
            if self.chance.random() < 0.5:
                self.disk[at : at + SECTOR] = one.data[at - start : at - start + SECTOR]

    def number(self) -> None:
        if self.flying:
            one = self.flying.pop(self.chance.randrange(len(self.flying)))
            self.disk[one.start : one.end] = one.data
            self.log.append(one)

    def act(self) -> None:
        for _ in range(self.chance.randrange(4)):
            self.chance.choice((self.issue, self.number))()

    def at(self, number: int) -> bytes:
        disk = bytearray(self.first)
        for one in self.log[:number]:
            disk[one.start : one.end] = one.data
        return bytes(disk)


def lay(picture: Picture, writes: list[Write]) -> None:
    for one in writes:
        if one.zero:
            picture.zero(one.start, len(one.data))
        else:
            picture.write(one.start, one.data)


def sound(seed: int, early: bool = False, shuffled: bool = False, missed: bool = False) -> bool:
    """Take one picture beside a busy guest; whether it is a state that a power cut at its number may leave.

    Planted: `early` fixes the number before the live disk is read, `shuffled` lays writes in another order, `missed`
    lays none of those that came while it was read.
    """
    chance = random.Random(seed)
    guest, picture = Guest(chance), Picture(VOLUME)
    for _ in range(3):
        guest.act()
    upto, flying = len(guest.log), list(guest.flying)
    lay(picture, guest.log[:upto])
    wanted = set(chance.sample(range(VOLUME.blocks), chance.randrange(VOLUME.blocks)))
    while wanted or picture.lacking():
        wanted |= {block for low, high in picture.lacking() for block in range(low, high)}
        for block in sorted(wanted):
            guest.act()
            data = bytes(guest.disk[block * BLOCK : block * BLOCK + VOLUME.length(block)])
            picture.base(block * BLOCK, data if any(data) else None, len(data))
        wanted.clear()
        if early:
            continue
        more = guest.log[upto:]
        upto, flying = upto + len(more), list(guest.flying)
        lay(picture, [] if missed else chance.sample(more, len(more)) if shuffled else more)
    return possible(picture, guest.at(upto), flying)


def possible(picture: Picture, cut: bytes, flying: list[Write]) -> bool:
    """Each sector of the picture is that of the cut, or of a write that was on its way and depends on nothing later."""
    for start in range(0, SIZE, SECTOR):
        if picture.missing(start // BLOCK, start // BLOCK + 1):
            continue
        allowed = {cut[start : start + SECTOR]}
        allowed |= {
            one.data[start - one.start : start - one.start + SECTOR] for one in flying if one.start <= start < one.end
        }
        if picture.read(start, SECTOR) not in allowed:
            return False
    return True


def test_a_picture_is_what_a_power_cut_leaves() -> None:
    assert [seed for seed in range(SEEDS) if not sound(seed)] == []


@pytest.mark.parametrize("bug", ["early", "shuffled", "missed"])
def test_the_planted_bug_is_seen(bug: str) -> None:
    assert any(not sound(seed, **{bug: True}) for seed in range(SEEDS))


Step = tuple[str, int, int]


@given(st.lists(st.tuples(st.sampled_from(("write", "zero")), st.integers(0, SIZE - 1), st.integers(1, SIZE))))
def test_writes_of_any_bytes_are_those_of_a_disk(steps: list[Step]) -> None:
    disk, picture = bytearray(b"\xee" * SIZE), Picture(VOLUME)
    touched: set[int] = set()
    for number, (kind, start, length) in enumerate(steps):
        end = min(start + length, SIZE)
        data = bytes(end - start) if kind == "zero" else bytes([number % 250 + 1]) * (end - start)
        if kind == "zero":
            picture.zero(start, length)
        else:
            picture.write(start, bytes([number % 250 + 1]) * length)
        disk[start:end] = data
        touched |= set(range(start // BLOCK, -(-end // BLOCK)))
    assert {block for low, high in picture.written for block in range(low, high)} == touched
    for low, high in picture.lacking():
        picture.base(low * BLOCK, b"\xee" * (min(high * BLOCK, SIZE) - low * BLOCK))
    for block in range(VOLUME.blocks):
        length = VOLUME.length(block)
        assert bool(picture.missing(block, block + 1)) == (block not in touched)
        if block in touched:
            assert picture.read(block * BLOCK, length) == disk[block * BLOCK : block * BLOCK + length]
            for one in picture.extents(block * BLOCK, length):
                assert not one.zero or not any(disk[one.start : one.end])
        else:
            with pytest.raises(errors.DeviceFailed):
                picture.read(block * BLOCK, length)


def test_a_range_of_zeros_costs_nothing_however_long() -> None:
    picture = Picture(Volume("vda", 1 << 50, 4096))
    picture.write(3 * 4096, b"x" * 4096)
    picture.zero(0, 1 << 50)
    picture.base(0, None, 1 << 50)
    assert picture.read(3 * 4096, 4096) == bytes(4096)
    assert [(one.start, one.end, one.zero) for one in picture.extents(0, 1 << 50)] == [(0, 1 << 50, True)]
