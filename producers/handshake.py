"""The one way to start: raise the attempt, say so, adopt what is in the log, hear the replicas, compare trees.

Every producer starts so, and starts so again whenever a replica says that something is missing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from engine import envelope, ports
from engine.store.blockmap import BlockMap, VolumeMap
from engine.store.stage import Staged
from schemas import errors as schema_errors
from schemas import events, receipts
from schemas.identity import Address, Attempt

log = logging.getLogger("vmferry.ship")
_NODES = 4096
"""Merkle nodes asked for in one question."""
_STEP = 8
"""Levels descended in one round: a difference costs 256 hashes and a third of the round trips."""


Ask = Callable[[bytes, int, int, int, int], Awaitable[tuple[bytes, ...]]]
"""(replica, volume, level, first, count) to its Merkle nodes; repeated by the main loop until it is answered."""


@dataclass(slots=True)
class Seen:
    """What the log up to our own `Started` holds."""

    highest: int = 0
    newer: Attempt | None = None
    generation: int = 0
    seals: dict[tuple[int, Attempt, int], tuple[bytes, int]] = field(default_factory=dict)
    "Seals by identity: (chain, the offset behind it)."
    own: bool = False


async def read_up_to(source: ports.Log, stream: bytes, offset: int, own: Address) -> Seen:
    """Read the log from `offset` to its end.  What cannot be read is passed over: every replica refuses it as well."""
    seen = Seen()
    async for entry in _entries(source, offset):
        try:
            frame, event = envelope.event(entry.data)
        except schema_errors.SchemaError as why:
            log.warning("offset %d on the bus cannot be read: %s", entry.offset, why)
            continue
        if frame.stream != stream:
            continue
        address = frame.address
        seen.highest = max(seen.highest, address.epoch)
        if address.attempt == own.attempt and address.generation == own.generation:
            seen.own = True
        elif (address.generation, address.attempt.counter) >= (own.generation, own.attempt.counter) and isinstance(
            event, events.Started
        ):
            seen.newer, seen.generation = max(seen.newer or address.attempt, address.attempt), address.generation
        if isinstance(event, events.Seal):
            seen.seals[address.generation, address.attempt, address.epoch] = event.chain, entry.offset + 1
    return seen


async def _entries(source: ports.Log, offset: int) -> AsyncIterator[ports.Entry]:
    begin, end = await source.ends()
    at = offset if begin <= offset <= end else begin
    while at < end:
        entries = await source.read(at, 8 << 20, 0)
        if not entries:
            return
        for entry in entries:
            yield entry
        at = entries[-1].offset + 1


def adopt(staged: list[Staged], seen: Seen) -> tuple[list[Staged], int]:
    """The staged epochs whose seals are in the log, up to the first that is not, and the offset behind them."""
    found: list[Staged] = []
    offset = 0
    for one in staged:
        chain, behind = seen.seals.get((one.seal.generation, one.seal.attempt, one.seal.epoch), (b"", 0))
        if chain != one.chain:
            break
        found.append(one)
        offset = behind
    return found, offset


class Comparison:
    """Compares our map with the trees of one replica, over the bus, descending only where they differ."""

    def __init__(self, ask: Ask, replica: bytes) -> None:
        self._ask = ask
        self._replica = replica

    async def run(self, maps: BlockMap, answer: receipts.Answered) -> int:
        """Mark as unsure what this replica does not provably have.  Gives how many blocks were marked."""
        before = maps.missing
        for index, known in enumerate(maps.volumes):
            claim = answer.claims[index] if index < len(answer.claims) else receipts.Claim(0, 0, b"")
            if claim.blocks == 0:
                known.doubt(0, known.volume.blocks)
            elif claim.size != known.volume.size or not claim.root or claim.root != known.leaves.root():
                await self._volume(index, known, claim)
        return maps.missing - before

    async def _volume(self, index: int, known: VolumeMap, claim: receipts.Claim) -> None:
        tree = known.leaves.tree_of(claim.size)
        blocks = tree.volume.blocks
        if claim.size != known.volume.size:
            # What changes its length is claimed no more once the replica follows the size: it has to travel.
            first = min(claim.size, known.volume.size) // known.volume.block_size
            known.doubt(first, known.volume.blocks - first)
        if not blocks:
            return
        level, runs = tree.height, [(0, 1)]
        while runs:
            below: list[tuple[int, int]] = []
            for first, count in runs:
                for at in range(first, first + count, _NODES):
                    size = min(_NODES, first + count - at)
                    theirs = await self._ask(self._replica, index, level, at, size)
                    for node, ours in enumerate(tree.nodes(level, at, size)):
                        one = theirs[node] if node < len(theirs) else b""
                        below += self._differs(known, ours, one, level, at + node, blocks)
            step = min(_STEP, level)
            level -= step
            runs = _spread(below, step, tree.width(level)) if below else []

    def _differs(
        self, known: VolumeMap, ours: bytes, theirs: bytes, level: int, node: int, blocks: int
    ) -> list[tuple[int, int]]:
        """What to look at below one node; marks what is settled here."""
        start = node << level
        count = min(1 << level, blocks - start)
        count = min(count, known.volume.blocks - start)
        if count <= 0 or known.unsure.all(start, count):
            return []
        if theirs == ours and known.known.all(start, count):
            return []
        if level and theirs:
            return [(node, 1)]
        known.doubt(start, count)
        return []


def _spread(nodes: list[tuple[int, int]], step: int, width: int) -> list[tuple[int, int]]:
    """The children `step` levels below these nodes, neighbours together."""
    runs: list[tuple[int, int]] = []
    for first, count in nodes:
        low, high = first << step, min((first + count) << step, width)
        if runs and runs[-1][0] + runs[-1][1] == low:
            runs[-1] = (runs[-1][0], runs[-1][1] + high - low)
        else:
            runs.append((low, high - low))
    return runs
