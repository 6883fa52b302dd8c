"""Letting go of records, aloud: whose lease ends by it is on the log, durably, before the first of them goes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from producers.pace import Peer
from producers.ship import Shipper
from schemas import events

log = logging.getLogger("vmferry.ship")
EVERY = 1.0
"""Seconds between two looks at what can go, while a pass is under way."""


async def let_go(shipper: Shipper, offset: int, why: events.Why, held: int = 0, cap: int = 0) -> bool:
    """Let go of the records before `offset`, which is behind a seal.  Whose they were comes back by a resync.

    False, and nothing was said or done, where they are gone already, where a newer producer has taken over, and while
    an epoch is open that they would have to be spoken of in.  Raises what the bus does: then nothing was let go of.
    """
    if offset <= shipper.trimmed or shipper.ear.fenced is not None:
        return False
    behind = lagging(shipper, offset)
    if behind:
        # 1. Who has not applied these records is said, and is durable once `say` returns.  A crash before: nothing was
        #    said, nothing is gone.  A failure, also of the sync alone: the same, and perhaps a word without its deed.
        word = events.Lapsed(why, offset, held, cap, time.time_ns(), behind)
        if not await shipper.say(word):
            return False
        names = ", ".join(f"{one.replica.hex()[:8]} (at epoch {one.epoch})" for one in behind)
        log.info("the records before offset %d are let go of (%s); not applied by %s", offset, why.value, names)
    # 2. Only now they go.  A crash between the two leaves the word and the records: the next start finds as much to let
    #    go of, says it in its own name, at most once for each crash, and then they go.  A reader can take a word too
    #    many; what it never meets is a gap that nobody spoke of.
    await shipper.trim_to(offset)
    # 3. What is remembered of it (kept.json) comes last, and is advice.  A crash before: as between 1 and 2.
    return True


def lagging(shipper: Shipper, offset: int) -> tuple[events.Behind, ...]:
    """The registered replicas that have not said that they applied all that lies before `offset`."""
    peers = (shipper.peers.get(replica) or Peer(replica) for replica in shipper.state.peers)
    attempt = shipper.state.attempt
    found = (events.Behind(one.replica, one.applied.epoch, one.passed(attempt)) for one in peers)
    return tuple(one for one in found if one.offset < offset)


async def trim_applied(shipper: Shipper) -> None:
    """Let go of the records that every replica of this attempt has applied: trimming has one owner, the producer.

    It cuts behind a seal.  A replica that did not answer, or whose lease has ended, holds nothing: it comes back by a
    resync, not by history.
    """
    applied = [peer.passed(shipper.state.attempt) for peer in shipper.ear.waited_for()]
    if applied:
        await let_go(shipper, min([shipper.state.offset, *applied]), events.Why.SILENCE)


def while_shipping(shipper: Shipper, trim: Callable[[], Awaitable[None]]) -> None:
    """Have `trim` run between the epochs of a pass, too: a log need not hold all that a long pass sends."""
    due, begun = 0.0, (shipper.state.attempt, shipper.state.offset)

    async def between() -> None:
        nonlocal due, begun
        now, state = asyncio.get_running_loop().time(), shipper.state
        if state.attempt != begun[0]:
            begun = state.attempt, state.offset
        # Until an epoch of this start is on the log, what is known of offsets may be of a log that was lost.
        if now >= due and state.offset != begun[1]:
            due = now + EVERY
            await trim()

    shipper.before_epoch = between
