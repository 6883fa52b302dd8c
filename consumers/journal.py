"""What a replica remembers and says: its stored state, and the outbox of receipts that goes with it.

A receipt is in the same transaction as the state that it speaks of, and leaves the outbox once the bus has it: it may
be said twice, under one number, and is never said of a state that is not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine import ports
from engine.store import replicas
from schemas import events, receipts, wire
from schemas.identity import Address

Defined = tuple[int, events.Defined | None]
"""What an epoch said of the machine, if it did."""


class Journal:
    """State and outbox of one replica.  `unreported` are bytes read since the source was last told of progress."""

    def __init__(self, stream: bytes, store: replicas.ReplicaStore, answers: ports.Log) -> None:
        self.store = store
        self.state = store.load()
        self.unreported = 0
        self._stream = stream
        self._answers = answers
        self._passing: list[bytes] = []
        self._last_read: Address | None = None

    def commit(
        self,
        state: replicas.State,
        said: Sequence[receipts.Receipt] = (),
        keep: tuple[replicas.KeptEpoch, ...] = (),
        rewound: bool = False,
        defined: Sequence[Defined] = (),
    ) -> None:
        """One transaction: the state, kept epochs, receipts about them, and what they say of the machine."""
        number = state.next_receipt
        state = replace(state, next_receipt=number + len(said))
        outgoing = tuple(self.outgoing(number + at, one, state) for at, one in enumerate(said))
        self.store.commit(replicas.Update(state, keep, outgoing, rewound, self._news(defined)))
        self.state = state

    def _news(self, defined: Sequence[Defined]) -> tuple[replicas.Definition, ...]:
        """Those that say anything new: producers repeat themselves at every start, and what they say may be large."""
        found: list[replicas.Definition] = []
        for epoch, said in defined:
            if said is not None and said != (found[-1].said if found else self._definition()):
                found.append(replicas.Definition(epoch, said))
        return tuple(found)

    def _definition(self) -> events.Defined | None:
        """What holds at the stored position."""
        return self.store.definition(self.state.position.epoch)

    def outgoing(self, number: int, receipt: receipts.Receipt, state: replicas.State) -> replicas.Outgoing:
        """A receipt as it waits in the outbox."""
        position = getattr(receipt, "position", state.position)
        about = getattr(receipt, "refused", position.seal)
        sender = receipts.Sender(state.replica, state.nonce, number)
        address = Address(about.generation, about.attempt, about.epoch, 0)
        epoch = position.epoch if isinstance(receipt, receipts.Applied | receipts.Verified | receipts.Rewound) else 0
        return replicas.Outgoing(number, epoch, wire.pack_receipt(self._stream, address, sender, receipt))

    def say(self, about: Address, receipt: receipts.Nodes | receipts.Progress) -> None:
        """Say something with the next `publish` that may be lost: it is asked for again."""
        sender = receipts.Sender(self.state.replica, self.state.nonce, 0)
        self._passing.append(wire.pack_receipt(self._stream, about, sender, receipt))

    def read(self, address: Address, size: int) -> None:
        """A record of `size` bytes was read, admitted or not."""
        self._last_read = address
        self.unreported += size

    async def publish(self) -> None:
        """Put the outbox, answers and progress on the bus; only then is the outbox emptied."""
        last = self._last_read
        if self.unreported and last is not None:
            self.say(last, receipts.Progress(last.attempt, last.epoch, last.seq))
        entries = self.store.outbox()
        records = [one.record for one in entries] + self._passing
        self._passing, self.unreported = [], 0
        if not records:
            return
        await self._answers.append(records)
        await self._answers.sync()
        if entries:
            self.store.published(entries[-1].number)
