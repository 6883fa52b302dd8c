"""What of a log is kept, for whom, and who is told when it is not."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine import errors
from engine.store.sources import SourceState
from producers.pace import Peer
from producers.retain import FILE, Retain
from producers.ship import Shipper
from schemas import events
from schemas.identity import Attempt
from schemas.receipts import Position

A, B, C, FOREIGN = b"a" * 16, b"b" * 16, b"c" * 16, b"f" * 16
BLOCK = 64


@dataclass
class Fake:
    """As much of a shipper as the rule looks at."""

    state: SourceState = field(default_factory=lambda: SourceState(b"s" * 16, "web", 0))
    sent: int = 0
    peers: dict[bytes, Peer] = field(default_factory=dict)
    trims: list[int] = field(default_factory=list)
    words: list[events.Lapsed] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    trimmed: int = 0
    between: bool = True
    fenced: Attempt | None = None
    answering: tuple[bytes, ...] = ()
    unsure: int = 0

    @property
    def ear(self) -> Any:
        return SimpleNamespace(waited_for=lambda: [Peer(one) for one in self.answering], fenced=self.fenced)

    @property
    def map(self) -> Any:
        volume = SimpleNamespace(unsure=SimpleNamespace(count=self.unsure), volume=SimpleNamespace(block_size=BLOCK))
        return SimpleNamespace(volumes=[volume])

    async def say(self, word: events.Lapsed) -> bool:
        if self.between:
            self.words.append(word)
            self.done.append("say")
        return self.between

    async def trim_to(self, offset: int) -> None:
        self.trims.append(offset)
        self.done.append("trim")
        self.trimmed = offset


class Bench:
    """A stream whose epochs are of one record and 100 bytes each, one every 10 seconds."""

    def __init__(self, folder: Path, *registered: bytes, keep: float = 0.0, cap: int = 0) -> None:
        self.now = 1000.0
        self.fake = Fake()
        self.register(*registered)
        self.folder, self.keep, self.cap = folder, keep, cap
        self.retain = self.again()

    def again(self) -> Retain:
        """Another process."""
        self.retain = Retain(self.folder, self.keep, self.cap, lambda: self.now)
        self.fake.trimmed, self.fake.peers, self.fake.sent = 0, {}, 0
        return self.retain

    def register(self, *replicas: bytes) -> None:
        self.fake.state = replace(self.fake.state, peers=replicas)

    def applied(self, replica: bytes, offset: int) -> None:
        """It has applied the epochs up to `offset`, whose numbers are the offsets behind them."""
        self.fake.peers[replica] = Peer(replica, applied=replace(Position(), epoch=offset, offset=offset))

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


async def test_who_is_passed_is_said_first_with_what_it_has_and_figures(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, B, cap=500)
    bench.register(A, B, C)
    bench.applied(A, 3)
    for epoch in range(1, 10):
        bench.applied(B, epoch)
        await bench.epochs(1)
        if epoch == 3:
            bench.applied(C, 1)
    first, word = bench.fake.words
    assert bench.fake.done == ["trim", "say", "trim", "say", "trim"]
    assert (first.offset, first.held, first.replicas) == (3, 600, (events.Behind(C, 1, 1),))
    assert (word.why, word.offset, word.held, word.cap) == (events.Why.CAP, 5, 600, 500)
    assert word.replicas == (events.Behind(A, 3, 3), events.Behind(C, 1, 1))
    assert bench.fake.trims == [1, 3, 5]
    assert abs(word.instant / 1e9 - time.time()) < 600


async def test_what_everyone_has_applied_goes_without_a_word_also_beyond_the_cap(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, keep=1e6, cap=500)
    for epoch in range(1, 13):
        bench.applied(A, epoch)
        await bench.epochs(1)
    assert bench.fake.trims[-1] == 7
    assert (bench.fake.words, bench.retain.dropped) == ([], ())


async def test_there_is_one_word_for_many_epochs_and_each_trim_has_its_word(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, cap=16_000)
    await bench.epochs(400)
    assert [word.offset for word in bench.fake.words] == bench.fake.trims
    assert bench.fake.done == ["say", "trim"] * len(bench.fake.words)
    assert len(bench.fake.words) == (400 - 160) // 20, "an eighth of the cap goes at once"
    assert 14_000 <= bench.retain.size <= 16_000


async def test_the_eighth_that_goes_besides_takes_nothing_of_one_who_is_within_the_cap(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, B, cap=1600)
    bench.applied(B, 2)
    await bench.epochs(17)
    (word,) = bench.fake.words
    assert bench.fake.trims == [word.offset] == [2], "an eighth would be 3, and B has applied 2"
    assert [one.replica for one in word.replicas] == [A]
    assert bench.retain.dropped == (A.hex()[:8],)


async def test_while_an_epoch_is_open_nothing_is_said_nobody_is_dropped_and_nothing_goes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, cap=300)
    bench.fake.between = False
    await bench.epochs(5)
    assert (bench.fake.done, bench.retain.dropped) == ([], ())
    bench.fake.between = True
    await bench.trim()
    assert bench.fake.done == ["say", "trim"]
    assert bench.retain.dropped == (A.hex()[:8],)


async def test_one_that_was_overtaken_says_nothing_and_lets_nothing_go(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, B, cap=300)
    bench.fake.fenced = Attempt(9)
    bench.applied(A, 9)
    bench.applied(B, 9)
    await bench.epochs(5)
    bench.register(A, FOREIGN)
    await bench.epochs(5)
    assert bench.fake.done == []


async def test_a_process_that_died_before_it_remembered_says_it_once_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, A, cap=500)
    await bench.epochs(6)
    assert bench.fake.trims == [2]
    (tmp_path / FILE).write_text('{"version": 1, "trimmed": 0, "marks": [[1, 100, 0], [6, 600, 50]]}')
    bench.again()
    for _ in range(3):
        await bench.trim()
    first, again = bench.fake.words
    assert (first.offset, again.offset) == (2, 6)
    assert again.replicas == (events.Behind(A, 0, 0),), "nothing is known of it since the producer began"


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
