"""The replica's main loop: read, admit, apply, settle.  `settle` is the one law; recovery is how every start begins.

What a crash leaves is written after each step.  All of it rests on three facts: pre-images are durable before the
first write of an epoch to a block; the position, and where its pre-images end, change in one transaction; and nothing
is said on the bus that is not in that transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from consumers.block import Target, Touched
from consumers.journal import Journal
from consumers.reader import Reader, Record, Unreadable
from consumers.retention import Retention
from engine import errors, ports, replica
from engine.store import replicas
from schemas import events, receipts
from schemas.identity import Address, Attempt

log = logging.getLogger("vmferry.replay")


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be tuned.  Bytes."""

    group: int = 64 << 20
    "Sealed epochs are settled together up to this much data: one flush and one transaction for all of them."
    progress: int = 16 << 20
    "How much is read between two words to the source about it: bounds its in-flight window from below."
    keep: int = 16
    "Usable epochs that can be rewound to; older pre-images are let go."
    remind: float = 5.0
    "Seconds after which a held replica says again why, while epochs go by."
    undo_quota: int = 0
    "Bytes that pre-images of kept epochs may take; the oldest epochs are let go first. 0: no bound."


@dataclass(slots=True)
class Waiting:
    """A sealed epoch that is not settled yet."""

    position: receipts.Position
    touched: Touched
    undo_end: int


class Replay:
    """One replica on its way along one log.

    `recover` first; then `step` for ever.  Any FerryError from either ends the run: make a new object over the same
    stores and recover.  Nothing is cleaned up on the way out, because after a crash nothing would be.
    """

    def __init__(
        self,
        stream: bytes,
        reader: Reader,
        answers: ports.Log,
        target: Target,
        store: replicas.ReplicaStore,
        settings: Settings | None = None,
        offload: ports.Offload = ports.inline,
    ) -> None:
        self.stream = stream
        self.settings = settings or Settings()
        self.target = target
        self.journal = Journal(stream, store, answers)
        self.retention = Retention(self.journal, target.undo, self.settings.keep, self.settings.undo_quota)
        self.replica = self._fresh()
        self.reader = reader
        self._offload = offload
        self._touched: Touched | None = None
        self._changes: list[events.Written | events.Zeroed] = []
        self._waiting: list[Waiting] = []
        self._refused_at = 0.0

    @property
    def state(self) -> replicas.State:
        """As it is stored."""
        return self.journal.state

    @property
    def store(self) -> replicas.ReplicaStore:
        return self.journal.store

    def _fresh(self) -> replica.Replica:
        state = self.state
        return replica.Replica(state.nonce, state.position, state.generation, state.fence)

    # -- recovery ------------------------------------------------------------------------------------------------

    async def recover(self) -> int:
        """Bring the disk to the stored position, without bus or source.  Gives how many pre-images were put back.

        Raises DeviceFailed, Full, Damaged; may be stopped anywhere and called again.
        """
        intent = self.state.intent
        if intent is not None:
            if (at := self.retention.whole(intent)) is not None:
                raise errors.Damaged(f"the undo log is damaged at byte {at:,}, and a rewind was on its way over it")
            await self._finish_rewind(intent)
        state, undo = self.state, self.target.undo
        start = max(state.undo_end, undo.begin)
        undo.begin = max(undo.begin, min([start, *(one.end for one in self.store.kept())]))
        self.target.load(state.position.volumes)
        # Whatever stands beyond the last stored end belongs to epochs that never settled: newest first, so that the
        # oldest pre-image of a block is the one that stays.  A crash here: the same records are there for the next.
        count = await self.target.restore(start, state.position.volumes)
        await self.target.flush()
        await self.target.read_back([])
        # Only now, with the old bytes durable, may the records go.  A crash before: they are put back once more.
        await self._offload(undo.truncate, start)
        await self.target.fit()
        self.replica = self._fresh()
        self._waiting, self._changes, self._touched = [], [], None
        return count

    async def locate(self) -> None:
        """Find the position in the log by the identity of its seal, and read on behind it; else from the begin."""
        for kept in [self.state.position, *(one.position for one in reversed(self.store.kept()))]:
            if kept.epoch and await self.reader.holds(kept.offset - 1, kept):
                self.reader.seek(kept.offset)
                return
        self.reader.seek(await self.reader.begin())

    # -- the loop ------------------------------------------------------------------------------------------------

    async def step(self, wait: float) -> int:
        """Handle what the log holds next, waiting up to `wait` seconds for it.  Gives how many records there were.

        What is sealed is settled before it waits.
        """
        records = await self.reader.next(0)
        if not records:
            await self.settle()
            await self.journal.publish()
            if wait:  # who does not wait comes back, and has no need to ask the bus twice
                records = await self.reader.next(wait)
        for record in records:
            await self._handle(record)
        await self._flush_changes()
        if self.journal.unreported >= self.settings.progress:
            await self.journal.publish()
        return len(records)

    async def ask(self, reason: str) -> None:
        """Ask whoever produces for a new start: there is something that we lack."""
        nobody = Address(0, Attempt(0), 0, 0)
        self.journal.commit(self.state, (receipts.Gap(nobody.seal, self.state.position, reason),))
        await self.journal.publish()

    async def _handle(self, record: Record) -> None:
        address, event = record.address, record.event
        if isinstance(event, Unreadable):
            await self._refuse(receipts.Gap(address.seal, self.state.position, event.reason), hold=True)
            return
        if isinstance(event, events.Word):
            # Wherever it stands: how far we have read in an epoch stays our last word, and its changes go on gathering.
            if isinstance(self.replica.admit(address, event, record.print_), replica.Hear):
                self._hear(event)
            return
        self.journal.read(address, record.size)
        decision = self.replica.admit(address, event, record.print_)
        if isinstance(decision, replica.Apply):
            self._changes.append(decision.change)
            return
        await self._flush_changes()
        match decision:
            case replica.Begin(opened):
                self._touched = await self.target.begin(opened)
            case replica.Define(definition) if self._touched is not None:
                self._touched.definition = definition
            case replica.Sealed() if self._touched is None:
                return  # what was settled before its last changes was not on the medium: all of it was taken back
            case replica.Sealed(position):
                await self._sealed(replace(position, offset=record.offset + 1))
            case replica.Restart():
                await self._restart()
            case replica.Answer(question):
                self._answer(address, question)
            case replica.Refuse(receipt, hold):
                await self._refuse(receipt, hold)
            case replica.Skip() if isinstance(event, events.Open):
                await self._still_held(address)

    async def _flush_changes(self) -> None:
        changes, self._changes = self._changes, []
        if not changes:
            return
        assert self._touched is not None
        if any(self.target.over(changes, one.touched) for one in self._waiting):
            # A block is read back before it is overwritten: what a medium dropped would become a pre-image, and what
            # was never there could be gone back to.
            await self.settle()
            if self._touched is None:
                return
        try:
            await self.target.apply(changes, self._touched)
        except errors.Full:
            await self.settle()
            await self._squeeze_in(changes)

    async def _squeeze_in(self, changes: Sequence[events.Written | events.Zeroed]) -> None:
        """Apply what found no room: what is settled gave some back, and kept epochs do, one after the other."""
        while self._touched is not None:  # it is, unless what was settled was not on the medium
            try:
                await self.target.apply(changes, self._touched)
                return
            except errors.Full:
                if not self.retention.give_up_oldest():
                    raise

    async def _sealed(self, position: receipts.Position) -> None:
        assert self._touched is not None
        self.replica.tip = position
        self._waiting.append(Waiting(position, self._touched, self.target.undo.end))
        self._touched = None
        if position.roots or sum(one.touched.size for one in self._waiting) >= self.settings.group:
            await self.settle()

    async def _restart(self) -> None:
        """A newer attempt: the open epoch will never be sealed.  Answer from a settled state and nothing else."""
        await self._abandon()
        await self.settle()
        state = self.state
        claims = tuple(leaves.claim() for leaves in self.target.leaves)[: len(state.position.volumes)]
        fence = self.replica.fence
        answer = receipts.Answered(fence, state.position, state.nonce, self.replica.highest, claims)
        self.journal.commit(replace(state, generation=self.replica.generation, fence=fence), (answer,))
        await self.journal.publish()

    async def _abandon(self) -> None:
        """Take the open epoch back.  Its pre-images stay in the log: only recovery truncates, once it has flushed."""
        touched, self._touched = self._touched, None
        self._changes = []
        if touched is not None:
            volumes = self._waiting[-1].position.volumes if self._waiting else self.state.position.volumes
            await self.target.restore(touched.undo_start, volumes)

    async def _refuse(self, receipt: receipts.Gap | receipts.Diverged | receipts.Fenced, hold: bool) -> None:
        """Settle what is sealed, take back what is open, and say why nothing goes on."""
        if hold:
            self.replica.hold(getattr(receipt, "reason", ""))
            await self._abandon()
            await self.settle()
            log.warning("%s at %s: %s", type(receipt).__name__, receipt.refused, getattr(receipt, "reason", ""))
        await self._say_refusal(receipt)

    async def _say_refusal(self, receipt: receipts.Gap | receipts.Diverged | receipts.Fenced) -> None:
        self._refused_at = asyncio.get_running_loop().time()
        self.journal.commit(self.state, (replica.with_position(receipt, self.state.position),))
        await self.journal.publish()

    async def _still_held(self, address: Address) -> None:
        """Say once more, now and then, that we are held while epochs go by: the first word may have been lost."""
        loop = asyncio.get_running_loop()
        if self.replica.held is not None and loop.time() - self._refused_at > self.settings.remind:
            await self._say_refusal(receipts.Gap(address.seal, self.state.position, self.replica.held))

    def _answer(self, address: Address, question: events.Asked) -> None:
        if question.replica != self.state.replica or question.volume >= len(self.target.leaves):
            return
        leaves = self.target.leaves[question.volume]
        if question.level > leaves.tree.height or question.first >= leaves.tree.width(question.level):
            return  # asked of a state that was lost since: the source hears our new answer and starts again
        nodes = leaves.nodes(question.level, question.first, question.count)
        self.journal.say(address, receipts.Nodes(question.request, nodes))

    def _hear(self, word: events.Word) -> None:
        """Tell whoever reads our log.  Nothing else: what is gone is noticed as a gap."""
        if isinstance(word, events.Stepped):
            log.info("the source is captured by %s from here on: %s", word.rung.value, word.reason)
            return
        state = self.state
        if word.offset > state.position.offset and any(one.replica == state.replica for one in word.replicas):
            log.warning(
                "the source lets go of the records below offset %d, which this replica has not applied (%s): it is at"
                " epoch %d, and will be healed by comparing digests", word.offset, word.why.value, state.position.epoch,
            )  # fmt: skip

    # -- the law -------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Make sealed epochs ours: medium, then position, then word of it, in this order and no other."""
        if not self._waiting:
            await self._confirm_restored()
            return
        waiting = list(self._waiting)
        last = waiting[-1]
        # 1. Bytes of all devices and their digests are durable.  A crash here: the position is the old one, and the
        #    pre-images of all this are durable, so recovery takes it back.  A failed flush ends the run.
        await self.target.flush()
        # 2. The medium holds what the events said: from the medium, not from a cache.
        proved = await self._verified(waiting)
        if proved is None:
            return
        # 3. One transaction: where we are, which pre-images belong to which epoch, what the machine is, what will be
        #    said.  A crash before it changes nothing; a crash after it finds a position that the disk already equals.
        kept = [
            replicas.KeptEpoch(one.position, one.touched.undo_start, one.undo_end)
            for one in waiting
            if one.position.usable
        ]
        defined = [(one.position.epoch, one.touched.definition) for one in waiting]
        said: list[receipts.Receipt] = [receipts.Applied(one.position) for one in waiting]
        if proved:
            said.append(receipts.Verified(last.position))
        now = replicas.at(self.state, last.position, last.undo_end)
        self.journal.commit(now, said, keep=tuple(kept), defined=defined)
        self._waiting = []
        self.replica.settled = last.position
        # Space goes back only now: a crash before this leaves zeros that are allocated, or bytes that no volume has.
        await self.target.give_back([one.touched for one in waiting], self._touched)
        if self._touched is None:
            await self.target.fit()
        # 4. and 5. Say it.  A crash here says it again: receipts carry their number.
        await self.journal.publish()
        # 6. Let go of pre-images that no kept epoch needs: never before step 3, never at or beyond the position.
        self.retention.trim()

    async def _confirm_restored(self) -> None:
        """What was taken back is on the medium too.  A Divergence here ends the run: recovery takes it back again."""
        if self.target.restored:
            await self.target.flush()
            await self.target.read_back([])

    async def _verified(self, waiting: Sequence[Waiting]) -> bool | None:
        """Read back and compare; True when both sides' roots are known and equal; None when it all was taken back."""
        last = waiting[-1].position
        try:
            await self.target.read_back([one.touched for one in waiting], self._touched)
            if self._touched is not None or not last.roots:
                return False
            if not last.complete or self.target.roots() == last.roots:
                return last.complete
            raise errors.Divergence(f"{last.seal}: our Merkle root is not the one that its seal names")
        except errors.Divergence as why:
            await self._diverged(last, str(why))
            return None

    async def _diverged(self, refused: receipts.Position, reason: str) -> None:
        """The medium is not what the log says: back to the stored position, and say so."""
        self._waiting, self._touched, self._changes = [], None, []
        state = self.state
        self.target.restored.clear()
        await self.target.restore(state.undo_end, state.position.volumes)
        await self._confirm_restored()
        self.replica.back_to(state.position)
        self.replica.hold(reason)
        log.error("diverged at %s: %s", refused.seal, reason)
        await self._say_refusal(receipts.Diverged(refused.seal, state.position, reason))

    # -- rewind --------------------------------------------------------------------------------------------------

    async def rewind(self, goal: replicas.KeptEpoch) -> receipts.Position:
        """Take the replica back to a kept epoch, one that `retention.goal` gave, and hold it there.  Recover first."""
        # The intent first: from here on every start finishes this rewind before anything else.
        self.journal.commit(replace(self.state, intent=goal))
        await self._finish_rewind(goal)
        await self.journal.publish()
        return self.state.position

    async def _finish_rewind(self, goal: replicas.KeptEpoch) -> None:
        was = self.state.position.epoch
        self.target.load(self.state.position.volumes)
        await self.target.restore(goal.end, goal.position.volumes)
        await self.target.flush()
        await self.target.read_back([])
        # Position and intent in one transaction, with every word about a later state taken out of the outbox, and with
        # what later epochs said of the machine.  Before it a crash starts this function again, over the same records;
        # after it the records beyond are nobody's.
        state = replicas.at(self.state, goal.position, goal.end)
        state = replace(state, intent=None, held=f"rewound from epoch {was}")
        self.journal.commit(state, (receipts.Rewound(goal.position, was),), rewound=True)
        await self._offload(self.target.undo.truncate, goal.end)
        await self.target.fit()
        self.replica = self._fresh()
