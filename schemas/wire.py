"""Records to bytes and back.  FORMAT.md is the byte table; this file is the only one that knows msgpack.

A record is a header of 80 bytes, which routes and orders without any key, and a body: a msgpack map with one entry for
each field of its kind.  `unpack` checks everything that can be checked without knowing the kind; `event` and `receipt`
give the body its meaning and refuse whatever does not fit it exactly.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgpack
import xxhash

from schemas import control, errors, events, receipts
from schemas.identity import Address, Attempt

T = TypeVar("T")

MAGIC = b"VMFY"
VERSION = 1
SUITE_PLAIN = 0
CODEC_NONE = 0
CODEC_ZSTD = 1

MAX_PAYLOAD = 1 << 20
"""Most bytes of volume data, or of NVRAM, in one record.  Kafka's sweet spot; larger writes are split."""
MAX_RECORD = MAX_PAYLOAD + (256 << 10)
"""Most bytes in one record, header and digests included."""
MAX_ITEMS = 1 << 16
"""Most entries in one list, and most bytes in one text."""

LENGTHS: dict[str, tuple[int, ...]] = {
    "chain": (32,),
    "incarnation": (8,),
    "nodes": (0, 1, 32),
    "nonce": (8,),
    "replica": (16,),
    "root": (0, 32),
    "roots": (32,),
}
"""How many bytes a field may have, by its name; of a list, each entry."""

_HEADER = struct.Struct(">4s B B B B I I 16s I Q 8s Q I 16s")
_HASHED = _HEADER.size - 16
HEADER_SIZE = _HEADER.size

KINDS: dict[int, type] = {
    1: events.Started,
    2: events.Asked,
    3: events.Open,
    4: events.Written,
    5: events.Zeroed,
    6: events.Seal,
    7: events.Lapsed,
    8: events.Defined,
    9: events.Stepped,
    64: receipts.Answered,
    65: receipts.Nodes,
    66: receipts.Progress,
    67: receipts.Applied,
    68: receipts.Verified,
    69: receipts.Gap,
    70: receipts.Diverged,
    71: receipts.Fenced,
    72: receipts.Rewound,
    73: receipts.Left,
    128: control.Present,
}
"""The kind byte.  Never reused; from 64 on it is a receipt, from 128 on it lies on the control topic."""
FIRST_RECEIPT = 64
FIRST_CONTROL = 128
_NOWHERE = Address(0, Attempt(0), 0, 0)
_NUMBERS = {kind: number for number, kind in KINDS.items()}

Squeeze = Callable[[bytes], tuple[int, bytes]]
"""A body to (codec, perhaps smaller body).  Compression lives above this floor."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A record whose header and checksum hold.  `body` is still in `codec`."""

    stream: bytes
    address: Address
    kind: int
    codec: int
    body: bytes


def _plain(body: bytes) -> tuple[int, bytes]:
    return CODEC_NONE, body


def pack_event(stream: bytes, address: Address, event: events.Event, squeeze: Squeeze = _plain) -> bytes:
    """One event as bytes.  `stream` is 16 bytes.  Raises Malformed when it would pass a limit of FORMAT.md."""
    if isinstance(event, events.Defined):
        for name in ("text", "nvram"):  # they come from outside, as large as they like
            _check("Defined", name, getattr(event, name))
    codec, body = squeeze(_packb(_encode(event)))
    return _frame(stream, address, _NUMBERS[type(event)], codec, body)


def pack_receipt(stream: bytes, address: Address, sender: receipts.Sender, receipt: receipts.Receipt) -> bytes:
    """One receipt as bytes; `address` names what it is about, with seq 0."""
    body = _packb({"sender": _encode(sender), **_encode(receipt)})
    return _frame(stream, address, _NUMBERS[type(receipt)], CODEC_NONE, body)


def pack_control(stream: bytes, said: control.Control) -> bytes:
    """One record of the control topic as bytes; it stands nowhere in the history of its stream."""
    return _frame(stream, _NOWHERE, _NUMBERS[type(said)], CODEC_NONE, _packb(_encode(said)))


def unpack(data: bytes) -> Frame:
    """Check magic, version, suite, length, checksum and codec.  Raises a SchemaError; never reads past `data`."""
    if len(data) < HEADER_SIZE:
        raise errors.Truncated(f"{len(data)} bytes: a record has a header of {HEADER_SIZE}")
    head = _HEADER.unpack_from(data)
    magic, version, suite, kind, codec, key, length, stream, generation, counter, nonce, epoch, seq, checksum = head
    if magic != MAGIC:
        raise errors.BadMagic(f"record begins with {magic!r}, not {MAGIC!r}")
    if version != VERSION:
        raise errors.UnknownVersion(f"record of version {version}; this vmferry reads version {VERSION}: upgrade it")
    if suite != SUITE_PLAIN:
        raise errors.UnknownSuite(f"record of suite {suite}; this vmferry reads suite {SUITE_PLAIN} (plain)")
    if len(data) != HEADER_SIZE + length:
        raise errors.Truncated(f"record of {len(data)} bytes, its header announces {HEADER_SIZE + length}")
    if _checksum(memoryview(data)) != checksum:
        raise errors.BadChecksum("record does not have the xxh3-128 of its header: its bytes were changed on the way")
    if len(data) > MAX_RECORD:
        raise errors.Malformed(f"record of {len(data)} bytes; at most {MAX_RECORD} are allowed")
    if codec not in (CODEC_NONE, CODEC_ZSTD) or key:
        raise errors.Malformed(f"codec {codec} and key {key}; version {VERSION} has codecs 0 and 1, and no keys")
    address = Address(generation, Attempt(counter, nonce), epoch, seq)
    return Frame(stream, address, kind, codec, data[HEADER_SIZE:])


def event(kind: int, body: bytes) -> events.Event:
    """The event in a body that is out of its codec.  Raises Malformed."""
    if kind >= FIRST_RECEIPT:
        raise errors.Malformed(f"kind {kind} is no event; this topic holds events")
    return cast(events.Event, _decode(_kind(kind), _unpackb(body)))


def receipt(kind: int, body: bytes) -> tuple[receipts.Sender, receipts.Receipt]:
    """The receipt in a body, and who said it.  Raises Malformed."""
    if not FIRST_RECEIPT <= kind < FIRST_CONTROL:
        raise errors.Malformed(f"kind {kind} is no receipt; this topic holds receipts")
    said = _kind(kind)
    fields = _unpackb(body)
    if not isinstance(fields, dict) or "sender" not in fields:
        raise errors.Malformed("a receipt without a sender")
    sender = _decode(receipts.Sender, fields.pop("sender"))
    return sender, _decode(said, fields)


def said(kind: int, body: bytes) -> control.Control:
    """What a record of the control topic says.  Raises Malformed."""
    if kind < FIRST_CONTROL:
        raise errors.Malformed(f"kind {kind} is an event or a receipt; this topic holds neither")
    return cast(control.Control, _decode(_kind(kind), _unpackb(body)))


def _frame(stream: bytes, address: Address, kind: int, codec: int, body: bytes) -> bytes:
    if len(body) + HEADER_SIZE > MAX_RECORD:
        raise errors.Malformed(f"a record of {len(body) + HEADER_SIZE} bytes; at most {MAX_RECORD}: split it")
    attempt = address.attempt
    if (len(stream), len(attempt.nonce)) != (16, 8):
        raise errors.Malformed(f"a stream of {len(stream)} bytes (16), a nonce of {len(attempt.nonce)} (8)")
    try:
        head = _HEADER.pack(
            MAGIC, VERSION, SUITE_PLAIN, kind, codec, 0, len(body), stream,
            address.generation, attempt.counter, attempt.nonce, address.epoch, address.seq, bytes(16),
        )  # fmt: skip
    except struct.error as why:
        raise errors.Malformed(f"{address} does not fit the header: {why}") from why
    digest = xxhash.xxh3_128(head[:_HASHED])
    digest.update(body)
    return b"".join((head[:_HASHED], digest.digest(), body))


def _checksum(data: memoryview) -> bytes:
    digest = xxhash.xxh3_128(data[:_HASHED])
    digest.update(data[HEADER_SIZE:])
    return digest.digest()


def _kind(number: int) -> type:
    try:
        return KINDS[number]
    except KeyError:
        raise errors.Malformed(f"unknown kind {number}") from None


def _packb(value: Any) -> bytes:
    try:
        return cast(bytes, msgpack.packb(value, use_bin_type=True))
    except (OverflowError, ValueError) as why:
        raise errors.Malformed(f"a body that msgpack cannot hold: {why}") from why


def _unpackb(body: bytes) -> Any:
    try:
        return msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_bin_len=MAX_RECORD,
            max_str_len=MAX_ITEMS,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as why:
        raise errors.Malformed(f"body is not msgpack: {why}") from why


def pack_value(value: Any) -> bytes:
    """A record type outside the envelope, for stores of either side: the same msgpack map as in a body."""
    return _packb(_encode(value))


def unpack_value(kind: type[T], data: bytes) -> T:
    """What `pack_value` packed.  Raises Malformed."""
    return cast(T, _decode(kind, _unpackb(data)))


def _encode(value: Any) -> Any:
    """Dataclasses become maps of their fields, tuples become arrays, enums their text."""
    if dataclasses.is_dataclass(value):
        return {name: _encode(getattr(value, name)) for name in _fields(type(value))}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return value


def _decode(kind: Any, value: Any) -> Any:
    """Give `value` the type `kind`, refusing what does not fit.  Raises Malformed."""
    if dataclasses.is_dataclass(kind):
        return _decode_fields(cast(type, kind), value)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise errors.Malformed(f"a list is wanted, not {type(value).__name__}")
        item = get_args(kind)[0]
        return tuple(_decode(item, entry) for entry in value)
    plain = getattr(kind, "__supertype__", kind)
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        try:
            return plain(value)
        except ValueError as why:
            raise errors.Malformed(str(why)) from None
    if type(value) is not plain:
        raise errors.Malformed(f"{plain.__name__} is wanted, not {type(value).__name__}")
    if plain is int and value < 0:
        raise errors.Malformed(f"a negative number {value}")
    return value


def _decode_fields(kind: type, value: Any) -> Any:
    hints = _fields(kind)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        raise errors.Malformed(f"{kind.__name__} has the fields {', '.join(hints)}; another set came")
    found = {name: _decode(hint, value[name]) for name, hint in hints.items()}
    for name, content in found.items():
        _check(kind.__name__, name, content)
    return kind(**found)


def _check(where: str, name: str, value: Any) -> None:
    """What a field must be beyond its type.  By name: a name has one meaning in all kinds."""
    lengths = LENGTHS.get(name)
    values = value if isinstance(value, tuple) else (value,)
    if lengths and any(len(each) not in lengths for each in values):
        raise errors.Malformed(f"{where}.{name} is not {' or '.join(map(str, lengths))} bytes long")
    if name == "digests" and len(value) % 32:
        raise errors.Malformed(f"{where}.digests of {len(value)} bytes: digests have 32 each")
    if name == "block_size" and not 0 < value <= MAX_PAYLOAD:
        raise errors.Malformed(f"{where}.block_size is {value}: at least 1, at most {MAX_PAYLOAD}")
    if name == "text" and not 0 < (length := len(value.encode("utf-8", "surrogatepass"))) <= MAX_ITEMS:
        raise errors.Malformed(f"{where}.text of {length} bytes: at least 1, at most {MAX_ITEMS}")
    if name == "nvram" and len(value) > MAX_PAYLOAD:
        raise errors.Malformed(f"{where}.nvram of {len(value)} bytes; at most {MAX_PAYLOAD}")


_HINTS: dict[type, dict[str, Any]] = {}


def _fields(kind: type) -> types.MappingProxyType[str, Any] | dict[str, Any]:
    found = _HINTS.get(kind)
    if found is None:
        hints = get_type_hints(kind)
        found = _HINTS[kind] = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return found
