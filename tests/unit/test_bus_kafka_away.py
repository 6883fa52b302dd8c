"""What is said of a cluster that did not do what it was asked."""

from __future__ import annotations

import pytest

from engine import errors
from engine.bus.kafka import probe
from engine.bus.kafka.access import Access
from engine.bus.kafka.admin import Admin
from engine.bus.security import PLAIN

ONE, OTHER = "127.0.0.1:1", "127.0.0.1:2"
GONE = errors.Transient("nothing listens at 127.0.0.1:2")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({ONE: None, OTHER: GONE}, "Kafka is away: 1 of 2 brokers answer: nothing listens at 127.0.0.1:2; too late"),
        ({ONE: None, OTHER: None}, "Kafka did not do what it was asked (too late), and 2 of 2 brokers answer"),
    ],
)
async def test_a_cluster_whose_brokers_all_answer_by_now_is_not_called_away(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, errors.FerryError | None], words: str
) -> None:
    async def reach(*_: object) -> dict[str, errors.FerryError | None]:
        return found

    monkeypatch.setattr(probe, "reach", reach)
    admin = Admin(Access([ONE, OTHER], PLAIN), 1)
    try:
        assert str(await admin.unreachable("too late")) == words
    finally:
        await admin.close()
