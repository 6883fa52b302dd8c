"""The one way to start: say `Started`, read the log up to it, hear where every replica is, and compare digests.

Nothing of an epoch is said here.  What comes of it are the states that the next epoch may be laid on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from engine import errors, ports
from engine.store.sources import SourceState
from producers import handshake
from producers.ear import Ear
from producers.ledger import Ledger
from producers.post import NAP, Post, Settings
from producers.scan import Blocks, Scan
from schemas import events, receipts
from schemas.identity import GENESIS, Address, Attempt, Volume

log = logging.getLogger("vmferry.ship")


class Start:
    """Starts of one producer.  `scan` reads a volume of the source; `expect` are the replicas that are waited for,
    without them those that answered before."""

    def __init__(
        self,
        topic: ports.Log,
        ledger: Ledger,
        ear: Ear,
        post: Post,
        settings: Settings,
        scan: Callable[[int], Scan],
        expect: frozenset[bytes] = frozenset(),
    ) -> None:
        self._log, self._ledger, self._ear, self._post = topic, ledger, ear, post
        self._settings, self._scan, self._expect = settings, scan, expect
        self._request = 0

    @property
    def _state(self) -> SourceState:
        return self._ledger.state

    async def once(self, volumes: tuple[Volume, ...]) -> tuple[events.Fit, ...]:
        """Raise the attempt and find out where everyone is: the states that an epoch may fit.

        Empty where a newer attempt was seen, above which the next one stands.  Raises Restart, and Transient when a
        replica that answered never tells its digests.
        """
        self._ledger.raise_attempt()
        await self._ear.listen(self._state.attempt)
        await self._say_started()
        seen = await handshake.read_up_to(self._log, self._state.stream, self._state.offset, self._address())
        if seen.newer is not None:
            self._ledger.keep(generation=seen.generation, attempt=Attempt(seen.newer.counter))
            return ()
        await self._ledger.take_up(seen, volumes)
        await self._hear_answers()
        if self._ear.fenced is not None:
            self._ledger.keep(attempt=Attempt(self._ear.fenced.counter))
            return ()
        answers = self._ear.close_answers()
        highest = max([self._state.highest, seen.highest, *(one.highest for one in answers.values())])
        self._ledger.keep(highest=highest, peers=tuple(dict.fromkeys((*self._state.peers, *answers))))
        await self.resync(answers)
        self._ear.compared(self._state.chain)
        others = [events.Fit(one.position.chain, one.nonce) for one in answers.values()]
        return (events.Fit(self._state.chain), *others)

    def _address(self) -> Address:
        return Address(self._state.generation, self._state.attempt, 0, 0)

    async def _say_started(self) -> None:
        await self._post.say(self._address(), events.Started(self._state.label, self._state.chain))

    async def _hear_answers(self) -> None:
        """Hear the answers to our `Started`: of all expected replicas, or of those that spoke in time."""
        loop = asyncio.get_running_loop()
        deadline, again = loop.time() + self._settings.answer, loop.time() + self._settings.repeat
        expected = set(self._expect or self._state.peers)
        while loop.time() < deadline and not (self._ear.answered and expected <= self._ear.answered.keys()):
            if loop.time() >= again:
                await self._say_started()
                again = loop.time() + self._settings.repeat
            await self._ear.hear(min(NAP, self._settings.repeat))
            if self._ear.fenced is not None:
                return  # who fences does not answer: the next start stands above it
        for replica in expected - self._ear.answered.keys():
            log.warning("replica %s did not answer within %.0f s", replica.hex()[:8], self._settings.answer)

    async def resync(self, answers: dict[bytes, receipts.Answered]) -> None:
        """Mark as unsure whatever some answering replica does not provably have."""
        known = self._ledger.map
        claimed = any(claim.blocks for one in answers.values() for claim in one.claims)
        if self._state.rebuilding or (self._state.chain == GENESIS and claimed):
            await self._rebuild()
        for replica, answer in answers.items():
            marked = await handshake.Comparison(self._ask, replica).run(known, answer)
            if marked:
                log.info("replica %s differs, or is not proved, in %d blocks", replica.hex()[:8], marked)
        known.sync()

    async def _rebuild(self) -> None:
        """The map is lost, the replicas are not: read the source once for its digests, so that differences travel."""
        log.warning(
            "the source has no map, or lost it: reading the source to compare digests, nothing is copied for it"
        )
        self._ledger.begin_rebuild()
        for index, one in enumerate(self._ledger.map.volumes):
            async with contextlib.aclosing(self._scan(index).unsure()) as walk:
                async for found in walk:
                    if isinstance(found, Blocks):
                        one.put(found.first, found.prints, found.digests, sure=True)
                    else:
                        one.put_zeros(found.first, found.count, sure=True)
        self._ledger.end_rebuild()

    async def _ask(self, replica: bytes, volume: int, level: int, first: int, count: int) -> tuple[bytes, ...]:
        self._request += 1
        request = self._request
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.answer
        while loop.time() < deadline:
            await self._post.say(self._address(), events.Asked(request, replica, volume, level, first, count))
            again = loop.time() + self._settings.repeat
            while loop.time() < again:
                await self._ear.hear(min(NAP, self._settings.repeat))
                self._ear.check()
                if request in self._ear.nodes:
                    return self._ear.nodes.pop(request)
        raise errors.Transient(f"replica {replica.hex()[:8]} did not answer about its digests: is its target running?")
