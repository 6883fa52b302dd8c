"""One example of every kind of record, always the same: what the golden bytes of version 1 were made from."""

from __future__ import annotations

from pathlib import Path

from schemas import control, events, receipts, wire
from schemas.identity import Address, Attempt, Chain, Cut, SealId, Volume

STREAM = bytes(range(16))
REPLICA = bytes(range(16, 32))
NONCE = b"nonce..8"
ATTEMPT = Attempt(7, b"\x01\x02\x03\x04\x05\x06\x07\x08")
SENDER = receipts.Sender(REPLICA, b"incarn.8", 42)

_CHAIN, _NEXT = Chain(b"\xc1" * 32), Chain(b"\xc2" * 32)
_ROOTS = (b"\xd1" * 32, b"\xd2" * 32)
_VOLUMES = (Volume("vda", 1 << 30, 65536), Volume("vdb", 12345, 4096))
_INSTANT = 1_700_000_000_123_456_789
_POSITION = receipts.Position(
    2, ATTEMPT, 9, _NEXT, _VOLUMES, _ROOTS, Cut.FILESYSTEM, 0, complete=True, instant=_INSTANT, offset=123
)
_REFUSED = SealId(2, ATTEMPT, 10)
_BEHIND = (events.Behind(REPLICA, 9, 100), events.Behind(b"r" * 16, 0, 0))

EVENTS: dict[str, events.Event] = {
    "started": events.Started("web-1", _CHAIN),
    "asked": events.Asked(1, REPLICA, 0, 3, 8, 16),
    "open": events.Open(_VOLUMES, (events.Fit(_CHAIN), events.Fit(_NEXT, NONCE))),
    "written": events.Written(0, 65536 - 3, b"\xb1" * 32 + b"\xb2" * 32, b"six by"),
    "zeroed": events.Zeroed(1, 4096, 8249),
    "seal": events.Seal(3, _NEXT, Cut.CRASH, 0, _ROOTS, _INSTANT),
    "lapsed": events.Lapsed(events.Why.CAP, 120, 3 << 30, 2 << 30, _INSTANT, _BEHIND),
    "defined": events.Defined(events.Form.LIBVIRT, "<domain type='kvm'><name>größer</name></domain>", b"NVRAM\x00\xff"),
    "stepped": events.Stepped(events.Rung.CHECKPOINT, "the spool is full", _INSTANT),
}

RECEIPTS: dict[str, receipts.Receipt] = {
    "answered": receipts.Answered(
        ATTEMPT, _POSITION, NONCE, 10, (receipts.Claim(1 << 30, 16384, _ROOTS[0]), receipts.Claim(12345, 3, b""))
    ),
    "nodes": receipts.Nodes(1, (_ROOTS[0], b"+", b"")),
    "progress": receipts.Progress(ATTEMPT, 9, 3),
    "applied": receipts.Applied(_POSITION),
    "verified": receipts.Verified(_POSITION),
    "gap": receipts.Gap(_REFUSED, _POSITION, "seq 3 is missing"),
    "diverged": receipts.Diverged(_REFUSED, _POSITION, "it fits no chain of ours"),
    "fenced": receipts.Fenced(_REFUSED, 3, Attempt(8, b"\x08" * 8)),
    "rewound": receipts.Rewound(_POSITION, 11),
    "left": receipts.Left(_POSITION),
}

CONTROL: dict[str, control.Control] = {
    "present": control.Present("site-a", "web-1", _VOLUMES, 9, 1500, _INSTANT, gone=False),
}


def address(name: str) -> Address:
    """Where the example stands: seals and what fills an epoch in epoch 9, the rest outside of epochs."""
    if name in CONTROL:
        return Address(0, Attempt(0), 0, 0)
    seqs = {"started": 0, "asked": 1, "open": 0, "written": 1, "zeroed": 2, "seal": 3, "defined": 3}
    epoch = 0 if name in ("started", "asked", "lapsed", "stepped") else 9
    return Address(2, ATTEMPT, epoch, seqs.get(name, 0))


def packed(name: str) -> bytes:
    """The example `name` as a record."""
    if name in EVENTS:
        return wire.pack_event(STREAM, address(name), EVENTS[name])
    if name in CONTROL:
        return wire.pack_control(STREAM, CONTROL[name])
    return wire.pack_receipt(STREAM, address(name), SENDER, RECEIPTS[name])


def golden(name: str) -> Path:
    """Where the bytes of the example lie, as version 1 first wrote them."""
    return Path(__file__).parent.parent / "golden" / "v1" / f"{name}.bin"


def main() -> None:
    """Write the golden bytes of kinds that have none yet.  What is there is never written again."""
    for name in [*EVENTS, *RECEIPTS, *CONTROL]:
        if not golden(name).exists():
            golden(name).write_bytes(packed(name))


if __name__ == "__main__":
    main()
