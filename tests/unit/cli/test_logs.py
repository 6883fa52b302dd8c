"""A daemon's log: lines, objects, and the journal's own protocol, heard by a real socket."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.cli import journal, logs

log = logging.getLogger("vmferry.ship")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The loggers are those of the whole process: put them back."""
    root, ours = logging.getLogger(), logging.getLogger("vmferry")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers[:] = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


class Journald:
    """Reads what a journal is sent, as its protocol says."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(30)

    def heard(self) -> dict[str, str]:
        data, files, _, _ = socket.recv_fds(self._socket, 1 << 20, 4)
        for fd in files:
            assert not data
            data = os.pread(fd, os.fstat(fd).st_size, 0)
            os.close(fd)
        return decoded(data)

    def close(self) -> None:
        self._socket.close()


def decoded(data: bytes) -> dict[str, str]:
    found = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, is_text, value = line.partition(b"=")
        if not is_text:
            (length,) = struct.unpack_from("<Q", data)
            value, end, data = data[8 : 8 + length], data[8 + length : 9 + length], data[9 + length :]
            assert end == b"\n"
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    found = Journald(tmp_path / "socket")
    yield found
    found.close()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


def fail() -> None:
    raise ValueError("no\nsuch block")


def test_a_line_has_time_level_stream_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log.warning("epoch %d is late", 7, extra={"stream": "web-1"})
    log.info("up")
    late, up = lines(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning \[web-1\] epoch 7 is late", late)
    assert up.endswith("Z info up")


def test_the_time_is_utc_with_milliseconds() -> None:
    record = logging.makeLogRecord({"created": 1769860800.0425, "msg": "x"})
    assert logs.instant(record) == "2026-01-31T12:00:00.042Z"


def test_what_a_peer_says_cannot_look_like_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log.info("it says %s", "x\n2026-01-31T12:00:00.123Z info all is well")
    _, forged = lines(capsys)
    assert forged.startswith("    2026")


def test_below_the_level_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level=logs.Level.WARNING)
    log.info("no")
    log.warning("yes")
    logs.configure(level=logs.Level.DEBUG)
    log.debug("now")
    logging.getLogger("aiokafka").info("libraries only warn")
    assert [line.split()[-1] for line in lines(capsys)] == ["yes", "now"]


def test_an_object_for_each_record(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.Format.JSON)
    log.info('Zürich says "no"\n', extra={"stream": "web-1", "site": "site-a"})
    logging.getLogger("aiokafka").error("away")
    ours, theirs = objects(capsys)
    assert ours.pop("time").endswith("Z")
    assert ours == {
        "level": "info", "logger": "vmferry.ship", "message": 'Zürich says "no"\n', "stream": "web-1", "site": "site-a",
    }  # fmt: skip
    assert set(theirs) == {"time", "level", "logger", "message"}


def test_an_object_has_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.Format.JSON)
    try:
        fail()
    except ValueError:
        log.exception("it failed")
    (said,) = objects(capsys)
    assert said["message"] == "it failed"
    assert said["exception"].startswith("Traceback")
    assert said["exception"].endswith("ValueError: no\nsuch block")


async def test_each_task_is_about_its_own_stream(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.Format.JSON)

    async def one(name: str) -> None:
        with logs.about(stream=name):
            await asyncio.sleep(0)
            await asyncio.to_thread(log.info, "in a thread")
            await asyncio.create_task(inner())

    async def inner() -> None:
        log.info("in a task")
        log.info("of another", extra={"stream": "other"})

    with logs.about(site="site-a"):
        await asyncio.gather(one("web-1"), one("db"))
        log.info("of none")
    said = objects(capsys)
    assert all(one["site"] == "site-a" for one in said)
    for name in ("web-1", "db"):
        assert [one["message"] for one in said if one.get("stream") == name] == ["in a thread", "in a task"]
    assert [one["message"] for one in said if "stream" not in one] == ["of none"]


def test_the_journal_gets_fields(journald: Journald, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.Format.JOURNAL, socket=journald.path)
    log.warning("epoch %d is late", 7, extra={"stream": "web-1", "site": "site-a"})
    said = journald.heard()
    assert int(said.pop("CODE_LINE")) > 1
    assert said == {
        "MESSAGE": "[web-1] epoch 7 is late", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "vmferry", "LOGGER": "vmferry.ship",
        "CODE_FILE": __file__, "CODE_FUNC": "test_the_journal_gets_fields", "VMFERRY_STREAM": "web-1",
        "VMFERRY_SITE": "site-a",
    }  # fmt: skip
    assert not lines(capsys)


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, "7"), (logging.INFO, "6"), (logging.ERROR, "3"), (logging.CRITICAL, "2")],
)
def test_the_journal_is_told_the_weight(journald: Journald, level: int, priority: str) -> None:
    logs.configure(logs.Format.JOURNAL, logs.Level.DEBUG, journald.path)
    log.log(level, "x")
    said = journald.heard()
    assert said["PRIORITY"] == priority
    assert "VMFERRY_STREAM" not in said


def test_values_of_several_lines_go_by_length(journald: Journald) -> None:
    logs.configure(logs.Format.JOURNAL, socket=journald.path)
    log.info("it says %s", "x\nPRIORITY=0\nMESSAGE=all is well\n")
    said = journald.heard()
    assert said["MESSAGE"] == "it says x\nPRIORITY=0\nMESSAGE=all is well\n"
    assert said["PRIORITY"] == "6"
    try:
        fail()
    except ValueError:
        log.exception("it failed")
    assert journald.heard()["MESSAGE"].endswith("ValueError: no\nsuch block")


def test_what_is_too_large_for_a_datagram_goes_as_a_file(journald: Journald) -> None:
    logs.configure(logs.Format.JOURNAL, socket=journald.path)
    log.info("x" * (32 << 20))
    assert len(journald.heard()["MESSAGE"]) == 32 << 20
    log.info("small again")
    assert journald.heard()["MESSAGE"] == "small again"


def test_without_a_journal_all_is_told_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.Format.JOURNAL, socket=str(tmp_path / "none"))
    assert "none takes no records ([Errno 2] No such file or directory): they are told here" in lines(capsys)[0]
    log.info("up", extra={"stream": "web-1"})
    log.info("still up")
    assert [line.partition(" ")[2] for line in lines(capsys)] == ["info [web-1] up", "info still up"]


def test_a_journal_that_was_started_again_is_found(journald: Journald, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.Format.JOURNAL, socket=journald.path)
    log.info("one")
    assert journald.heard()["MESSAGE"] == "one"
    journald.close()
    log.info("two")
    assert "takes no records" in lines(capsys)[0]
    os.unlink(journald.path)
    journald = Journald(Path(journald.path))
    log.info("three")
    assert journald.heard()["MESSAGE"] == "three"
    assert not lines(capsys)
    journald.close()


def test_a_journal_that_was_started_again_between_two_records_loses_none(
    journald: Journald, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(logs.Format.JOURNAL, socket=journald.path)
    log.info("one")
    journald.close()
    os.unlink(journald.path)
    journald = Journald(Path(journald.path))
    log.info("two")
    assert journald.heard()["MESSAGE"] == "two"
    assert not lines(capsys)
    journald.close()


def test_bytes_that_are_no_text_are_told_all_the_same() -> None:
    assert decoded(journal.encoded({"MESSAGE": "/srv/\udcff.img"})) == {"MESSAGE": "/srv/\\udcff.img"}
