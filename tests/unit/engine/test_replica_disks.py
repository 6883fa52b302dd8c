"""Disks come to a stream, and each keeps its number: what a replica admits of an epoch's volumes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.replica import EMPTY, Begin, Refuse, Replica
from schemas import events, receipts
from schemas.identity import GENESIS, Address, Attempt, Chain, Cut, Volume

NOW, HERE = Attempt(5, b"attempt5"), Chain(b"h" * 32)
VDA, VDB, VDC = (Volume(name, 640, 64) for name in ("vda", "vdb", "vdc"))
AT = receipts.Position(1, NOW, 20, HERE, (VDA, VDB), (), Cut.CRASH, 0, complete=True)


def opened(*volumes: Volume, position: receipts.Position = AT) -> object:
    one = Replica(b"my nonce", position, 1, NOW)
    fits = (events.Fit(position.chain),)
    return one.admit(Address(1, NOW, 21, 0), events.Open(volumes, fits), 7)


@pytest.mark.parametrize("volumes", [(VDA, VDB), (VDA, VDB, VDC), (replace(VDA, size=1), replace(VDB, size=0))])
def test_what_is_there_stays_in_its_place_and_more_may_follow(volumes: tuple[Volume, ...]) -> None:
    assert isinstance(opened(*volumes), Begin)


def test_a_replica_that_holds_nothing_takes_any_volumes() -> None:
    assert isinstance(opened(VDC, position=replace(EMPTY, chain=GENESIS)), Begin)


@pytest.mark.parametrize(
    ("volumes", "why"),
    [
        ((VDA,), "volume 1 is vdb, in blocks of 64, here, and none, there"),
        ((VDA, VDC), "volume 1 is vdb, in blocks of 64, here, and vdc, in blocks of 64, there"),
        ((VDB, VDA), "volume 0 is vda, in blocks of 64, here, and vdb, in blocks of 64, there"),
        (
            (VDA, replace(VDB, block_size=128)),
            "volume 1 is vdb, in blocks of 64, here, and vdb, in blocks of 128, there",
        ),
    ],
    ids=["gone", "another", "the other way round", "other blocks"],
)  # fmt: skip
def test_the_bytes_of_one_disk_never_come_to_another(volumes: tuple[Volume, ...], why: str) -> None:
    said = opened(*volumes)
    assert isinstance(said, Refuse)
    assert said == Refuse(receipts.Diverged(Address(1, NOW, 21, 0).seal, AT, why), hold=True)
