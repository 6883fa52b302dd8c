"""When a write is answered, under each policy and when what it waits for is slow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from producers.tap.order import Ack, Order
from producers.tap.replies import RETRY, Owed, Replies

FAILED, DONE = b"failed", b"done"


@dataclass
class Connection:
    """Keeps what is sent to it."""

    sent: list[bytes] = field(default_factory=list)
    codec: Any = field(default_factory=lambda: SimpleNamespace(done=lambda cookie: DONE, failed=lambda *rest: FAILED))

    def send(self, data: bytes) -> None:
        self.sent.append(data)


class Scene:
    """Replies over a spool that is what a test says it is; `now` is the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ack: Ack) -> None:
        self.now = 100.0
        monkeypatch.setattr("producers.tap.replies.time.monotonic", lambda: self.now)
        self.spool = SimpleNamespace(number=0, durable=0)
        order = Order(Path("/s"), Path("/n"), Path("/c"), {"vda": 512}, ack, limit=0.5)
        self.replies = Replies(order, self.spool)  # type: ignore[arg-type]
        self.client = Connection()

    def owe(self, number: int, strict: bool = False) -> None:
        self.replies.owe(
            Owed(self.client, b"" if strict else b"%d" % number, number, self.now, (7,) if strict else ())  # type: ignore[arg-type]
        )

    def after(self, **changed: int) -> list[bytes]:
        """What was sent by the time the spool or the bus has come so far."""
        if "bus" in changed:
            self.replies.bus(changed.pop("bus"))
        vars(self.spool).update(changed)
        self.replies.answer()
        return self.client.sent

    def later(self, seconds: float) -> float | None:
        self.now += seconds
        return self.replies.tick(self.now)


def test_memory_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Ack.MEMORY)
    scene.owe(3)
    assert scene.after() == [b"3"]


def test_spool_answers_once_it_is_appended(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Ack.SPOOL)
    scene.owe(3)
    assert scene.after(number=2) == []
    assert scene.after(number=3) == [b"3"]


def test_fsync_answers_once_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Ack.FSYNC)
    scene.owe(3)
    scene.owe(5)
    assert scene.after(number=5) == []
    assert scene.after(durable=4) == [b"3"]
    assert scene.after(durable=5) == [b"3", b"5"]


def test_bus_answers_once_it_is_there_and_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Ack.BUS)
    scene.owe(3)
    assert scene.after(number=3, durable=3) == []
    assert scene.after(bus=3) == [b"3"]


@pytest.mark.parametrize("ack", list(Ack))
def test_a_flush_waits_for_the_medium_under_every_policy(monkeypatch: pytest.MonkeyPatch, ack: Ack) -> None:
    scene = Scene(monkeypatch, ack)
    scene.owe(3, strict=True)
    assert scene.after(number=3) == []
    assert scene.later(60) is None
    assert scene.after(durable=3) == [DONE]
    assert scene.replies.fallen == ""


@pytest.mark.parametrize(
    ("ack", "durable", "slow"), [(Ack.FSYNC, 2, "the spool's medium"), (Ack.BUS, 3, "the bus"), (Ack.BUS, 0, "medium")]
)
def test_what_takes_too_long_lets_the_policy_fall(
    monkeypatch: pytest.MonkeyPatch, ack: Ack, durable: int, slow: str
) -> None:
    scene = Scene(monkeypatch, ack)
    scene.owe(3)
    scene.owe(3, strict=True)
    assert scene.after(number=3, durable=durable) == [DONE][: durable == 3]
    assert scene.later(0.3) == pytest.approx(0.2)
    assert b"3" not in scene.client.sent
    assert scene.later(0.2) is None
    assert b"3" in scene.client.sent
    assert scene.replies.policy is Ack.SPOOL
    assert slow in scene.replies.fallen
    scene.owe(4)
    assert scene.after(number=4)[-1] == b"4"
    assert scene.replies.slowest == pytest.approx(0.5)


def test_a_policy_that_fell_comes_back_once_it_would_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Ack.FSYNC)
    scene.owe(3)
    scene.after(number=3)
    scene.later(0.6)
    assert scene.replies.fallen
    scene.later(RETRY)
    scene.later(1)
    assert scene.replies.fallen  # what was there a while ago is not durable yet
    scene.after(durable=3, number=9)
    scene.later(1)
    assert not scene.replies.fallen
    scene.owe(9)
    assert b"9" not in scene.after()


def test_a_broken_replica_answers_writes_and_fails_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Ack.FSYNC)
    scene.owe(3)
    scene.owe(4, strict=True)
    scene.after(number=3)
    scene.replies.broke()
    assert scene.after() == [b"3", FAILED]
