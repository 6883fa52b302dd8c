"""What of a log is kept, for whom, and who is told when it is not."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import errors
from engine.store.sources import SourceState
from producers.pace import Peer
from producers.retain import FILE, Mark, Marks, Retain
from producers.ship import Shipper
from schemas.receipts import Position

A, B, FOREIGN = b"a" * 16, b"b" * 16, b"f" * 16
BLOCK = 64


@dataclass
class Fake:
    """As much of a shipper as the rule looks at."""

    state: SourceState = field(default_factory=lambda: SourceState(b"s" * 16, "web", 0))
    sent: int = 0
    peers: dict[bytes, Peer] = field(default_factory=dict)
    trims: list[int] = field(default_factory=list)
    answering: tuple[bytes, ...] = ()
    unsure: int = 0

    @property
    def ear(self) -> Any:
        return SimpleNamespace(waited_for=lambda: [Peer(one) for one in self.answering])

    @property
    def map(self) -> Any:
        volume = SimpleNamespace(unsure=SimpleNamespace(count=self.unsure), volume=SimpleNamespace(block_size=BLOCK))
        return SimpleNamespace(volumes=[volume])

    async def trim_to(self, offset: int) -> None:
        self.trims.append(offset)


class Bench:
    """A stream whose epochs are of one record and 100 bytes each, one every 10 seconds."""

    def __init__(self, folder: Path, *registered: bytes, keep: float = 0.0, cap: int = 0) -> None:
        self.now = 1000.0
        self.fake = Fake()
        self.register(*registered)
        self.folder, self.keep, self.cap = folder, keep, cap
        self.retain = self.again()

    def again(self) -> Retain:
        self.retain = Retain(self.folder, self.keep, self.cap, lambda: self.now)
        return self.retain

    def register(self, *replicas: bytes) -> None:
        self.fake.state = replace(self.fake.state, peers=replicas)

    def applied(self, replica: bytes, offset: int) -> None:
        self.fake.peers[replica] = Peer(replica, applied=replace(Position(), offset=offset))

    async def trim(self) -> int:
        """Up to where it let go, in all."""
        await self.retain.trim(cast(Shipper, self.fake), self.now)
        return max(self.fake.trims, default=0)

    async def epochs(self, count: int) -> None:
        for _ in range(count):
            self.now += 10
            self.fake.sent += 100
            self.fake.state = replace(self.fake.state, offset=self.fake.state.offset + 1)
            await self.trim()

    def refuse(self, data: int) -> None:
        self.retain.refuse(cast(Shipper, self.fake), data)


# -- marks ---------------------------------------------------------------------------------------------------------


def marks(*found: tuple[int, int, float]) -> Marks:
    made = Marks()
    for one in found:
        made.add(*one)
    return made


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 3), st.booleans()), max_size=60))
def test_no_byte_is_lost_from_the_count_however_close_or_backwards_in_time_they_were_sent(
    steps: list[tuple[int, float, bool]],
) -> None:
    made, at, total = Marks(), 100.0, 0
    for offset, (size, step, back) in enumerate(steps, 1):
        at += -step * 1000 if back else step
        made.add(offset, size, at)
        total += size
    assert made.sent == made.between(0, 1 << 62) == total


def test_an_offset_that_was_seen_is_not_counted_again() -> None:
    assert marks((5, 100, 0), (5, 100, 9), (4, 100, 18)).marks == marks((5, 100, 0)).marks


def test_marks_of_one_second_are_one_mark_and_later_ones_are_not() -> None:
    made = marks(*((offset, 10, offset / 10) for offset in range(1, 101)))
    assert 10 <= len(made.marks) <= 21
    assert made.marks[-1] == Mark(100, 1000, 10.0)


def test_a_clock_that_was_set_back_does_not_melt_what_follows_into_one_mark() -> None:
    made = marks((1, 10, 5000), (2, 10, 5010), *((offset, 10, offset * 10.0) for offset in range(3, 10)))
    assert len(made.marks) == 9


def test_marks_are_bounded_and_what_they_count_stays_right() -> None:
    made = marks(*((offset, 10, offset * 2.0) for offset in range(1, 10_001)))
    assert len(made.marks) <= 4096
    assert made.sent == 100_000
    assert made.between(1, 1 << 62) == 100_000 - 10
    assert abs(made.between(5000, 1 << 62) - 50_000) < 200


def test_between_counts_what_was_sent_behind_the_lower_and_up_to_the_upper_offset() -> None:
    made = marks((10, 100, 0), (20, 200, 10), (30, 400, 20))
    assert [made.between(*one) for one in ((0, 30), (10, 30), (20, 99), (10, 20), (30, 10))] == [700, 600, 400, 200, 0]


def test_trimming_forgets_marks_and_not_the_sum() -> None:
    made = marks((10, 100, 0), (20, 200, 10), (30, 400, 20))
    made.trimmed(29)
    assert [one.offset for one in made.marks] == [20, 30]
    assert made.between(20, 30) == 400
    made.trimmed(1000)
    assert made.sent == 700


def test_older_than_gives_what_lies_behind_the_last_that_is_old() -> None:
    made = marks((10, 100, 0), (20, 200, 10), (30, 400, 20))
    assert [made.older_than(at) for at in (-1, 0, 9.9, 10, 99)] == [0, 10, 10, 20, 30]


def test_within_never_leaves_more_than_the_cap_and_lets_nothing_go_below_it() -> None:
    made = marks((10, 100, 0), (20, 200, 10), (30, 400, 20))
    assert [made.within(cap) for cap in (0, 399, 400, 599, 600, 699, 700, 9999)] == [30, 30, 20, 20, 10, 10, 0, 0]


# -- whom it waits for ---------------------------------------------------------------------------------------------


async def test_it_waits_for_the_slowest_of_all_registered_replicas(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, B)
    bench.applied(A, 9)
    bench.applied(B, 4)
    await bench.epochs(10)
    assert await bench.trim() == 4


async def test_one_that_is_registered_and_has_said_nothing_holds_everything(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, B)
    bench.applied(A, 9)
    await bench.epochs(10)
    assert await bench.trim() == 0
    bench.register(A)
    assert await bench.trim() == 9


async def test_who_is_not_registered_holds_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A)
    bench.applied(FOREIGN, 2)
    bench.applied(A, 9)
    await bench.epochs(10)
    assert await bench.trim() == 9


async def test_once_the_last_was_forgotten_nothing_is_kept_for_anybody(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A)
    bench.applied(A, 3)
    await bench.epochs(10)
    assert await bench.trim() == 3
    bench.register()
    assert await bench.trim() == 10


async def test_nothing_is_let_go_beyond_the_last_seal_whatever_a_replica_says(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A)
    bench.applied(A, 1000)
    await bench.epochs(3)
    assert await bench.trim() == 3


async def test_what_everyone_has_is_kept_as_long_as_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, keep=45.0)
    bench.applied(A, 1000)
    await bench.epochs(10)
    assert await bench.trim() == 5
    bench.now += 100
    assert await bench.trim() == 10


# -- the cap -------------------------------------------------------------------------------------------------------


async def test_below_the_cap_nobody_is_dropped_and_from_most_of_it_on_a_warning_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, cap=1000)
    await bench.epochs(8)
    assert (bench.retain.size, bench.retain.warning) == (800, "")
    await bench.epochs(2)
    assert bench.fake.trims == []
    assert bench.retain.dropped == ()
    assert "0.977 KiB of its cap of 0.977 KiB" in bench.retain.warning


async def test_the_cap_drops_the_slow_one_aloud_and_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path, A, B, cap=500)
    bench.applied(A, 3)
    with caplog.at_level(logging.WARNING):
        for epoch in range(1, 13):
            bench.applied(B, epoch)
            await bench.epochs(1)
    assert bench.fake.trims[-1] == 7
    assert bench.retain.size == 500
    assert bench.retain.dropped == (A.hex()[:8],)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert A.hex()[:8] in bench.retain.warning
    assert B.hex()[:8] not in bench.retain.warning
    bench.applied(A, 12)
    await bench.trim()
    assert not bench.retain.dropped
    assert not bench.retain.warning


async def test_a_silent_one_that_was_dropped_stays_dropped_until_it_speaks(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, cap=300)
    await bench.epochs(5)
    for _ in range(3):
        await bench.trim()
        assert bench.retain.dropped == (A.hex()[:8],)


async def test_bytes_that_are_sent_before_their_seal_count_with_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A)
    bench.fake.sent = 1000
    await bench.trim()
    await bench.epochs(1)
    bench.fake.sent += 5000
    await bench.trim()
    await bench.epochs(1)
    assert bench.retain.size == bench.fake.sent == 6200


# -- refusing ------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_held_for_who_is_away_is_refused_with_figures(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, cap=1000)
    await bench.epochs(6)
    bench.fake.unsure = 10
    with pytest.raises(errors.Full, match=rf"640 B .*{A.hex()[:8]} is away.* cap of 0.977 KiB 400 B are left"):
        bench.refuse(1 << 30)


@pytest.mark.parametrize("spared", ["room", "little data", "an answer", "no cap", "nobody"])
async def test_it_is_not_refused_when(tmp_path: Path, spared: str) -> None:
    bench = Bench(tmp_path, A, cap=0 if spared == "no cap" else 1000)
    await bench.epochs(6)
    bench.fake.unsure = 6 if spared == "room" else 10
    if spared == "an answer":
        bench.fake.answering = (A,)
    if spared == "nobody":
        bench.register()
    bench.refuse(400 if spared == "little data" else 1 << 30)


# -- its file ------------------------------------------------------------------------------------------------------


async def test_a_restart_goes_on_counting_and_accuses_nobody(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, cap=500)
    for epoch in range(1, 21):
        bench.applied(A, epoch - 1)
        await bench.epochs(1)
    size = bench.retain.size
    bench.fake.peers, bench.fake.sent = {}, 0
    retain = bench.again()
    assert retain.size == size == 100
    await bench.trim()
    assert (retain.dropped, retain.warning) == ((), "")
    await bench.epochs(1)
    assert retain.size == 200


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "5", '{"marks": 5}', '{"marks": [[1, 2]]}', '{"marks": [["x", 1, 1]]}'),
        *('{"marks": [[1e999, 1, 1]]}', '{"marks": [], "trimmed": null}', "\udcff"),
    ],
)
async def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(text.encode(errors="surrogateescape"))
    bench = Bench(tmp_path, A)
    assert "counted anew" in caplog.text
    bench.applied(A, 2)
    await bench.epochs(3)
    assert (bench.fake.trims, bench.retain.size) == ([1, 2], 100)


async def test_a_file_of_a_newer_version_is_refused_and_stays(tmp_path: Path) -> None:
    newer = '{"version": 2, "marks": {}}'
    (tmp_path / FILE).write_text(newer)
    with pytest.raises(errors.Newer, match=r"kept\.json is of version 2, and this vmferry knows 1: upgrade it"):
        Bench(tmp_path, A)
    assert (tmp_path / FILE).read_text() == newer


async def test_a_file_that_is_lost_and_a_folder_that_cannot_be_written_stop_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "gone", A)
    bench.applied(A, 2)
    await bench.epochs(3)
    assert await bench.trim() == 2
