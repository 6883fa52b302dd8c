"""Compression of record bodies: zstd level 1 where a sample says that it pays.  The only user of zstandard."""

from __future__ import annotations

import zstandard

from schemas import errors, events, wire

_SAMPLE = 16 << 10
_WORTH = 0.85
"""Compress the whole when the sample shrinks below this share."""


def squeeze(body: bytes) -> tuple[int, bytes]:
    """A body to (codec, body).  Small and incompressible bodies stay as they are."""
    if len(body) < 512:
        return wire.CODEC_NONE, body
    compressor = zstandard.ZstdCompressor(level=1)
    if len(body) > 2 * _SAMPLE:
        middle = len(body) // 2
        sample = compressor.compress(body[middle : middle + _SAMPLE])
        if len(sample) > _SAMPLE * _WORTH:
            return wire.CODEC_NONE, body
    packed = compressor.compress(body)
    return (wire.CODEC_ZSTD, packed) if len(packed) < len(body) * _WORTH else (wire.CODEC_NONE, body)


def plain(body: bytes) -> tuple[int, bytes]:
    """No compression: for a bus on the same machine, where the disk is faster than zstd."""
    return wire.CODEC_NONE, body


def body(frame: wire.Frame) -> bytes:
    """The body out of its codec.  Raises Malformed; never makes more than MAX_RECORD bytes, whatever the frame says."""
    if frame.codec == wire.CODEC_NONE:
        return frame.body
    if frame.codec != wire.CODEC_ZSTD:
        raise errors.Malformed(f"unknown codec {frame.codec}")
    try:
        size = zstandard.frame_content_size(frame.body)
        if not 0 <= size <= wire.MAX_RECORD:
            raise errors.Malformed(f"a zstd frame that says it holds {size} bytes; at most {wire.MAX_RECORD}")
        return zstandard.ZstdDecompressor().decompress(frame.body, allow_extra_data=False)
    except zstandard.ZstdError as why:
        raise errors.Malformed(f"body is not the zstd frame that its header says: {why}") from why


def event(data: bytes) -> tuple[wire.Frame, events.Event]:
    """A whole record of a stream's topic.  Raises a SchemaError."""
    frame = wire.unpack(data)
    return frame, wire.event(frame.kind, body(frame))
