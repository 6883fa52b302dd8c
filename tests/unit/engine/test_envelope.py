"""Bodies are squeezed where it pays, come back as they were, and never grow beyond a record."""

from __future__ import annotations

import random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import envelope
from schemas import errors, wire
from tests.support import samples

NOISE = random.Random(1).randbytes(200_000)
TEXT = b"the same words again and again, " * 5000


def frame(codec: int, body: bytes) -> wire.Frame:
    plain = wire.unpack(samples.packed("started"))
    return wire.Frame(plain.stream, plain.address, plain.kind, codec, body)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=2000), st.integers(1, 300), st.integers(0, 70_000))
def test_a_body_comes_back_as_it_was(piece: bytes, times: int, noise: int) -> None:
    body = piece * times + NOISE[:noise]
    codec, packed = envelope.squeeze(body)
    assert envelope.body(frame(codec, packed)) == body
    assert len(packed) <= len(body)


@pytest.mark.parametrize(
    ("body", "codec"),
    [
        (b"", wire.CODEC_NONE),
        (TEXT[:511], wire.CODEC_NONE),
        (TEXT[:512], wire.CODEC_ZSTD),
        (TEXT, wire.CODEC_ZSTD),
        (NOISE[:1000], wire.CODEC_NONE),
        (NOISE, wire.CODEC_NONE),
        (TEXT[:100_000] + NOISE, wire.CODEC_NONE),
        (NOISE[:50_000] + TEXT, wire.CODEC_ZSTD),
    ],
    ids=["empty", "small", "512", "text", "little noise", "noise", "noise in the middle", "text in the middle"],
)
def test_only_what_shrinks_is_squeezed(body: bytes, codec: int) -> None:
    got, packed = envelope.squeeze(body)
    assert got == codec
    assert (packed == body) == (codec == wire.CODEC_NONE)
    assert envelope.plain(body) == (wire.CODEC_NONE, body)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    packed = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    assert len(packed) < 20_000
    with pytest.raises(errors.Malformed, match=f"says it holds {1 << 28} bytes; at most {wire.MAX_RECORD}"):
        envelope.body(frame(wire.CODEC_ZSTD, packed))


def test_the_largest_body_is_no_bomb() -> None:
    packed = zstandard.ZstdCompressor().compress(bytes(wire.MAX_RECORD))
    assert len(envelope.body(frame(wire.CODEC_ZSTD, packed))) == wire.MAX_RECORD
    packed = zstandard.ZstdCompressor().compress(bytes(wire.MAX_RECORD + 1))
    with pytest.raises(errors.Malformed):
        envelope.body(frame(wire.CODEC_ZSTD, packed))


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    packer = zstandard.ZstdCompressor(write_content_size=False)
    with pytest.raises(errors.Malformed, match="says it holds -1 bytes"):
        envelope.body(frame(wire.CODEC_ZSTD, packer.compress(bytes(1 << 28))))


def test_a_frame_that_says_another_size_than_it_holds_is_refused() -> None:
    honest = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    assert honest[5:9] == (1 << 20).to_bytes(4, "little")
    for size in (1, 1 << 16, (1 << 20) - 1, (1 << 20) + 1, wire.MAX_RECORD):
        with pytest.raises(errors.Malformed, match="not the zstd frame"):
            envelope.body(frame(wire.CODEC_ZSTD, honest[:5] + size.to_bytes(4, "little") + honest[9:]))


@pytest.mark.parametrize("cut", [0, 1, 5, 20, -1])
def test_a_frame_cut_short_or_followed_by_more_is_refused(cut: int) -> None:
    packed = zstandard.ZstdCompressor().compress(TEXT)
    with pytest.raises(errors.Malformed, match="zstd"):
        envelope.body(frame(wire.CODEC_ZSTD, packed[:cut]))
    with pytest.raises(errors.Malformed, match="zstd"):
        envelope.body(frame(wire.CODEC_ZSTD, packed + packed[: cut or 9]))


def test_garbage_and_unknown_codecs_are_refused() -> None:
    with pytest.raises(errors.Malformed, match="unknown codec 2"):
        envelope.body(frame(2, TEXT))
    with pytest.raises(errors.Malformed, match="not the zstd frame"):
        envelope.body(frame(wire.CODEC_ZSTD, NOISE[:100]))


@pytest.mark.parametrize("name", samples.EVENTS)
@pytest.mark.parametrize("squeeze", [envelope.squeeze, envelope.plain])
def test_every_event_travels_and_comes_back(name: str, squeeze: wire.Squeeze) -> None:
    record = wire.pack_event(samples.STREAM, samples.address(name), samples.EVENTS[name], squeeze)
    got, event = envelope.event(record)
    assert (got.stream, got.address, event) == (samples.STREAM, samples.address(name), samples.EVENTS[name])
