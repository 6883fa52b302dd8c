"""What a soak came to: a table for people, an object for machines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine import envelope, units
from engine.bus import connect
from schemas import receipts, topics, wire
from tests.support import kafka
from tests.support.soak.meter import Life, Stall, flat, plain
from tests.support.soak.plan import Plan


@dataclass(frozen=True, slots=True)
class Receipts:
    """Epochs that replicas said they had applied, and proved."""

    applied: int
    proved: int


def receipts_of(url: str) -> Receipts:
    """All that lie on the bus."""
    return asyncio.run(_read(url))


async def _read(url: str) -> Receipts:
    bus = await connect.connect(url)
    try:
        records = await kafka.everything(await bus.open(topics.receipts()))
    finally:
        await bus.close()
    found: dict[type, set[tuple[bytes, int]]] = {receipts.Applied: set(), receipts.Verified: set()}
    for frame in map(wire.unpack, records):
        _, said = wire.receipt(frame.kind, envelope.body(frame))
        if isinstance(said, receipts.Applied | receipts.Verified):
            found[type(said)].add((frame.stream, said.position.epoch))
    return Receipts(len(found[receipts.Applied]), len(found[receipts.Verified]))


@dataclass(frozen=True, slots=True)
class Report:
    """Times in seconds, sizes in bytes.  `restarts`: times that jobs of streams were begun again, by side."""

    plan: Plan
    faults: dict[str, int]
    told: int
    warm: float
    came: float
    seconds: float
    writes: int
    written: int
    sent: int
    passed: dict[str, int]
    restarts: dict[str, int]
    receipts: Receipts
    age: float
    worst: tuple[float, str, float]
    stall: Stall
    lives: Sequence[Life]
    wrong: Sequence[str]

    def longest(self, side: str) -> Life:
        return max((life for life in self.lives if life.side == side), key=lambda life: life.length)

    def rows(self) -> list[tuple[str, str]]:
        planned = self.plan
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        memory = []
        for side in ("source", "target"):
            life = self.longest(side)
            early, late, _ = flat(life.samples)
            memory.append(
                (
                    f"{side}, longest life",
                    f"{life.length:.0f} s; resident between faults {units.shown(early)} early,"
                    f" {units.shown(late)} late, at most {units.shown(max(one.resident for one in life.samples))};"
                    f" {100 * life.share:.0f} % of a processor",
                )
            )
        return [
            ("soak", f"{planned.streams} streams, {planned.seconds / 60:g} min, {planned.brokers} brokers,"
             f" seed {planned.seed}, a cut every {planned.every}"),
            ("faults", f"{sum(self.faults.values())}: {faults}"),
            ("written", f"{self.writes:,} writes, {units.shown(self.written)}"),
            ("sent", f"{units.shown(self.sent)}; over the links {_sizes(self.passed)}"),
            ("epochs", f"{self.receipts.applied:,} applied, {self.receipts.proved:,} proved"),
            ("restarts of streams", ", ".join(f"{side} {count}" for side, count in self.restarts.items())),
            ("RPO, without the restless one's", f"median {self.age:.1f} s, worst {_worst(*self.worst)}"),
            ("longest stall of all", f"{self.stall.longest:.0f} s, until {self.stall.ended:.0f} s from the begin"),
            ("first replicas, and equal after the last fault", f"{self.warm:.0f} s, {self.came:.0f} s"),
            *memory,
            ("wrong", "; ".join(self.wrong) or "nothing"),
        ]  # fmt: skip

    def table(self) -> str:
        return "\n".join(f"| {name} | {words} |" for name, words in (("what", "figures"), ("---", "---"), *self.rows()))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"figures": dict(self.rows()), "faults": self.faults, "lives": plain(self.lives), "wrong": self.wrong}


def _worst(seconds: float, name: str, at: float) -> str:
    return f"{seconds:.0f} s ({name}, {at:.0f} s from the begin)"


def _sizes(found: dict[str, int]) -> str:
    return ", ".join(f"{side} {units.shown(size)}" for side, size in found.items())
