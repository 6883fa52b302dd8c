"""What can be done to a replica while nothing is applied to it: recover, release, rewind, resume, verify."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace

from consumers import check, held, offline, renew, state
from consumers.check import Finding
from consumers.offline import Offline
from consumers.state import Told
from engine import errors, ports, registry
from engine.bus.reach import reach
from engine.places import Places
from engine.store import peek
from engine.store.replicas import State, Update
from schemas import topics

_BUS_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Done:
    """The state a command left.  `recovered`: pre-images put back; `note`: what its user must hear besides."""

    state: State
    recovered: int = 0
    note: str = ""


async def recover(where: Places, record: registry.Replica, secret_file: str = "") -> Done:
    """Bring a replica back to its last sealed epoch, and end a rewind that was begun.  Repeatable."""
    if record.held == held.RELEASED:
        return Done(_seen(where, record), note="it is released: nothing to recover")
    async with offline.open_replica(where, record, write=True, secret_file=secret_file) as opened:
        unfinished = opened.unfinished()
        count = await opened.replay.recover()
        return Done(opened.replay.state, count, unfinished)


async def release(where: Places, record: registry.Replica, secret_file: str = "") -> Done:
    """Make the image that of its last sealed epoch, and let nobody apply anything to it.  Repeatable.

    Raises Usage when it holds no epoch.
    """
    if record.held == held.RELEASED:
        return Done(_seen(where, record), note="it was released already")
    async with offline.open_replica(where, record, write=True, secret_file=secret_file) as opened:
        count = await opened.replay.recover()
        if not opened.replay.state.position.epoch:
            raise errors.Usage(f"the replica {opened.path} holds no epoch yet: `vmferry replicate` brings it one")
        now = replace(opened.replay.state, held=held.RELEASED)
        # The record first: it outlives a state that is lost, and one of the two is enough to keep everybody off.
        opened.keeper.save(held=held.RELEASED)
        opened.store.commit(Update(now))
        return Done(now, count)


def _seen(where: Places, record: registry.Replica) -> State:
    """Its state, without opening anything: its user may be at the image."""
    return peek.replica(where.replica(record.stream, record.replica) / state.STATE)[0]


async def rewind(where: Places, record: registry.Replica, epoch: int, secret_file: str = "") -> Done:
    """Take a replica back to a kept usable epoch, and hold it there.  An earlier rewind is finished first.

    Raises NotFound for an epoch that is not kept, Damaged for one whose pre-images are not whole, Usage when it is
    released, Divergence when the image is not what its root says afterwards.
    """
    if record.held == held.RELEASED:
        held.refuse(record.held, record.disks[0].path)
    async with offline.open_replica(where, record, write=True, secret_file=secret_file) as opened:
        replay = opened.replay
        count = await replay.recover()
        goal = replay.retention.goal(epoch)
        opened.keeper.save(held=held.REWOUND)
        # Its last step is to say so on the bus, and there is none here: that waits until the image is safe.
        with contextlib.suppress(offline.Unsaid):
            await replay.rewind(goal)
        opened.keeper.save(held=replay.state.held)
        _check_roots(opened)
        note = await publish(opened, record)
        return Done(replay.state, count, note)


def _check_roots(opened: Offline) -> None:
    position = opened.replay.state.position
    if position.roots and position.complete and opened.target.roots() != position.roots:
        raise errors.Divergence(
            f"{opened.path} was rewound to epoch {position.epoch}, and its Merkle root is not that of the epoch:"
            " do not use it.  `vmferry verify` names the blocks that differ"
        )


async def publish(opened: Offline, record: registry.Replica) -> str:
    """Say on the bus what waits in the outbox.  Gives why it could not be said: then the next run says it."""
    waiting = opened.store.outbox()
    if not waiting:
        return ""
    try:
        async with asyncio.timeout(_BUS_SECONDS), contextlib.AsyncExitStack() as stack:
            bus: ports.Bus = await reach(record)
            stack.push_async_callback(bus.close)
            answers = await bus.open(topics.receipts(record.prefix), write=True, shared=True)
            await answers.append([one.record for one in waiting])
            await answers.sync()
    except (errors.FerryError, TimeoutError) as why:
        return f"not said on the bus yet, which the next run does ({why or 'no answer in time'})"
    opened.store.published(waiting[-1].number)
    return ""


async def resume(where: Places, record: registry.Replica, secret_file: str = "") -> Done:
    """Let a rewound replica be applied to again.  Raises Usage for one that is released, or not held at all."""
    if record.held == held.RELEASED:
        held.refuse(record.held, record.disks[0].path)
    async with offline.open_replica(where, record, write=True, secret_file=secret_file) as opened:
        count = await opened.replay.recover()
        now = opened.replay.state
        if not (record.held or now.held):
            raise errors.Usage(f"the replica {opened.path} is not held: `vmferry replicate` goes on with it")
        now = replace(now, held="")
        opened.store.commit(Update(now))
        opened.keeper.save(held="")
        return Done(now, count)


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found.

    `repaired`: the blocks that differ are claimed no more; `dropped`: epochs that can no longer be rewound to for it.
    """

    state: State
    findings: tuple[Finding, ...]
    repaired: bool = False
    dropped: int = 0

    @property
    def bad_blocks(self) -> int:
        return sum(one.bad_blocks for one in self.findings)

    @property
    def equal(self) -> bool:
        """Every block that is claimed is on the medium, and makes the root of the position where it has one."""
        roots = self.state.position.roots
        return not self.bad_blocks and (not roots or tuple(one.root for one in self.findings) == roots)


async def verify(
    where: Places, record: registry.Replica, told: Told, *,
    sha256: bool = False, repair: bool = False, secret_file: str = "",
) -> Verified:  # fmt: skip
    """Read the whole replica from the medium, and compare it with its digests and its root.

    Raises Usage when it has to be recovered first, InUse while something applies.
    """
    async with offline.open_replica(where, record, write=False, secret_file=secret_file) as opened:
        if why := opened.unfinished():
            raise errors.Usage(
                f"the replica {opened.path} is in the middle of something ({why}): run `vmferry recover`"
            )
        before = state.left(record.disks)
        check.drop_cache(record.disks)
        findings = [
            await check.Check(leaves, device, opened.pool, told).run(sha256)
            for leaves, device in zip(opened.target.leaves, opened.target.devices, strict=False)
        ]
        found = Verified(opened.store.load(), tuple(findings))
        if not repair or found.equal:
            return found
        dropped = renew.repair(opened, findings)
        if not found.state.held and state.left(record.disks) == before:
            # What is on the medium is known block by block: the next run need not read it all again.
            opened.keeper.save(left=before)
        return replace(found, repaired=True, dropped=dropped)
