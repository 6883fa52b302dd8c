"""A reader that needs nothing of vmferry: python reader.py RECORDS FOLDER

RECORDS is a file of records, one after the other; every volume becomes FOLDER/NAME.img.  Plain Python and msgpack
(zstandard only where a record says so).  The rules are those of schemas/FORMAT.md, section 5.  What it leaves out: it
does not compute checksums, digests and chains again, so it trusts whoever gave it the records.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack

HEADER = struct.Struct(">4sBBBBII16sIQ8sQI16s")
STARTED, ASKED, OPEN, WRITTEN, SEAL, LAPSED = 1, 2, 3, 4, 6, 7


def records(data: bytes) -> Iterator[tuple[tuple[int, int, bytes], int, int, int, dict[str, Any]]]:
    """(writer, epoch, seq, kind, body) of each record."""
    at = 0
    while at < len(data):
        head = HEADER.unpack_from(data, at)
        magic, version, suite, kind, codec, _key, length, _stream, generation, counter, nonce, epoch, seq, _ = head
        if (magic, version, suite) != (b"VMFY", 1, 0):
            raise SystemExit(f"byte {at}: not a record that this reader knows")
        body = data[at + HEADER.size : at + HEADER.size + length]
        if codec:
            import zstandard

            body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
        yield (generation, counter, nonce), epoch, seq, kind, msgpack.unpackb(body)
        at += HEADER.size + length


def replay(data: bytes, folder: Path) -> int:
    """Apply every sealed epoch, and nothing else; gives the number of the last one."""
    writer, chain, sealed, opened = (0, 0, b""), bytes(32), 0, 0
    events: list[tuple[int, dict[str, Any]]] = []
    for who, epoch, seq, kind, body in records(data):
        if kind in (ASKED, LAPSED):
            continue  # talk between the two sides
        if kind == STARTED and who[:2] > writer[:2]:
            writer, events = who, []  # a new attempt: what was open is abandoned
        if who[:2] > writer[:2]:
            raise SystemExit(f"epoch {epoch} comes from a writer that never said it started")
        if who != writer or kind == STARTED or epoch <= sealed or (epoch == opened and seq < len(events)):
            continue  # a fenced writer, one that says again that it started, or known already
        if seq != len(events) or (events and epoch != opened) or (kind == OPEN) != (seq == 0):
            raise SystemExit(f"a gap before epoch {epoch} seq {seq}")
        if kind == OPEN and body["fits"][0]["chain"] != chain:
            raise SystemExit(f"epoch {epoch} does not fit what was read so far")
        opened = epoch
        events.append((kind, body))
        if kind == SEAL:
            if body["count"] != seq:
                raise SystemExit(f"the seal of epoch {epoch} counts {body['count']} events, {seq} came")
            apply(events, folder)
            chain, sealed, events = body["chain"], epoch, []
    return sealed


def apply(events: list[tuple[int, dict[str, Any]]], folder: Path) -> None:
    """Lay one whole epoch on the images."""
    volumes = events[0][1]["volumes"]
    images = [folder / f"{volume['name']}.img" for volume in volumes]
    for image, volume in zip(images, volumes, strict=True):
        with image.open("ab") as disk:
            disk.truncate(volume["size"])
    for kind, body in events[1:-1]:
        with images[body["volume"]].open("r+b") as disk:
            disk.seek(body["start"])
            for piece in [body["data"]] if kind == WRITTEN else zeros(body["length"]):
                disk.write(piece)


def zeros(length: int) -> Iterator[bytes]:
    """`length` zero bytes, a little at a time: one record may speak of a whole disk."""
    for at in range(0, length, 1 << 20):
        yield bytes(min(1 << 20, length - at))


if __name__ == "__main__":
    print("last sealed epoch:", replay(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])))
