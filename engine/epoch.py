"""Epochs: the chain that ties them together, and the writer that numbers their events.  Pure.

    chain = BLAKE3("vmferry chain 1" || generation || epoch || fits || volumes || events ... || cut || missing)

over length-prefixed fields, numbers as 8 bytes big-endian.  A `Written` enters with its digests instead of its data,
so data is hashed once; a `Defined` with the digest of its NVRAM.  Bus offset and attempt are not in it: the same epoch
sent again makes the same chain.
"""

from __future__ import annotations

import blake3

from schemas import events
from schemas.identity import Address, Attempt, Chain, Cut, SealId, Volume

_DOMAIN = b"vmferry chain 1"


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _text(value: bytes) -> bytes:
    return _number(len(value)) + value


class ChainHasher:
    """The running digest of one open epoch: fed with every event in order, ended by the seal's own words."""

    def __init__(self, generation: int, epoch: int, opened: events.Open) -> None:
        self._hash = blake3.blake3(_DOMAIN + _number(generation) + _number(epoch))
        for fit in opened.fits:
            self._hash.update(b"F" + _text(fit.chain) + _text(fit.nonce))
        for volume in opened.volumes:
            self._hash.update(b"V" + _text(volume.name.encode()) + _number(volume.size) + _number(volume.block_size))

    def feed(self, event: events.Change) -> None:
        """Take one change in."""
        if isinstance(event, events.Written):
            fields = _number(event.volume) + _number(event.start) + _number(len(event.data))
            self._hash.update(b"W" + fields + _text(event.digests))
        elif isinstance(event, events.Defined):
            nvram = blake3.blake3(event.nvram).digest()
            self._hash.update(b"D" + _text(event.form.encode()) + _text(event.text.encode()) + _text(nvram))
        else:
            self._hash.update(b"Z" + _number(event.volume) + _number(event.start) + _number(event.length))

    def seal(self, cut: Cut, missing: int) -> Chain:
        """The chain that the epoch makes."""
        final = self._hash.copy()
        final.update(b"S" + _text(cut.value.encode()) + _number(missing))
        return Chain(final.digest())


class Writer:
    """Numbers the events of one epoch.  Made with what it opens; used up by `seal`."""

    def __init__(
        self, generation: int, attempt: Attempt, epoch: int, volumes: tuple[Volume, ...], fits: tuple[events.Fit, ...]
    ) -> None:
        self.identity = SealId(generation, attempt, epoch)
        self.opened = events.Open(volumes, fits)
        self._chain = ChainHasher(generation, epoch, self.opened)
        self._seq = 0

    def next_address(self) -> Address:
        """The address of the next event: each call takes one number."""
        address = Address(self.identity.generation, self.identity.attempt, self.identity.epoch, self._seq)
        self._seq += 1
        return address

    def change(self, event: events.Change) -> Address:
        """Take a change into the chain and give it its address."""
        self._chain.feed(event)
        return self.next_address()

    def seal(self, cut: Cut, missing: int, roots: tuple[bytes, ...], instant: int) -> events.Seal:
        """The seal of the epoch; its address is the next one."""
        return events.Seal(self._seq, self._chain.seal(cut, missing), cut, missing, roots, instant)
