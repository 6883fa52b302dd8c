"""Chains and roots, computed from schemas/FORMAT.md section 4 alone, are those that the engine computes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import blake3
import pytest

from engine import digest, epoch, merkle
from schemas import events
from schemas.identity import Attempt, Chain, Cut, Volume


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def chain(
    generation: int, number: int, opened: events.Open, changes: Sequence[events.Event], seal: events.Seal
) -> bytes:
    text = b"vmferry chain 1" + u64(generation) + u64(number)
    for fit in opened.fits:
        text += b"F" + u64(32) + fit.chain + u64(8) + fit.nonce
    for volume in opened.volumes:
        text += b"V" + u64(len(volume.name.encode())) + volume.name.encode() + u64(volume.size) + u64(volume.block_size)
    for change in changes:
        if isinstance(change, events.Written):
            text += b"W" + u64(change.volume) + u64(change.start) + u64(len(change.data))
            text += u64(len(change.digests)) + change.digests
        elif isinstance(change, events.Zeroed):
            text += b"Z" + u64(change.volume) + u64(change.start) + u64(change.length)
        elif isinstance(change, events.Defined):
            form, definition, nvram = change.form.encode(), change.text.encode(), blake3.blake3(change.nvram).digest()
            text += b"D" + u64(len(form)) + form + u64(len(definition)) + definition + u64(32) + nvram
    text += b"S" + u64(len(seal.cut.value)) + seal.cut.value.encode() + u64(seal.missing)
    return blake3.blake3(text).digest()


def root(disk: bytes, block_size: int) -> bytes:
    """By RFC 6962, section 2.1: split at the largest power of two below the number of leaves."""
    blocks = [disk[at : at + block_size] for at in range(0, len(disk), block_size)]
    leaves = [
        hashlib.sha256(b"\0" + len(block).to_bytes(4, "big") + blake3.blake3(block).digest()).digest()
        for block in blocks
    ]

    def over(part: list[bytes]) -> bytes:
        if len(part) == 1:
            return part[0]
        left = 1 << (len(part) - 1).bit_length() - 1
        return hashlib.sha256(b"\1" + over(part[:left]) + over(part[left:])).digest()

    return over(leaves) if leaves else hashlib.sha256().digest()


@pytest.mark.parametrize("cut", list(Cut))
def test_the_chain_is_what_the_document_says(cut: Cut) -> None:
    volumes = (Volume("vda", 1 << 30, 4096), Volume("größer", 5, 512))
    fits = (events.Fit(Chain(b"\x11" * 32)), events.Fit(Chain(b"\x22" * 32), b"12345678"))
    changes: list[events.Change] = [
        events.Zeroed(0, 1 << 20, 1 << 29),
        events.Written(0, 4095, digest.of_pieces(4095, b"two blocks", 4096), b"two blocks"),
        events.Zeroed(1, 0, 5),
        events.Defined(events.Form.LIBVIRT, "<domain>größer</domain>", bytes(300)),
        events.Zeroed(1, 1, 2),
        events.Defined(events.Form.LIBVIRT, "<domain/>", b""),
    ]
    writer = epoch.Writer(3, Attempt(1), 8, volumes, fits)
    for change in changes:
        writer.change(change)
    seal = writer.seal(cut, 77, (), 5)
    assert seal.chain == chain(3, 8, events.Open(volumes, fits), changes, seal)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 1536, 2048, 5 * 512, 7 * 512 + 1, 64 * 512, 100 * 512 - 1])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_root_is_what_the_document_says(size: int, sparse: bool) -> None:
    disk = bytes(size) if sparse else bytes(at * 7 % 251 for at in range(size))
    volume = Volume("vda", size, 512)
    blocks = [disk[at : at + 512] for at in range(0, size, 512)]
    digests = [merkle.ZERO if not any(block) else digest.block(block) for block in blocks]

    def read(first: int, count: int) -> bytes:
        return b"".join(digests[first : first + count])

    tree = merkle.Tree(volume, read)
    tree.touch(0, volume.blocks)
    assert merkle.root((len(block), digest.block(block)) for block in blocks) == root(disk, 512)
    assert tree.root() == root(disk, 512)


def test_a_written_record_has_the_digest_of_its_part_of_each_block() -> None:
    data = bytes(range(256)) * 10
    expected = [data[:100], data[100:612], data[612:1124], data[1124:1636], data[1636:2148], data[2148:]]
    joined = b"".join(blake3.blake3(part).digest() for part in expected)
    assert digest.of_pieces(512 - 100, data, 512) == joined
