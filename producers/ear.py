"""What a producer hears: the receipts of its stream's replicas, and what they ask of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from engine import envelope, errors, ports
from producers.pace import Peer, Window
from schemas import errors as schema_errors
from schemas import receipts, wire
from schemas.identity import Address, Attempt, Chain

log = logging.getLogger("vmferry.ship")
_WHOLE = 1 << 62
"""Beyond the seq of every record of an epoch."""


class Restart(Exception):
    """A replica needs a new `Started`; what is open is left behind."""


class Ear:
    """Hears one stream's receipts.  `peers` are all replicas ever heard; `heard` is told of each receipt."""

    def __init__(self, stream: bytes, label: str, answers: ports.Log) -> None:
        self.peers: dict[bytes, Peer] = {}
        self.heard: Callable[[bytes, receipts.Receipt], None] = lambda _replica, _receipt: None
        self.window = Window()
        self.answered: dict[bytes, receipts.Answered] = {}
        self.nodes: dict[int, tuple[bytes, ...]] = {}
        self.fenced: Attempt | None = None
        self.wants_start: dict[bytes, str] = {}
        self.left: set[bytes] = set()
        "Replicas that are no more, until their producer has forgotten them."
        self._stream, self._label, self._answers = stream, label, answers
        self._attempt = Attempt(0)
        self._upto = 0
        self._welcome: frozenset[tuple[bytes, bytes]] | None = None
        "(chain, nonce) of the answers that were compared; None while answers are being heard."
        self._own: Chain | None = None

    async def listen(self, attempt: Attempt) -> None:
        """Hear a new attempt from here on: nothing said before counts."""
        self._upto = (await self._answers.ends())[1]
        self._attempt, self._welcome, self._own = attempt, None, None
        self.answered, self.wants_start, self.fenced, self.nodes = {}, {}, None, {}
        self.window = Window()
        for peer in self.peers.values():
            peer.answered, peer.read = False, (0, 0)

    def close_answers(self) -> dict[bytes, receipts.Answered]:
        """The answers that count.  From here on one is late: it fits only if it is like one of these, or `own`."""
        answers = dict(self.answered)
        self._welcome = frozenset((bytes(one.position.chain), one.nonce) for one in answers.values())
        return answers

    def compared(self, own: Chain) -> None:
        """The answers were compared with the map, whose chain is `own`."""
        self._own = own

    async def hear(self, wait: float) -> None:
        """Take in the receipts that there are, waiting up to `wait` seconds for the first."""
        try:
            entries = await self._answers.read(self._upto, 4 << 20, wait)
        except errors.OffsetGone as gone:
            log.warning("receipts were lost on the bus: %s", gone)
            self._upto = gone.begin if self._upto < gone.begin else gone.end
            return
        for entry in entries:
            self._upto = entry.offset + 1
            try:
                frame = wire.unpack(entry.data)
                if frame.stream == self._stream:
                    self._take(frame.address, *wire.receipt(frame.kind, envelope.body(frame)))
            except schema_errors.SchemaError as why:
                log.warning("a receipt at offset %d cannot be read: %s", entry.offset, why)

    def check(self) -> None:
        """Raise what receipts asked for: Fenced, or Restart."""
        if self.fenced is not None:
            raise errors.Fenced(
                f"another producer has taken over stream {self._label}: attempt {self.fenced} is newer than "
                f"{self._attempt}.  Stop one of the two"
            )
        for replica, reason in self.wants_start.items():
            raise Restart(f"replica {replica.hex()[:8]}: {reason}")

    def waited_for(self) -> list[Peer]:
        """The replicas that answered this attempt, and have not been silent for too long."""
        return [peer for peer in self.peers.values() if peer.answered and not peer.lapsed]

    def lapse(self, lease: float, since: float) -> None:
        """End the lease of replicas that were silent for `lease` seconds, counted from `since` at the earliest."""
        now = asyncio.get_running_loop().time()
        for peer in self.waited_for():
            if now - max(since, peer.heard) > lease:
                peer.lapsed = True
                log.warning("replica %s is silent: nothing waits for it any more", peer.replica.hex()[:8])

    def _take(self, about: Address, sender: receipts.Sender, receipt: receipts.Receipt) -> None:
        peer = self.peers.setdefault(sender.replica, Peer(sender.replica))
        peer.nonce, peer.heard = sender.incarnation, asyncio.get_running_loop().time()
        match receipt:
            case receipts.Answered() if receipt.attempt == self._attempt:
                self._take_answer(sender, peer, receipt)
            case receipts.Nodes(request, nodes) if about.attempt == self._attempt:
                self.nodes[request] = nodes
            case receipts.Progress():
                self.window.note(peer, self._attempt, receipt)
                peer.lapsed = False
            case receipts.Applied(position):
                peer.applied = position
                if position.attempt == self._attempt:
                    # What is applied was read: its own word of that may have died with the process that read it.
                    peer.read = max(peer.read, (position.epoch, _WHOLE))
            case receipts.Verified(position):
                peer.verified = position
            case receipts.Gap(refused, _, reason) | receipts.Diverged(refused, _, reason):
                if refused.attempt == self._attempt or not refused.attempt.counter:
                    self.wants_start[sender.replica] = reason
            case receipts.Fenced(refused, _, highest):
                if refused.attempt == self._attempt and highest.counter >= self._attempt.counter:
                    self.fenced = highest
            case receipts.Left():
                self.left.add(sender.replica)
                self.wants_start.pop(sender.replica, None)
                self.peers.pop(sender.replica, None)
            case receipts.Rewound():
                self.wants_start[sender.replica] = "it was rewound"
        self.heard(sender.replica, receipt)

    def _take_answer(self, sender: receipts.Sender, peer: Peer, answer: receipts.Answered) -> None:
        peer.answered, peer.lapsed = True, False
        peer.applied = answer.position
        if self._welcome is None:
            # What it asked for before it answered, this start gives it.
            self.wants_start.pop(sender.replica, None)
            self.answered[sender.replica] = answer
            return
        position = answer.position
        known = (bytes(position.chain), answer.nonce) in self._welcome or position.attempt == self._attempt
        if not known and position.chain != self._own:
            self.wants_start[sender.replica] = "it answered late, from a state that was not compared"
