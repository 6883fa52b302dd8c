"""status, epochs, doctor and completion as their user sees them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support import hypervisor
from tests.support.ferry import MEBI, ROOT, Ended, Ferry, image, interrupted, scribble, until
from tests.support.hypervisor import Libvirtd

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", 32 * MEBI, {MEBI: 2 * MEBI})


def status(ferry: Ferry, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the stream, its replica)."""
    found = ferry.run("status", *words, "--json")
    assert found.code == 0, found.err
    (stream,) = found.last["streams"]
    return stream, stream["replicas"][0]


def state_of(ferry: Ferry) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in ferry.state.rglob("*") if path.is_file()
    }


def test_without_a_stream_status_says_how_to_begin(ferry: Ferry) -> None:
    found = ferry.run("status")
    assert found.code == 0
    assert "no stream is known here: `vmferry replicate SRC DST` begins one" in found.out


def test_an_unknown_stream_is_named_with_those_that_are_known(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    for command in ("status", "epochs", "verify", "recover"):
        found = ferry.run(command, "dusk")
        assert found.code == 3, found.out
        assert "no stream 'dusk'" in found.err
        assert "these are known: disk" in found.err


def test_status_of_a_replica_that_has_everything(ferry: Ferry, source: Path, target: Path) -> None:
    done = ferry.replicate(source, target)
    epoch, found = done["epoch"], ferry.run("status")
    assert found.code == 0, found.err
    for words in (
        f"state      {ferry.state}",
        f"stream     disk ({done['stream']})",
        f"source     {source}: epoch {epoch} sealed, no process is at it",
        "not encrypted: whoever can read the bus can read the disk",
        f"replica    {target}: no process is at it",
        f"at       epoch {epoch}, crash-consistent of {done['instant']}",
        f"proved   epoch {epoch} of {done['instant']}: both sides' Merkle roots are equal",
        f"RPO      0 s: the source was not written to since epoch {epoch}",
        "lag      0 s, 0 B in 0 epochs on the bus",
        "slow     nothing waits: every cut is applied",
    ):
        assert words in found.out


def test_status_as_an_object(ferry: Ferry, source: Path, target: Path) -> None:
    done = ferry.replicate(source, target, "--undo-quota", "64M", "--log-quota", "128M")
    stream, replica = status(ferry)
    assert stream["encrypted"] is False
    assert (replica["epoch"], replica["usable_epoch"], replica["proved_epoch"]) == (done["epoch"],) * 3
    assert replica["roots"] == done["roots"]
    assert (replica["lag_seconds"], replica["lag_bytes"], replica["rpo_seconds"]) == (0, 0, 0)
    assert replica["slow"] == "none"
    assert replica["undo"]["quota"] == 64 * MEBI
    assert {one["name"]: one["quota"] for one in stream["stores"]} == {"state": None, "log": 128 * MEBI}


def test_a_source_that_was_written_to_makes_the_rpo_grow(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    scribble(source, 5 * MEBI, 100)
    _, replica = status(ferry)
    assert replica["rpo_seconds"] > 0
    assert replica["slow"] == "source"
    assert replica["waits"] == "it was written to since the last cut; no process is at it: run `vmferry replicate`"


def test_what_is_on_the_bus_and_not_applied_is_the_lag(ferry: Ferry, source: Path, target: Path) -> None:
    epoch = ferry.replicate(source, target)["epoch"]
    scribble(source, 8 * MEBI, 3 * MEBI)
    # A source alone: its epochs are durable on the bus, and nobody is there to apply them.
    side = subprocess.Popen(
        [sys.executable, "-m", "tests.support.side", "source", str(ferry.state), str(source)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: status(ferry)[1]["lag_epochs"])
        stream, replica = status(ferry)
        assert stream["source"]["process"] == side.pid
        assert replica["process"] is None
        assert replica["epoch"] == epoch
        assert replica["lag_bytes"] > MEBI
        assert replica["lag_seconds"] > 0
        assert replica["rpo_seconds"] > 0
        assert replica["slow"] == "target"
        assert "wait to be applied; no process is at it" in replica["waits"]
    finally:
        side.send_signal(signal.SIGKILL)
        side.wait()


def test_a_bus_that_is_away_is_said_and_not_waited_for(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    (ferry.state / "log").rename(ferry.state / "elsewhere")
    _, replica = status(ferry)
    assert replica["bus_reachable"] is False
    assert replica["lag_bytes"] is None
    assert replica["slow"] == "bus"
    assert "unknown: the bus is not reachable" in ferry.run("status").out


def test_status_sees_a_running_process_and_does_not_touch_it(ferry: Ferry, source: Path, target: Path) -> None:
    process = ferry.begin("replicate", source, target, "--follow", "--every", "1s", "--quiet")
    try:
        until(lambda: (ferry.state / "streams").exists() and _epoch(ferry) >= 1)
        for _ in range(3):
            stream, replica = status(ferry)
            assert (stream["source"]["process"], replica["process"]) == (process.pid, process.pid)
        before = _epoch(ferry)
        scribble(source, 6 * MEBI, 100)
        until(lambda: _epoch(ferry) > before)
        found = ferry.run("verify", "disk")
        assert found.code == 4
        assert f"is held by process {process.pid}" in found.err
        assert "stop that one first" in found.err
    finally:
        ended = interrupted(process)
    assert ended.code == 130, ended.err


def _epoch(ferry: Ferry) -> int:
    found = ferry.run("status", "--json").last
    return next((one["epoch"] for stream in found["streams"] for one in stream["replicas"]), 0)


def test_looking_changes_nothing(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    before = state_of(ferry)
    for words in (("status",), ("epochs", "disk"), ("status", "disk", "--json"), ("verify", "disk")):
        assert ferry.run(*words).code == 0
    after = state_of(ferry)
    changed = {Path(path).name for path in after if after[path] != before.get(path)}
    assert changed <= {"lock", "index.sqlite-shm", "index.sqlite-wal", "state.sqlite-shm", "state.sqlite-wal"}


def test_a_store_beyond_four_fifths_of_its_quota_is_warned_of(ferry: Ferry, source: Path, target: Path) -> None:
    done = ferry.replicate(source, target)
    source_side = ferry.state / "streams" / done["stream"] / "source"
    used = next(one["used"] for one in status(ferry)[0]["stores"] if one["name"] == "log")
    (source_side / "log-quota").write_text(f"{used}\n")
    found = ferry.run("status")
    assert f"warning: disk: the log {ferry.state / 'log'}: 100 % of its quota" in found.out


def test_a_stream_goes_by_label_uuid_prefix_source_and_replica(ferry: Ferry, source: Path, target: Path) -> None:
    stream = ferry.replicate(source, target)["stream"]
    for name in ("disk", stream, stream[:8], str(source), str(target)):
        assert ferry.run("epochs", name, "--json").last["stream"] == stream


def test_two_replicas_of_one_stream_are_told_apart_by_their_paths(
    ferry: Ferry, source: Path, target: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.img"
    ferry.replicate(source, target)
    ferry.replicate(source, other)
    found = ferry.run("epochs", "disk")
    assert found.code == 2
    assert "stream disk has 2 replicas: name one of " in found.err
    assert str(target) in found.err
    assert str(other) in found.err
    assert ferry.run("epochs", other, "--json").last["target"] == str(other)


def test_several_streams_of_one_label_are_listed(ferry: Ferry, source: Path, target: Path, tmp_path: Path) -> None:
    one = ferry.replicate(source, target)["stream"]
    two = ferry.replicate(image(tmp_path / "more.img", MEBI), tmp_path / "more-replica.img")["stream"]
    record = ferry.state / "streams" / two / "stream.json"
    record.write_text(record.read_text().replace('"more"', '"disk"'))
    found = ferry.run("verify", "disk")
    assert found.code == 2
    assert "'disk' names 2 streams" in found.err
    assert one in found.err
    assert two in found.err


def test_it_says_which_version_it_is(ferry: Ferry) -> None:
    assert re.fullmatch(r"vmferry \d+\.\d+\.\d+\S*\n", ferry.run("--version").out)


def test_epochs_are_listed_newest_last(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    for at in range(3):
        scribble(source, (2 + at) * MEBI, 100)
        ferry.replicate(source, target)
    found = ferry.run("epochs", "disk", "--json").last
    numbers = [one["epoch"] for one in found["epochs"]]
    assert numbers == sorted(numbers)
    assert len(numbers) == 4
    assert all(one["cut"] == "crash" and one["missing"] == 0 and one["roots"] for one in found["epochs"])
    assert found["position"]["epoch"] == numbers[-1]
    undo = [one["undo_bytes"] for one in found["epochs"]]
    assert undo == sorted(undo, reverse=True)
    assert undo[0] > 64 << 10
    assert undo[-1] == 0
    few = ferry.run("epochs", "disk", "--limit", "2", "--json").last["epochs"]
    assert [one["epoch"] for one in few] == numbers[-2:]
    shown = ferry.run("epochs", "disk")
    assert f"disk: {target} keeps {len(numbers)} epochs" in shown.out
    assert "go back with `vmferry target rewind disk --to EPOCH`" in shown.out


def test_a_replica_that_was_never_equal_to_its_source_says_where_it_is(ferry: Ferry, target: Path) -> None:
    source = image(target.with_name("large.img"), 64 * MEBI)
    process = ferry.begin("replicate", source, target, "--rate", "2M", "--json")
    until(lambda: any(ferry.state.glob("streams/*/replica-*/state.sqlite")))
    until(lambda: ferry.run("epochs", source, "--json").code == 0)
    until(lambda: ferry.run("epochs", source, "--json").last["position"]["epoch"] > 0)
    process.kill()
    process.communicate()
    shown = ferry.run("epochs", source)
    assert shown.code == 0, shown.err
    assert "keeps 0 epochs" in shown.out
    assert "no state of the source has been reached yet" in shown.out
    assert "blocks are missing" in shown.out


def names(found: Ended) -> dict[str, dict[str, Any]]:
    objects = [line for line in found.out.splitlines() if '"found"' in line]
    return {one["name"]: one for one in json.loads(objects[0])["found"]}


def test_doctor_says_that_all_is_here(ferry: Ferry) -> None:
    found = ferry.run("doctor", "--json")
    assert found.code == 0, found.err
    looked = names(found)
    assert {"Python", "SQLite", "qemu-img", "qemu-nbd", "holes", "O_DIRECT", "OFD locks", "fdatasync", "room"} <= set(
        looked
    )
    assert "p50" in looked["fdatasync"]["words"]
    assert not ferry.state.exists(), "looking makes nothing"
    assert "all that is needed is here" in ferry.run("doctor").out


def test_doctor_says_what_is_missing_and_what_mends_it(ferry: Ferry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = ferry.run("doctor")
    assert found.code == 0, found.err
    assert "weak     qemu-nbd       is not here: only raw images" in found.out
    assert "mend it: apt-get install qemu-utils" in found.out


def test_doctor_says_whether_machines_can_be_protected_while_they_run(ferry: Ferry) -> None:
    hypervisor.need_bindings()
    away = ferry.run("doctor", "--hypervisor", f"qemu:///system?socket={ferry.state}/none")
    assert away.code == 3
    assert "MISSING  libvirt" in away.out
    assert "systemctl start libvirtd" in away.out


def test_doctor_looks_at_a_libvirtd(ferry: Ferry, libvirtd: Libvirtd) -> None:
    found = ferry.run("doctor", "--json", "--hypervisor", libvirtd.uri)
    assert found.code == 0, found.err
    looked = names(found)
    assert looked["libvirt-python"]["ok"]
    assert "running; QEMU runs as user 0, group 0" in looked["libvirt"]["words"]
    assert looked["QEMU"]["ok"]


def test_doctor_looks_at_a_bus(ferry: Ferry, source: Path, target: Path) -> None:
    ferry.replicate(source, target)
    found = ferry.run("doctor", "--bus", f"log:{ferry.state / 'log'}")
    assert found.code == 0, found.err
    assert "vmferry.receipts: settings are safe" in found.out
    away = ferry.run("doctor", "--bus", "kafka://127.0.0.1:9")
    assert away.code == 3
    assert "MISSING  bus" in away.out
    assert "this machine lacks: bus" in away.err


def complete(ferry: Ferry, *words: str) -> list[str]:
    """What bash is offered for the last word."""
    environment = {
        **os.environ, "VMFERRY_STATE": str(ferry.state), "PYTHONPATH": str(ROOT), "_VMFERRY_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("vmferry", *words)), "COMP_CWORD": str(len(words)),
    }  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-m", "engine.cli"], env=environment, capture_output=True, text=True, check=False
    )
    return found.stdout.split()


def test_shells_complete_commands_and_streams(
    ferry: Ferry, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Typer asks which shell has started it, and tests may be started by none.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    stream = ferry.replicate(source, target)["stream"]
    assert uuid.UUID(stream)
    assert complete(ferry, "sta") == ["status"]
    assert complete(ferry, "target", "re") == ["release", "rewind", "resume"]
    assert complete(ferry, "status", "d") == ["disk"]
    assert complete(ferry, "verify", stream[:5]) == [stream]
    shown = ferry.run("--show-completion", "bash")
    assert "vmferry" in shown.out + shown.err
