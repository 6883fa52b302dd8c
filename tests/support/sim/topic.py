"""The bus of the simulator: what is said on it, and what is let go of, the oracle hears."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from engine import ports
from engine.bus.memory import Topic
from tests.support.sim.oracle import Oracle


class WatchedTopic(Topic):
    """A topic that tells the oracle what it holds, and says some things twice: `duplicating`, in 1."""

    def __init__(self, oracle: Oracle, chance: random.Random, duplicating: Callable[[], float]) -> None:
        super().__init__()
        self._oracle, self._chance, self._duplicating = oracle, chance, duplicating

    def add(self, records: Any) -> None:
        records = list(records)
        if records and self._chance.random() < self._duplicating():
            records += records[-self._chance.randrange(1, len(records) + 1) :]
        super().add(records)
        for record in records:
            self._oracle.said(record)


class SimLog:
    """The stream's log as its producer sees it; `watch` hears of every trim before it is made."""

    def __init__(self, log: ports.Log, watch: Callable[[int], None]) -> None:
        self._log, self._watch = log, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def trim(self, offset: int) -> None:
        self._watch(offset)
        await self._log.trim(offset)
