"""What version 1 wrote once is written and read for ever.  A change of these bytes is a new version, not an edit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import wire
from tests.support import samples

NAMES = [*samples.EVENTS, *samples.RECEIPTS, *samples.CONTROL]
FORMAT = Path(wire.__file__).parent / "FORMAT.md"


def rows(header: str) -> Iterator[list[str]]:
    """The cells of each row of the table in FORMAT.md whose head begins with `header`."""
    text = FORMAT.read_text()
    assert text.count(f"\n| {header} |") == 1, f"no table {header!r}"
    for line in text.split(f"\n| {header} |")[1].split("\n")[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("name", NAMES)
def test_we_write_the_bytes_that_version_1_wrote(name: str) -> None:
    assert samples.packed(name) == samples.golden(name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_we_read_the_bytes_that_version_1_wrote(name: str) -> None:
    frame = wire.unpack(samples.golden(name).read_bytes())
    assert (frame.stream, frame.address, frame.codec) == (samples.STREAM, samples.address(name), wire.CODEC_NONE)
    if name in samples.EVENTS:
        assert wire.event(frame.kind, frame.body) == samples.EVENTS[name]
    elif name in samples.CONTROL:
        assert wire.said(frame.kind, frame.body) == samples.CONTROL[name]
    else:
        assert wire.receipt(frame.kind, frame.body) == (samples.SENDER, samples.RECEIPTS[name])


def test_there_are_no_golden_bytes_of_a_kind_that_we_forgot() -> None:
    assert {path.stem for path in samples.golden("x").parent.iterdir()} == set(NAMES)


def test_the_byte_table_is_the_header() -> None:
    at = 0
    for start, length, *_ in rows("at"):
        assert int(start) == at
        at += int(length)
    assert at == wire.HEADER_SIZE
    record = samples.golden("seal").read_bytes()
    table = {name: record[int(start) :][: int(length)] for start, length, name, _ in rows("at")}
    assert table["magic"] == wire.MAGIC
    assert table["stream"] == samples.STREAM
    assert table["attempt nonce"] == samples.ATTEMPT.nonce
    assert int.from_bytes(table["epoch"], "big") == samples.address("seal").epoch
    assert int.from_bytes(table["length"], "big") == len(record) - wire.HEADER_SIZE


def test_the_document_lists_every_kind_with_its_number_and_fields() -> None:
    told = {int(number): (name, fields) for number, name, fields in rows("kind")}
    expected = {
        number: (
            kind.__name__,
            ", ".join(
                (*(("sender",) if wire.FIRST_RECEIPT <= number < wire.FIRST_CONTROL else ()), *wire._fields(kind))
            ),
        )
        for number, kind in wire.KINDS.items()
    }
    assert told == expected


def test_the_document_tells_the_limits_that_hold() -> None:
    text = FORMAT.read_text()
    for limit in (wire.MAX_PAYLOAD, wire.MAX_RECORD, wire.MAX_ITEMS):
        assert re.search(rf"\b{limit:,}\b", text), f"{limit:,} is not in FORMAT.md"
