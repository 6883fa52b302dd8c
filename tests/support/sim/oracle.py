"""What must be true, kept by the plainest means: whole contents in memory, applied event by event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine import envelope
from engine.store.replicas import Outgoing, Update
from schemas import errors, events, wire
from schemas.identity import Address, Attempt, SealId, Volume
from schemas.receipts import Answered, Applied, Position


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Content:
    """Bytes of all volumes, which of them a sealed epoch has ever written, and what the machine was said to be."""

    volumes: list[bytearray] = field(default_factory=list)
    covered: list[bytearray] = field(default_factory=list)
    machine: events.Defined | None = None

    def copy(self) -> Content:
        volumes, covered = ([bytearray(one) for one in side] for side in (self.volumes, self.covered))
        return Content(volumes, covered, self.machine)

    def resize(self, volumes: tuple[Volume, ...]) -> None:
        for index, volume in enumerate(volumes):
            if index == len(self.volumes):
                self.volumes.append(bytearray())
                self.covered.append(bytearray())
            for side in (self.volumes[index], self.covered[index]):
                del side[volume.size :]
                side.extend(bytes(volume.size - len(side)))

    def apply(self, change: events.Change) -> None:
        if isinstance(change, events.Defined):
            self.machine = change
            return
        data = change.data if isinstance(change, events.Written) else bytes(change.length)
        end = change.start + len(data)
        self.volumes[change.volume][change.start : end] = data
        self.covered[change.volume][change.start : end] = b"\1" * len(data)

    @property
    def whole(self) -> bool:
        return all(0 not in one for one in self.covered)

    def key(self) -> tuple[bytes, ...]:
        return tuple(bytes(one) for one in self.volumes)


def applied(outbox: Iterable[Outgoing]) -> list[Position]:
    """The epochs that an outbox says were settled, in order."""
    found = []
    for one in outbox:
        frame = wire.unpack(one.record)
        _, receipt = wire.receipt(frame.kind, envelope.body(frame))
        if isinstance(receipt, Applied):
            found.append(receipt.position)
    return found


class Oracle:
    """Watches the bus and the replicas' stores."""

    def __init__(self) -> None:
        self.epochs: dict[SealId, dict[int, events.Event]] = {}
        self.cuts: set[tuple[tuple[bytes, ...], events.Defined | None]] = set()
        self.paths: dict[bytes, list[tuple[Position, Content]]] = {}
        self.acknowledged: dict[bytes, Position] = {}
        self.applied = 0
        self.rewound: dict[bytes, set[SealId]] = {}
        self.furthest: dict[bytes, int] = {}
        "The highest offset that a replica ever said it has applied all before."
        self.lapsed: list[events.Lapsed] = []
        self._open: set[tuple[int, Attempt]] = set()
        "Writers that have opened an epoch and not sealed it."

    def said(self, record: bytes) -> None:
        """A record became durable on the stream's topic or on that of the receipts."""
        try:
            frame = wire.unpack(record)
        except errors.SchemaError:
            return
        if frame.kind >= wire.FIRST_RECEIPT:
            sender, receipt = wire.receipt(frame.kind, envelope.body(frame))
            if isinstance(receipt, Applied | Answered):
                self.furthest[sender.replica] = max(self.furthest.get(sender.replica, 0), receipt.position.offset)
            if isinstance(receipt, Applied):
                self._acknowledge(sender.replica, receipt.position)
            return
        event = wire.event(frame.kind, envelope.body(frame))
        self._between(frame.address, event)
        epoch = self.epochs.setdefault(frame.address.seal, {})
        known = epoch.setdefault(frame.address.seq, event)
        if isinstance(event, events.Open | events.Change) and known != event:
            raise Violation(f"{frame.address} was said twice with different content")

    def _between(self, address: Address, event: events.Event) -> None:
        """Words stand between the epochs of their writer."""
        writer = address.generation, address.attempt
        if isinstance(event, events.Open):
            self._open.add(writer)
        elif isinstance(event, events.Seal):
            self._open.discard(writer)
        elif isinstance(event, events.Word):
            self.lapsed += [event] if isinstance(event, events.Lapsed) else []
            if writer in self._open:
                raise Violation(f"{event} was said within an epoch of attempt {address.attempt}")

    def trims(self, offset: int, registered: Iterable[bytes]) -> None:
        """A producer lets go of the records before `offset`; for these replicas it keeps what they need, or says so."""
        for replica in registered:
            named = (word for word in self.lapsed if word.offset >= offset)
            known = any(one.replica == replica for word in named for one in word.replicas)
            if self.furthest.get(replica, 0) < offset and not known:
                raise Violation(f"what replica {replica!r} has not applied before {offset} goes without a word")

    def _acknowledge(self, replica: bytes, position: Position) -> None:
        self.applied += 1
        if not any(one.seal == position.seal for one, _ in self.paths.get(replica, [])):
            raise Violation(f"replica {replica!r} says it applied {position.seal} without being there")
        before = self.acknowledged.get(replica)
        if before is None or position.epoch > before.epoch:
            self.acknowledged[replica] = position

    def fresh(self, replica: bytes) -> None:
        """The replica starts with an empty store."""
        self.paths[replica] = [(Position(), Content())]
        self.acknowledged.pop(replica, None)
        self.rewound.setdefault(replica, set())

    def adopted(self, replica: bytes, position: Position, contents: list[bytes]) -> None:
        """The replica starts with an empty store over a disk that it has read."""
        content = Content([bytearray(one) for one in contents], [bytearray(b"\1" * len(one)) for one in contents])
        self.paths[replica] = [(position, content)]

    def committed(self, replica: bytes, update: Update) -> None:
        """A replica's store took a transaction."""
        path = self.paths[replica]
        if update.rewound:
            while path[-1][0].seal != update.state.position.seal:
                self.rewound[replica].add(path[-1][0].seal)
                path.pop()
            acknowledged = self.acknowledged.get(replica)
            if acknowledged is not None and acknowledged.seal in self.rewound[replica]:
                self.acknowledged[replica] = path[-1][0]
            return
        for position in applied(update.receipts):
            content = path[-1][1].copy()
            self._replay(content, position)
            path.append((position, content))
        if path[-1][0].seal != update.state.position.seal:
            raise Violation(
                f"replica {replica!r} is at {update.state.position.seal}, its epochs say {path[-1][0].seal}"
            )

    def _replay(self, content: Content, position: Position) -> None:
        epoch = self.epochs[position.seal]
        for _, event in sorted(epoch.items()):
            if isinstance(event, events.Open):
                content.resize(event.volumes)
            elif isinstance(event, events.Change):
                content.apply(event)

    def check(self, replica: bytes, position: Position, devices: list[bytes], machine: events.Defined | None) -> None:
        """After recovery: disk and machine are what the position names, and everything acknowledged is in it."""
        path = self.paths[replica]
        if path[-1][0].seal != position.seal:
            raise Violation(f"replica {replica!r} recovered to {position.seal}, its store says {path[-1][0].seal}")
        content = path[-1][1]
        if machine != content.machine:
            raise Violation(f"replica {replica!r} at {position.seal} has {machine}, {content.machine} was sealed")
        for index, wanted in enumerate(content.volumes):
            have = devices[index][: len(wanted)]
            if len(have) != len(wanted):
                raise Violation(f"volume {index} has {len(have)} bytes at {position.seal}, {len(wanted)} were sealed")
            wrong = [at for at, covered in enumerate(content.covered[index]) if covered and have[at] != wanted[at]]
            if wrong:
                raise Violation(f"replica {replica!r} volume {index} differs from {position.seal} at bytes {wrong[:8]}")
        acknowledged = self.acknowledged.get(replica)
        if acknowledged is not None and not any(one.seal == acknowledged.seal for one, _ in path):
            raise Violation(f"replica {replica!r} acknowledged {acknowledged.seal} and has lost it: {position.seal}")
        if position.usable and (not content.whole or (content.key(), content.machine) not in self.cuts):
            raise Violation(f"replica {replica!r} calls {position.seal} usable: it is no cut of the source")
