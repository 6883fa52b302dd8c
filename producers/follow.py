"""A source in a daemon: cut after cut for any number of replicas, for as long as it is asked to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from engine import errors
from engine.daemon.age import Age
from engine.daemon.job import Job
from producers import lease
from producers.retain import Retain
from producers.site import Site
from schemas.identity import Attempt, Cut

log = logging.getLogger("vmferry.ship")
SILENCE = 10.0
"""Seconds without a word of a replica that is behind, after which an empty epoch asks for one."""
UNSEEN = 3600.0
"""Seconds after which a source is read again that says it has not changed."""
_NAP = 30.0
_MUCH = 256 << 20


class Follow:
    """One opened source, followed.  `at_once` bounds how many streams of a daemon send much at one time."""

    def __init__(
        self, site: Site, every: float, retain: Retain, at_once: asyncio.Semaphore, job: Job, news: Callable[[], None]
    ) -> None:
        self.site, self.every, self.retain = site, every, retain
        self._shipper = site.shipper
        self._at_once, self._job, self._news = at_once, job, news
        self._due = 0.0
        self._looked = -UNSEEN
        self._asked = 0.0
        self._ages: dict[bytes, Age] = {}
        lease.while_shipping(site.shipper, self._trim)

    async def _trim(self) -> None:
        await self.retain.trim(self._shipper, asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Until the job is to stop.  Raises what `ship` does; then open the site anew."""
        shipper = self._shipper
        if shipper.state.peers or await shipper.history():
            # Also with a state that was lost: who has read this log before answers, and is known again.
            self._job.note("running", "comparing with its replicas")
            await shipper.start()
        loop = asyncio.get_running_loop()
        while not self._job.stopping.is_set():
            if not shipper.state.peers:  # none has come yet, or the last was forgotten
                if not await self._somebody():
                    return
                await shipper.start()
                continue
            if self._shipper.ear.wants_start or loop.time() >= self._due:
                self._due = loop.time() + self.every
                await self._pass()
            self._let_leave()
            await self._ask_if_silent()
            await self._trim()
            await self._job.nap(_NAP, self._shipper.hear(self._pause()))

    def _let_leave(self) -> None:
        """Forget replicas that their sites gave up: nothing is kept for them."""
        left, self._shipper.ear.left = self._shipper.ear.left, set()
        for replica in left & set(self._shipper.state.peers):
            self.forget(replica)

    def forget(self, replica: bytes) -> None:
        """Wait for this replica no more, and keep nothing for it.  Should it speak again, it is new."""
        shipper = self._shipper
        shipper.ear.peers.pop(replica, None)
        shipper.ledger.keep(peers=tuple(one for one in shipper.state.peers if one != replica))
        log.info("replica %s is waited for no more", replica.hex()[:8], extra={"stream": self._job.label})

    def cut_now(self) -> None:
        """Make the next cut at once."""
        self._due = 0.0
        self._job.wake()

    def _pause(self) -> float:
        left = self._due - asyncio.get_running_loop().time()
        return max(0.0, min(left, _NAP if self._shipper.settled() else 1.0))

    async def _somebody(self) -> bool:
        """Wait until there is a replica, so that nothing is sent to nobody.  False when told to stop before."""
        ear = self._shipper.ear
        self._job.note("waiting", "no target has taken this stream yet")
        await ear.listen(Attempt(0))
        ear.peers.clear()
        while not ear.peers:
            await self._job.nap(_NAP, self._shipper.hear(_NAP))
            if self._job.stopping.is_set():
                return False
        return True

    async def _pass(self) -> None:
        loop, shipper = asyncio.get_running_loop(), self._shipper
        if await self._unchanged():
            return
        async with self._turn():
            self._job.note("running", "reading the source")
            self._looked = loop.time()
            self.retain.refuse(shipper, await self.site.source.data())
            await shipper.ship()
        self._news()
        if shipper.state.epoch and shipper.last_cut is Cut.NONE:
            self._job.note("running", "its source changed while it was read: that cut is not consistent")
            return
        await self._unchanged()
        self._job.note("running", "")

    def _turn(self) -> contextlib.AbstractAsyncContextManager[object]:
        """Much to send takes its turn, as it takes memory for hours; a change goes past it."""
        missing = sum(one.unsure.count * one.volume.block_size for one in self._shipper.map.volumes)
        return self._at_once if missing > _MUCH else contextlib.nullcontext()

    async def _unchanged(self) -> bool:
        """Whether the source is what the last epoch says, as far as can be seen; then that epoch is as new as now."""
        shipper, now = self._shipper, asyncio.get_running_loop().time()
        whole = shipper.current is not None and shipper.current[0] == shipper.state.epoch and not shipper.map.missing
        if shipper.ear.wants_start or not whole or not await self.site.source.same():
            return False
        shipper.current = shipper.state.epoch, now
        for replica in shipper.state.peers:
            self._age(replica).heard(shipper.state.epoch, 0.0, now)
        return now - self._looked < UNSEEN

    def _age(self, replica: bytes) -> Age:
        return self._ages.setdefault(replica, Age())

    def rpo(self, replica: bytes) -> float | None:
        """Seconds since the source was what this replica has applied; None where that is not known."""
        now, shipper = asyncio.get_running_loop().time(), self._shipper
        if shipper.current is not None:
            self._age(replica).heard(shipper.current[0], now - shipper.current[1], now)
        peer = shipper.peers.get(replica)
        return self._age(replica).of(peer.applied.epoch if peer is not None else 0, now)

    async def _ask_if_silent(self) -> None:
        """An empty epoch, when a replica that is behind has said nothing for long: a lost tail is noticed."""
        shipper, now = self._shipper, asyncio.get_running_loop().time()
        peers = shipper.ear.waited_for()
        if not peers or shipper.settled():
            return
        if now - max(self._asked, *(peer.heard for peer in peers)) > SILENCE:
            self._asked = now
            try:
                await shipper.nudge()
            except errors.InUse as why:
                log.info("%s", why)  # the next cut says it, where it matters
            shipper.ear.lapse(shipper.settings.lease, now - shipper.settings.lease)
