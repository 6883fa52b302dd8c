"""The chain: every field of every event counts, and their order; who said it, and where it lies, do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, cast, get_args

import pytest
from blake3 import blake3

from engine import epoch
from schemas import events
from schemas.identity import GENESIS, Address, Attempt, Chain, Cut, SealId, Volume

A, B = b"a" * 32, b"b" * 32
FIT, ASKER = events.Fit(Chain(A)), events.Fit(Chain(B), b"nonce..8")
VOLUMES = (Volume("vda", 1000, 64), Volume("vdb", 50, 64))
OPEN = events.Open(VOLUMES, (FIT, ASKER))
WRITTEN = events.Written(0, 64, A + B, b"x" * 100)
ZEROED = events.Zeroed(1, 0, 50)
DEFINED = events.Defined(events.Form.LIBVIRT, "<domain>größer</domain>", b"nvram")
CHANGES = (WRITTEN, ZEROED, replace(WRITTEN, start=512), DEFINED)


def chain(
    opened: events.Open = OPEN,
    changes: Sequence[events.Change] = CHANGES,
    generation: int = 3,
    number: int = 7,
    cut: Cut = Cut.CRASH,
    missing: int = 5,
) -> Chain:
    hasher = epoch.ChainHasher(generation, number, opened)
    for change in changes:
        hasher.feed(change)
    return hasher.seal(cut, missing)


def test_it_is_what_the_formula_says() -> None:
    def number(value: int) -> bytes:
        return value.to_bytes(8, "big")

    def text(value: bytes) -> bytes:
        return number(len(value)) + value

    plain = b"vmferry chain 1" + number(3) + number(7)
    plain += b"F" + text(A) + text(bytes(8)) + b"F" + text(B) + text(b"nonce..8")
    plain += b"V" + text(b"vda") + number(1000) + number(64) + b"V" + text(b"vdb") + number(50) + number(64)
    plain += b"W" + number(0) + number(64) + number(100) + text(A + B) + b"Z" + number(1) + number(0) + number(50)
    plain += b"W" + number(0) + number(512) + number(100) + text(A + B)
    plain += b"D" + text(b"libvirt") + text("<domain>größer</domain>".encode()) + text(blake3(b"nvram").digest())
    assert chain() == blake3(plain + b"S" + text(b"crash") + number(5)).digest()


OTHERS: dict[str, dict[str, Any]] = {
    "generation": {"generation": 4},
    "number": {"number": 8},
    "cut": {"cut": Cut.FILESYSTEM},
    "missing": {"missing": 6},
    "a fit less": {"opened": replace(OPEN, fits=(FIT,))},
    "fits turned round": {"opened": replace(OPEN, fits=(ASKER, FIT))},
    "another chain that it fits": {"opened": replace(OPEN, fits=(events.Fit(Chain(B)), ASKER))},
    "another asker": {"opened": replace(OPEN, fits=(FIT, replace(ASKER, nonce=b"nonce..9")))},
    "volumes turned round": {"opened": replace(OPEN, volumes=VOLUMES[::-1])},
    "a volume less": {"opened": replace(OPEN, volumes=VOLUMES[:1])},
    "a volume's name": {"opened": replace(OPEN, volumes=(replace(VOLUMES[0], name="vdc"), VOLUMES[1]))},
    "a volume's size": {"opened": replace(OPEN, volumes=(replace(VOLUMES[0], size=1001), VOLUMES[1]))},
    "a volume's block size": {"opened": replace(OPEN, volumes=(replace(VOLUMES[0], block_size=65), VOLUMES[1]))},
    "no change": {"changes": ()},
    "a change less": {"changes": CHANGES[:3]},
    "a change twice": {"changes": (WRITTEN, *CHANGES)},
    "changes in another order": {"changes": (ZEROED, WRITTEN, *CHANGES[2:])},
    "where it is written": {"changes": (replace(WRITTEN, start=65), *CHANGES[1:])},
    "which volume is written": {"changes": (replace(WRITTEN, volume=1), *CHANGES[1:])},
    "what is written": {"changes": (replace(WRITTEN, digests=B + A), *CHANGES[1:])},
    "how much is written": {"changes": (replace(WRITTEN, data=b"x" * 99), *CHANGES[1:])},
    "where it is zeroed": {"changes": (WRITTEN, replace(ZEROED, start=1), *CHANGES[2:])},
    "which volume is zeroed": {"changes": (WRITTEN, replace(ZEROED, volume=0), *CHANGES[2:])},
    "how much is zeroed": {"changes": (WRITTEN, replace(ZEROED, length=49), *CHANGES[2:])},
    "how it is defined": {"changes": (*CHANGES[:3], replace(DEFINED, text="<domain/>"))},
    "a byte of its NVRAM": {"changes": (*CHANGES[:3], replace(DEFINED, nvram=b"nvraM"))},
    "no NVRAM": {"changes": (*CHANGES[:3], replace(DEFINED, nvram=b""))},
    "where in the epoch it is defined": {"changes": (DEFINED, *CHANGES[:3])},
    "a form of another name": {"changes": (*CHANGES[:3], replace(DEFINED, form=cast(Any, "libvirx")))},
}


def test_every_field_and_every_order_makes_a_chain_of_its_own() -> None:
    found = {name: chain(**other) for name, other in OTHERS.items()} | {"itself": chain()}
    assert len(set(found.values())) == len(found)


def test_the_table_above_leaves_out_no_field() -> None:
    kinds = (events.Open, events.Fit, Volume, *get_args(events.Change))
    counts = {kind: len(fields(kind)) for kind in kinds}
    assert counts == {
        events.Open: 2, events.Fit: 2, Volume: 3, events.Written: 4, events.Zeroed: 3, events.Defined: 3,
    }  # fmt: skip


def test_data_enters_by_its_digests_alone() -> None:
    other = (replace(WRITTEN, data=b"y" * 100), *CHANGES[1:])
    assert chain(changes=other) == chain()


def written(attempt: Attempt, roots: tuple[bytes, ...] = (), instant: int = 0) -> tuple[list[Address], events.Seal]:
    writer = epoch.Writer(3, attempt, 7, VOLUMES, (FIT, ASKER))
    places = [writer.next_address(), *(writer.change(change) for change in CHANGES)]
    seal = writer.seal(Cut.CRASH, 5, roots, instant)
    return [*places, writer.next_address()], seal


def test_a_writer_numbers_what_it_opens_fills_and_seals_without_a_gap() -> None:
    attempt = Attempt(2, b"n" * 8)
    places, seal = written(attempt)
    assert places == [Address(3, attempt, 7, seq) for seq in range(6)]
    assert {one.seal for one in places} == {SealId(3, attempt, 7)}
    assert seal == events.Seal(5, chain(), Cut.CRASH, 5, (), 0)


def test_the_same_epoch_by_another_attempt_with_other_roots_at_another_time_makes_the_same_chain() -> None:
    one, other = written(Attempt(2, b"n" * 8))[1], written(Attempt(9, b"m" * 8), (A, B), 10**18)[1]
    assert one.chain == other.chain
    assert (other.roots, other.instant) == ((A, B), 10**18)


@pytest.mark.parametrize("cut", list(Cut))
def test_sealing_does_not_use_the_hash_up(cut: Cut) -> None:
    hasher = epoch.ChainHasher(1, 1, events.Open((), (events.Fit(GENESIS),)))
    first = hasher.seal(cut, 0)
    hasher.feed(ZEROED)
    assert hasher.seal(cut, 0) != first
