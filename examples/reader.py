"""A reader that needs nothing of vmferry: python reader.py RECORDS FOLDER

RECORDS is a file of records, one after the other; every volume becomes FOLDER/NAME.img, and what was last said of the
machine FOLDER/machine.xml and machine.nvram.  Plain Python, msgpack and blake3 (zstandard only where a record says so).
The rules are those of schemas/FORMAT.md, section 5; digests and chains are computed again, as section 4 has them.  What
it leaves out: checksums of records, and Merkle roots.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
from blake3 import blake3

HEADER = struct.Struct(">4sBBBBII16sIQ8sQI16s")
STARTED, ASKED, OPEN, WRITTEN, ZEROED, SEAL, LAPSED, DEFINED, STEPPED = range(1, 10)
Events = list[tuple[int, dict[str, Any]]]
"""(kind, body) of each event of an epoch."""


def records(data: bytes) -> Iterator[tuple[tuple[int, int, bytes], int, int, int, dict[str, Any]]]:
    """(writer, epoch, seq, kind, body) of each record."""
    at = 0
    while at < len(data):
        head = HEADER.unpack_from(data, at)
        magic, version, suite, kind, codec, _key, length, _stream, generation, counter, nonce, epoch, seq, _ = head
        if (magic, version, suite) != (b"VMFY", 1, 0) or not STARTED <= kind <= STEPPED:
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
    events: Events = []
    for who, epoch, seq, kind, body in records(data):
        if kind in (ASKED, LAPSED, STEPPED):
            continue  # talk between the two sides, and about them
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
            if body["chain"] != chain_of(who[0], epoch, events):
                raise SystemExit(f"the events of epoch {epoch} do not make the chain that its seal names")
            apply(events, folder)
            chain, sealed, events = body["chain"], epoch, []
    return sealed


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def sized(value: bytes) -> bytes:
    return number(len(value)) + value


def chain_of(generation: int, epoch: int, events: Events) -> bytes:
    """The chain that a whole epoch makes."""
    opened, seal = events[0][1], events[-1][1]
    chain = blake3(b"vmferry chain 1" + number(generation) + number(epoch))
    for fit in opened["fits"]:
        chain.update(b"F" + sized(fit["chain"]) + sized(fit["nonce"]))
    for volume in opened["volumes"]:
        chain.update(b"V" + sized(volume["name"].encode()) + number(volume["size"]) + number(volume["block_size"]))
    for kind, body in events[1:-1]:
        chain.update(change(kind, body, opened["volumes"]))
    return chain.update(b"S" + sized(seal["cut"].encode()) + number(seal["missing"])).digest()


def change(kind: int, body: dict[str, Any], volumes: list[dict[str, Any]]) -> bytes:
    """What a chain takes of one change."""
    if kind == DEFINED:
        nvram = blake3(body["nvram"]).digest()
        return b"D" + sized(body["form"].encode()) + sized(body["text"].encode()) + sized(nvram)
    where = number(body["volume"]) + number(body["start"])
    if kind == ZEROED:
        return b"Z" + where + number(body["length"])
    data, size = body["data"], volumes[body["volume"]]["block_size"]
    ends = [*range(size - body["start"] % size, len(data), size), len(data)]
    parts = zip([0, *ends], ends, strict=False)
    return b"W" + where + number(len(data)) + sized(b"".join(blake3(data[a:b]).digest() for a, b in parts))


def apply(events: Events, folder: Path) -> None:
    """Lay one whole epoch on the images, and keep what it says of the machine."""
    volumes = events[0][1]["volumes"]
    images = [folder / f"{volume['name']}.img" for volume in volumes]
    for image, volume in zip(images, volumes, strict=True):
        with image.open("ab") as disk:
            disk.truncate(volume["size"])
    for kind, body in events[1:-1]:
        if kind == DEFINED:
            (folder / "machine.xml").write_text(body["text"], encoding="utf-8")
            (folder / "machine.nvram").write_bytes(body["nvram"])
            continue
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
