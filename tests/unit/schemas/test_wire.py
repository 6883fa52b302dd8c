from __future__ import annotations

import contextlib
import dataclasses
import struct
from typing import Any

import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import errors, events, receipts, wire
from schemas.identity import Address, Attempt, Chain, Cut, Volume
from tests.support import samples

NAMES = [*samples.EVENTS, *samples.RECEIPTS, *samples.CONTROL]


def read(record: bytes) -> Any:
    """Everything that a reader does with a record."""
    frame = wire.unpack(record)
    if frame.kind < wire.FIRST_RECEIPT:
        return wire.event(frame.kind, frame.body)
    if frame.kind >= wire.FIRST_CONTROL:
        return wire.said(frame.kind, frame.body)
    return wire.receipt(frame.kind, frame.body)


def forge(record: bytes, at: int, value: int) -> bytes:
    """The record with one header byte changed and a checksum that holds: a peer that is wrong, not a bad line."""
    changed = bytearray(record)
    changed[at] = value
    changed[64:80] = xxhash.xxh3_128_digest(bytes(changed[:64]) + bytes(changed[80:]))
    return bytes(changed)


def body(name: str) -> dict[str, Any]:
    return dict(msgpack.unpackb(wire.unpack(samples.packed(name)).body))


def decode(name: str, fields: Any) -> Any:
    kind = wire.unpack(samples.packed(name)).kind
    packed = msgpack.packb(fields)
    if name in samples.CONTROL:
        return wire.said(kind, packed)
    return wire.event(kind, packed) if name in samples.EVENTS else wire.receipt(kind, packed)


def test_every_kind_has_an_example() -> None:
    examples = [*samples.EVENTS.values(), *samples.RECEIPTS.values(), *samples.CONTROL.values()]
    assert {type(example) for example in examples} == set(wire.KINDS.values())


@pytest.mark.parametrize("name", samples.EVENTS)
def test_an_event_comes_back_as_it_was(name: str) -> None:
    frame = wire.unpack(samples.packed(name))
    assert (frame.stream, frame.address) == (samples.STREAM, samples.address(name))
    assert wire.event(frame.kind, frame.body) == samples.EVENTS[name]


@pytest.mark.parametrize("name", samples.RECEIPTS)
def test_a_receipt_comes_back_as_it_was_with_its_sender(name: str) -> None:
    frame = wire.unpack(samples.packed(name))
    assert (frame.stream, frame.address) == (samples.STREAM, samples.address(name))
    assert wire.receipt(frame.kind, frame.body) == (samples.SENDER, samples.RECEIPTS[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_single_flipped_bit_is_refused(name: str) -> None:
    record = samples.packed(name)
    for at in range(len(record)):
        for bit in range(8):
            flipped = bytearray(record)
            flipped[at] ^= 1 << bit
            with pytest.raises(errors.SchemaError):
                wire.unpack(bytes(flipped))


@pytest.mark.parametrize("name", NAMES)
def test_a_record_cut_at_any_byte_is_truncated(name: str) -> None:
    record = samples.packed(name)
    for length in range(len(record)):
        with pytest.raises(errors.Truncated):
            wire.unpack(record[:length])


def test_bytes_after_the_record_are_refused() -> None:
    with pytest.raises(errors.Truncated):
        wire.unpack(samples.packed("zeroed") + b"\0")


@pytest.mark.parametrize(
    ("at", "value", "error", "says"),
    [
        (0, 0x00, errors.BadMagic, "begins with"),
        (4, 2, errors.UnknownVersion, "version 2.*upgrade"),
        (4, 0, errors.UnknownVersion, "version 0"),
        (5, 1, errors.UnknownSuite, "suite 1"),
        (6, 0, errors.Malformed, "unknown kind 0"),
        (6, 63, errors.Malformed, "unknown kind 63"),
        (6, 255, errors.Malformed, "unknown kind 255"),
        (7, 2, errors.Malformed, "codec 2"),
        (11, 1, errors.Malformed, "key 1"),
        (15, 0, errors.Truncated, "announces"),
    ],
)
def test_a_header_of_another_kind_of_record_is_refused_by_name(
    at: int, value: int, error: type[errors.SchemaError], says: str
) -> None:
    with pytest.raises(error, match=says):
        read(forge(samples.packed("zeroed"), at, value))


def test_a_record_of_another_kind_does_not_pass_for_this_one() -> None:
    with pytest.raises(errors.Malformed, match="Seal has the fields"):
        read(forge(samples.packed("zeroed"), 6, 6))


def test_receipts_and_events_are_not_taken_for_each_other() -> None:
    for kind in (64, 128):
        with pytest.raises(errors.Malformed, match="is no event"):
            wire.event(kind, b"\x80")
    for kind in (1, 128):
        with pytest.raises(errors.Malformed, match="is no receipt"):
            wire.receipt(kind, b"\x80")
    for kind in (1, 64):
        with pytest.raises(errors.Malformed, match="holds neither"):
            wire.said(kind, b"\x80")


@pytest.mark.parametrize("name", NAMES)
def test_a_body_has_exactly_the_fields_of_its_kind(name: str) -> None:
    fields = body(name)
    for field in fields:
        with pytest.raises(errors.Malformed):
            decode(name, {key: value for key, value in fields.items() if key != field})
    with pytest.raises(errors.Malformed, match="another set came"):
        decode(name, {**fields, "extra": 1})


@pytest.mark.parametrize("name", NAMES)
def test_a_field_of_another_type_is_refused(name: str) -> None:
    fields = body(name)
    for field in fields:
        for wrong in (None, 1.5, {"a": 1}, -1, [None], 1 if isinstance(fields[field], bool) else True):
            with pytest.raises(errors.Malformed):
                decode(name, {**fields, field: wrong})


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("started", "chain", bytes(31)),
        ("asked", "replica", bytes(17)),
        ("written", "digests", bytes(33)),
        ("seal", "chain", b""),
        ("seal", "roots", [bytes(32), bytes(31)]),
        ("open", "fits", [{"chain": bytes(32), "nonce": bytes(7)}]),
        ("open", "volumes", [{"name": "vda", "size": 1, "block_size": 0}]),
        ("open", "volumes", [{"name": "vda", "size": 1, "block_size": wire.MAX_PAYLOAD + 1}]),
        ("nodes", "nodes", [b"--"]),
        ("answered", "nonce", bytes(9)),
        ("answered", "claims", [{"size": 1, "blocks": 1, "root": bytes(16)}]),
        ("applied", "sender", {"replica": bytes(16), "incarnation": bytes(7), "number": 1}),
        ("seal", "cut", "perfect"),
        ("seal", "cut", []),
    ],
)
def test_a_field_of_the_right_type_and_the_wrong_shape_is_refused(name: str, field: str, value: Any) -> None:
    with pytest.raises(errors.Malformed):
        decode(name, {**body(name), field: value})


def test_a_receipt_needs_its_sender() -> None:
    fields = body("applied")
    del fields["sender"]
    with pytest.raises(errors.Malformed, match="without a sender"):
        decode("applied", fields)
    with pytest.raises(errors.Malformed, match="without a sender"):
        decode("applied", [1, 2])


@pytest.mark.parametrize(
    "junk",
    [b"", b"\xc1", b"\x81", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\x91" * 2000, b"\x80\x80",
     b"\x81\xa1\xff\x01", b"\x81\x90\x01", b"\xc7\x01\xff\x00", b"\xc6\xff\xff\xff\xff", b"\xd9\xff"],
)  # fmt: skip
def test_a_body_that_is_no_msgpack_map_is_refused(junk: bytes) -> None:
    for kind in wire.KINDS:
        with pytest.raises(errors.Malformed):
            (wire.event if kind < wire.FIRST_RECEIPT else wire.receipt)(kind, junk)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_a_reader_fail_in_another_way(junk: bytes) -> None:
    for kind in range(max(wire.KINDS) + 2):
        with contextlib.suppress(errors.Malformed):
            wire.event(kind, junk)
    with pytest.raises(errors.SchemaError):
        wire.unpack(junk)


@settings(deadline=None)
@given(st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.floats(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8),
       st.sampled_from(NAMES), st.data())  # fmt: skip
def test_no_value_in_any_field_makes_a_reader_fail_in_another_way(value: Any, name: str, data: st.DataObject) -> None:
    fields = body(name)
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    with contextlib.suppress(errors.Malformed):
        decode(name, fields)


def test_whole_numbers_up_to_64_bits_travel() -> None:
    most = 2**64 - 1
    record = wire.pack_event(samples.STREAM, samples.address("zeroed"), events.Zeroed(most, most, most))
    assert read(record) == events.Zeroed(most, most, most)


@pytest.mark.parametrize("huge", [2**64, -(2**63) - 1])
def test_a_number_beyond_64_bits_is_not_packed(huge: int) -> None:
    with pytest.raises(errors.Malformed, match="msgpack cannot hold"):
        wire.pack_event(samples.STREAM, samples.address("zeroed"), events.Zeroed(0, huge, 1))


def test_a_negative_number_is_refused() -> None:
    record = wire.pack_event(samples.STREAM, samples.address("zeroed"), events.Zeroed(0, -1, 1))
    with pytest.raises(errors.Malformed, match="negative number -1"):
        read(record)


@pytest.mark.parametrize(
    ("stream", "address"),
    [
        (bytes(15), Address(1, Attempt(1, bytes(8)), 1, 0)),
        (bytes(17), Address(1, Attempt(1, bytes(8)), 1, 0)),
        (bytes(16), Address(1, Attempt(1, bytes(7)), 1, 0)),
        (bytes(16), Address(2**32, Attempt(1, bytes(8)), 1, 0)),
        (bytes(16), Address(1, Attempt(2**64, bytes(8)), 1, 0)),
        (bytes(16), Address(1, Attempt(1, bytes(8)), -1, 0)),
        (bytes(16), Address(1, Attempt(1, bytes(8)), 1, 2**32)),
    ],
)
def test_an_address_that_does_not_fit_the_header_is_not_packed(stream: bytes, address: Address) -> None:
    with pytest.raises(errors.Malformed):
        wire.pack_event(stream, address, events.Zeroed(0, 0, 1))


def test_the_largest_payload_fits_a_record_with_the_smallest_digest_per_block() -> None:
    data = bytes(wire.MAX_PAYLOAD)
    for block_size in (4096, 65536):
        event = events.Written(0, 0, bytes(32 * (wire.MAX_PAYLOAD // block_size)), data)
        assert read(wire.pack_event(samples.STREAM, samples.address("written"), event)) == event


def test_a_record_beyond_the_limit_is_neither_packed_nor_read() -> None:
    event = events.Written(0, 0, b"", bytes(wire.MAX_RECORD))
    with pytest.raises(errors.Malformed, match="split it"):
        wire.pack_event(samples.STREAM, samples.address("written"), event)
    large = bytearray(samples.packed("written") + bytes(wire.MAX_RECORD))
    large[12:16] = struct.pack(">I", len(large) - wire.HEADER_SIZE)
    large[64:80] = xxhash.xxh3_128_digest(bytes(large[:64]) + bytes(large[80:]))
    with pytest.raises(errors.Malformed, match="at most"):
        wire.unpack(bytes(large))


@pytest.mark.parametrize(
    ("text", "nvram", "says"),
    [
        ("", b"", "text of 0 bytes"),
        ("x" * (wire.MAX_ITEMS + 1), b"", "text of 65537 bytes"),
        ("ö" * (wire.MAX_ITEMS // 2) + "x", b"", "text of 65537 bytes"),
        ("x", bytes(wire.MAX_PAYLOAD + 1), "nvram of 1048577 bytes"),
    ],
    ids=["no text", "a text too long", "letters of two bytes", "too much NVRAM"],
)
def test_a_definition_beyond_its_limits_is_neither_packed_nor_read(text: str, nvram: bytes, says: str) -> None:
    with pytest.raises(errors.Malformed, match=says):
        wire.pack_event(samples.STREAM, samples.address("defined"), events.Defined(events.Form.LIBVIRT, text, nvram))
    with pytest.raises(errors.Malformed):
        decode("defined", {"form": "libvirt", "text": text, "nvram": nvram})


def test_the_largest_definition_fits_a_record() -> None:
    for text in ("x" * wire.MAX_ITEMS, "ö" * (wire.MAX_ITEMS // 2)):
        event = events.Defined(events.Form.LIBVIRT, text, bytes(wire.MAX_PAYLOAD))
        assert read(wire.pack_event(samples.STREAM, samples.address("defined"), event)) == event


def test_a_definition_that_is_no_text_is_not_packed() -> None:
    lone = events.Defined(events.Form.LIBVIRT, "\ud800", b"")
    with pytest.raises(errors.Malformed, match="msgpack cannot hold"):
        wire.pack_event(samples.STREAM, samples.address("defined"), lone)


def test_squeezed_bodies_name_their_codec() -> None:
    record = wire.pack_event(
        samples.STREAM, samples.address("zeroed"), samples.EVENTS["zeroed"], lambda plain: (1, plain[::-1])
    )
    frame = wire.unpack(record)
    assert frame.codec == wire.CODEC_ZSTD
    assert wire.event(frame.kind, frame.body[::-1]) == samples.EVENTS["zeroed"]


def test_values_for_stores_come_back_as_they_were() -> None:
    position = receipts.Position(1, Attempt(2, b"8 bytes!"), 3, Chain(bytes(32)), (Volume("vda", 5, 4),), (bytes(32),))
    assert wire.unpack_value(receipts.Position, wire.pack_value(position)) == position
    with pytest.raises(errors.Malformed):
        wire.unpack_value(receipts.Position, wire.pack_value(samples.SENDER))


def test_messages_are_frozen_values() -> None:
    for kind in wire.KINDS.values():
        params = kind.__dataclass_params__  # type: ignore[attr-defined]
        assert params.frozen, kind
        assert all(field.name.isidentifier() for field in dataclasses.fields(kind))
    assert {cut.value for cut in Cut} == {"none", "crash", "filesystem", "application"}
