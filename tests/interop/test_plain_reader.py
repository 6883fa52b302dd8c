"""A reader that shares no code with us understands what we write: examples/reader.py, in a process of its own."""

from __future__ import annotations

import ast
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import digest, envelope, epoch
from schemas import events, wire
from schemas.identity import GENESIS, Address, Attempt, Chain, Cut, Volume

READER = Path(__file__).parent.parent.parent / "examples" / "reader.py"
STREAM = bytes(16)
BLOCK = 512
DEFINED = next(number for number, kind in wire.KINDS.items() if kind is events.Defined)


class Source:
    """Two disks and a producer of their history: every record that it says is in `said`, in order."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.disks = [bytearray(self.chance.randbytes(20_000)), bytearray(self.chance.randbytes(7_001))]
        self.chain: Chain = GENESIS
        self.number = 0
        self.attempt = Attempt(0)
        self.said: list[bytes] = []
        self.talks = False
        self.machine = events.Defined(events.Form.LIBVIRT, "<domain/>", b"")
        self.start()

    def start(self, counter: int | None = None) -> None:
        """A new attempt, which says so twice."""
        self.attempt = Attempt(counter or self.attempt.counter + 1, self.chance.randbytes(8))
        for seq in (0, 0):
            self.say(Address(1, self.attempt, 0, seq), events.Started("a stream", self.chain))

    def say(self, address: Address, event: events.Event) -> None:
        self.said.append(wire.pack_event(STREAM, address, event, envelope.squeeze))

    def begin(self) -> epoch.Writer:
        self.number += self.chance.choice((1, 1, 3))
        volumes = tuple(Volume(f"vd{'ab'[at]}", len(disk), BLOCK) for at, disk in enumerate(self.disks))
        somebody_elses = events.Fit(Chain(b"\xee" * 32), b"\xee" * 8)
        writer = epoch.Writer(1, self.attempt, self.number, volumes, (events.Fit(self.chain), somebody_elses))
        self.say(writer.next_address(), writer.opened)
        return writer

    def change(self, writer: epoch.Writer, event: events.Change) -> None:
        self.say(writer.change(event), event)

    def write(self, writer: epoch.Writer, volume: int, start: int, data: bytes) -> None:
        self.change(writer, events.Written(volume, start, digest.of_pieces(start, data, BLOCK), data))

    def seal(self, writer: epoch.Writer) -> None:
        seal = writer.seal(Cut.CRASH, 0, (), 0)
        self.say(writer.next_address(), seal)
        self.chain = seal.chain

    def baseline(self) -> None:
        writer = self.begin()
        self.change(writer, self.machine)
        for at, disk in enumerate(self.disks):
            self.change(writer, events.Zeroed(at, 0, len(disk)))
            self.write(writer, at, 0, bytes(disk))
        self.seal(writer)

    def delta(self) -> None:
        """Overlapping writes, text that compresses, zeros, and a disk that grows or shrinks."""
        resized = self.disks[1]
        size = self.chance.choice((3_000, 7_001, 9_999))
        del resized[size:]
        resized.extend(bytes(size - len(resized)))
        writer = self.begin()
        for _ in range(5):
            at = self.chance.randrange(2)
            disk = self.disks[at]
            start = self.chance.randrange(len(disk) - 2_000)
            data = self.chance.choice((self.chance.randbytes(1_999), b"compresses well " * 100, bytes(700)))
            disk[start : start + len(data)] = data
            if any(data):
                self.write(writer, at, start, data)
            else:
                self.change(writer, events.Zeroed(at, start, len(data)))
            if self.talks and self.chance.random() < 0.2:
                self.define(writer)
            if self.talks and self.chance.random() < 0.3:
                self.lapse()  # no producer says it within an epoch, and no reader minds
        self.seal(writer)

    def die_in_the_middle(self) -> None:
        """An epoch that is never sealed, and a new attempt."""
        writer = self.begin()
        self.write(writer, 0, 0, b"never sealed" * 100)
        self.change(writer, events.Defined(events.Form.LIBVIRT, "<never-sealed/>", b"never sealed"))
        self.start()

    def zombie(self) -> None:
        """An attempt that was overtaken goes on writing, and seals."""
        mine, chain, number = self.attempt, self.chain, self.number
        self.attempt = Attempt(mine.counter - 1, b"a zombie")
        writer = self.begin()
        self.write(writer, 0, 0, b"from a zombie" * 100)
        self.seal(writer)
        self.attempt, self.chain, self.number = mine, chain, number

    def define(self, writer: epoch.Writer) -> None:
        """The machine is another one."""
        text = f"<domain><name>größer {self.chance.random()}</name></domain>\n"
        self.machine = events.Defined(events.Form.LIBVIRT, text, self.chance.randbytes(self.chance.randrange(2000)))
        self.change(writer, self.machine)

    def lapse(self) -> None:
        """A word of what is let go of, or of a step, by this attempt or by one that was overtaken."""
        attempt = self.chance.choice((self.attempt, Attempt(self.attempt.counter - 1, b"a zombie")))
        behind = (events.Behind(bytes(16), 0, 0),)
        lapsed = events.Lapsed(events.Why.CAP, 7, 9, 8, 0, behind)
        self.say(Address(1, attempt, 0, 0), self.chance.choice((lapsed, events.Stepped(events.Rung.SCAN, "why", 0))))


def delivered_twice(said: list[bytes], chance: random.Random) -> list[bytes]:
    """What a bus may do: stretches come again, right after they came."""
    found: list[bytes] = []
    for at, record in enumerate(said):
        found.append(record)
        if chance.random() < 0.2:
            found += said[max(0, at - chance.randrange(4)) : at + 1]
    return found


def read(said: list[bytes], folder: Path) -> subprocess.CompletedProcess[str]:
    log = folder / "records"
    log.write_bytes(b"".join(said))
    return subprocess.run(
        [sys.executable, "-I", READER, log, folder], capture_output=True, text=True, check=False, cwd=folder
    )


def images(folder: Path) -> list[bytes]:
    return [(folder / f"vd{letter}.img").read_bytes() for letter in "ab"]


@pytest.mark.parametrize("seed", range(8))
def test_a_plain_reader_makes_the_disks_of_the_source(seed: int, tmp_path: Path) -> None:
    source = Source(seed)
    source.talks = True
    source.baseline()
    acts: list[Callable[[], None]] = [
        *(source.delta, source.die_in_the_middle, source.zombie, source.start, source.lapse),
    ]
    for _ in range(12):
        source.chance.choice(acts)()
        source.delta()
    done = read(delivered_twice(source.said, source.chance), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"last sealed epoch: {source.number}\n"
    assert images(tmp_path) == [bytes(disk) for disk in source.disks]
    assert (tmp_path / "machine.xml").read_text(encoding="utf-8") == source.machine.text
    assert (tmp_path / "machine.nvram").read_bytes() == source.machine.nvram


@pytest.mark.parametrize(
    ("text", "nvram"), [("<domaix/>", b"a"), ("<domain/>", b"b"), ("<domain/>", b"")], ids=["text", "NVRAM", "none"]
)
def test_a_machine_that_was_not_sealed_so_stops_it(text: str, nvram: bytes, tmp_path: Path) -> None:
    source = Source(3)
    source.machine = events.Defined(events.Form.LIBVIRT, "<domain/>", b"a")
    source.baseline()
    at = next(at for at, record in enumerate(source.said) if wire.unpack(record).kind == DEFINED)
    other = events.Defined(events.Form.LIBVIRT, text, nvram)
    source.said[at] = wire.pack_event(STREAM, wire.unpack(source.said[at]).address, other)
    done = read(source.said, tmp_path)
    assert done.returncode == 1
    assert "do not make the chain" in done.stderr
    assert not (tmp_path / "machine.xml").exists()


def test_data_that_was_not_sealed_so_stops_it(tmp_path: Path) -> None:
    source = Source(4)
    source.baseline()
    writer = source.begin()
    source.write(writer, 0, 100, b"as it was sealed")
    address = wire.unpack(source.said[-1]).address
    data = b"as it was SEALED"
    source.said[-1] = wire.pack_event(STREAM, address, events.Written(0, 100, digest.of_pieces(100, data, BLOCK), data))
    source.seal(writer)
    done = read(source.said, tmp_path)
    assert done.returncode == 1
    assert "do not make the chain" in done.stderr


def test_an_epoch_without_its_seal_changes_nothing(tmp_path: Path) -> None:
    source = Source(1)
    source.baseline()
    expected, sealed = [bytes(disk) for disk in source.disks], source.number
    source.delta()
    done = read(source.said[:-1], tmp_path)
    assert done.stdout == f"last sealed epoch: {sealed}\n"
    assert images(tmp_path) == expected


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        (-2, "a gap before epoch"),
        (-7, "a gap before epoch"),
        (slice(9, -7), "does not fit"),
        (slice(0, 2), "never said it started"),
    ],
)
def test_a_gap_stops_it(lost: int | slice, says: str, tmp_path: Path) -> None:
    source = Source(2)
    source.baseline()
    source.delta()
    source.delta()
    del source.said[lost]
    done = read(source.said, tmp_path)
    assert done.returncode == 1
    assert says in done.stderr


def test_it_needs_nothing_of_ours() -> None:
    found = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(READER.read_text()))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")])
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert found <= {"blake3", "collections", "msgpack", "pathlib", "struct", "sys", "typing", "zstandard"}
