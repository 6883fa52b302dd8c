"""What a seed is made to go through."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class Plan:
    """What a seed is made to go through."""

    roots: bool = True
    replicas: int = 1
    volumes: int = 2
    ticks: int = 12
    crashes: float = 0.5
    power: float = 0.5
    zombies: float = 0.1
    lost_tails: float = 0.1
    duplicates: float = 0.1
    rewinds: float = 0.1
    resizes: float = 0.1
    plugs: float = 0.05
    "How often the guest is given one more disk, of which it has two more at most."
    restores: float = 0.05
    lost_stores: float = 0.03
    drop: float = 0.0
    fail_flush: float = 0.0
    transient: float = 0.0
    late: float = 0.5
    quota: int = 0
    blocks: int = 10
    "The largest disk to begin with; on small ones every epoch writes what the last one wrote."
    outrun: float = 0.0
    "How often the source goes on without waiting for its replicas, so that several epochs are not settled."
    slow: float = 0.02
    "Seconds that a step of a replica takes at most."
    cap: int = 0
    "Bytes of the stream's log that are kept for a replica that is behind; 0: no history, beyond who answers."
    reverts: float = 0.15
    "How often what changes the guest is a revert to a snapshot."
    live: bool = False
    "The source is read while it runs, and told what changed."

    @classmethod
    def of(cls, chance: random.Random) -> Plan:
        """A plan at random; half of them without roots."""
        some = chance.choice
        return cls(
            roots=chance.random() < 0.5, replicas=some([1, 1, 2]), volumes=some([1, 2]), ticks=some([6, 10, 16]),
            crashes=some([0.2, 0.6, 0.9]), power=some([0.0, 0.5, 1.0]), zombies=some([0.0, 0.2]),
            lost_tails=some([0.0, 0.2]), duplicates=some([0.0, 0.2]), rewinds=some([0.0, 0.2]),
            resizes=some([0.0, 0.2]), plugs=some([0.0, 0.1]), restores=some([0.0, 0.1]),
            lost_stores=some([0.0, 0.0, 0.1]), drop=some([0.0, 0.0, 0.0, 0.02]),
            fail_flush=some([0.0, 0.0, 0.05]), transient=some([0.0, 0.02]),
            quota=some([0, 0, 3000]), blocks=some([2, 10, 10]), outrun=some([0.0, 0.0, 0.8]),
            slow=some([0.02, 0.02, 0.5]), cap=some([0, 0, 300, 1200]), live=some([False, True]),
        )  # fmt: skip
