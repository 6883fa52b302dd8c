"""`vmferry replicate` between formats, and over Kafka: `qemu-img compare` has the last word."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.ferry import MEBI, Ferry, image, scribble, until
from tests.support.kafka import Cluster


@pytest.fixture
def ferry(tmp_path: Path) -> Ferry:
    tools.need("qemu-img", "qemu-nbd", "qemu-io")
    return Ferry(tmp_path / "state")


def qemu(*words: str | Path) -> str:
    return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout


def equal(one: Path, other: Path) -> bool:
    return "identical" in qemu("qemu-img", "compare", one, other)


@pytest.mark.parametrize(("left", "right"), [("qcow2", "raw"), ("raw", "qcow2"), ("qcow2", "qcow2")])
def test_formats_are_read_and_made_by_their_names(ferry: Ferry, tmp_path: Path, left: str, right: str) -> None:
    plain = image(tmp_path / "plain", 32 * MEBI, {0: MEBI, 20 * MEBI: 3 * MEBI})
    source, target = tmp_path / f"disk.{left}", tmp_path / f"replica.{right}"
    qemu("qemu-img", "convert", "-f", "raw", "-O", left, plain, source)
    ferry.replicate(source, target)
    assert equal(source, target)
    qemu("qemu-io", "-f", left, "-c", "write -P 7 10M 64k", "-c", "write -z 0 512k", source)
    said = ferry.replicate(source, target)
    assert equal(source, target)
    assert said["sent"] < 200_000
    assert target.stat().st_blocks * 512 < 6 * MEBI


@contextlib.contextmanager
def exported(path: Path, *options: str) -> Iterator[str]:
    """A raw image behind a qemu-nbd that is not ours.  Gives the URL."""
    socket = path.with_suffix(".sock")
    server = subprocess.Popen(["qemu-nbd", "-t", "-e", "8", "-f", "raw", *options, "-k", socket, path])
    try:
        until(socket.exists)
        yield f"nbd+unix:///?socket={socket}"
    finally:
        server.terminate()
        server.wait()


def test_from_one_nbd_server_to_another(ferry: Ferry, tmp_path: Path) -> None:
    source = image(tmp_path / "source.img", 32 * MEBI, {MEBI: 5 * MEBI})
    target = image(tmp_path / "target.img", 32 * MEBI, {2 * MEBI: MEBI}, seed=9)
    with exported(source, "-r") as left, exported(target) as right:
        dry = ferry.run("replicate", left, right, "--dry-run", "--adopt")
        assert dry.code == 0, dry.err
        refused = ferry.run("replicate", left, right)
        assert (refused.code, "--adopt" in refused.err) == (2, True)
        ferry.replicate(left, right, "--adopt")
        assert ferry.run("verify", left).code == 0
        assert ferry.run("status").code == 0
    assert equal(source, target)
    scribble(source, 20 * MEBI, 100)
    with exported(source, "-r") as left, exported(target) as right:
        assert ferry.replicate(left, right)["sent"] < 200_000
    assert equal(source, target)


def test_of_an_export_that_others_may_write_to_nothing_is_proved(ferry: Ferry, tmp_path: Path) -> None:
    source, target = image(tmp_path / "source.img", 8 * MEBI, {MEBI: MEBI}), tmp_path / "target.img"
    with exported(source) as url:
        refused = ferry.run("replicate", url, target)
        assert refused.code == 4
        assert "its server lets others write to it; have it exported read-only" in refused.err
        found = ferry.run("replicate", url, target, "--force-share", "--json")
        assert found.last["proved"] is False
    assert equal(source, target)


def test_a_qcow2_replica_of_a_source_that_grew_is_refused_with_the_command_that_helps(
    ferry: Ferry, tmp_path: Path
) -> None:
    source, target = image(tmp_path / "disk.img", 8 * MEBI, {0: MEBI}), tmp_path / "replica.qcow2"
    ferry.replicate(source, target)
    with open(source, "r+b") as file:
        file.truncate(12 * MEBI)
    scribble(source, 10 * MEBI, MEBI)
    found = ferry.run("replicate", source, target)
    assert (found.code, f"qemu-img resize {target} {12 * MEBI}" in found.err) == (2, True)
    qemu("qemu-img", "resize", "-q", target, str(12 * MEBI))
    assert ferry.replicate(source, target)["sent"] < 2 * MEBI
    assert equal(source, target)


def test_over_kafka_a_baseline_a_delta_and_a_run_that_is_killed_between(kafka: Cluster, tmp_path: Path) -> None:
    ferry = Ferry(tmp_path / "state")
    source, target = image(tmp_path / "disk.img", 48 * MEBI, {MEBI: 24 * MEBI}), tmp_path / "replica.img"
    process = ferry.begin("replicate", source, target, "--bus", kafka.url, "--rate", "4M")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(6)
    process.kill()
    process.communicate()
    said = ferry.replicate(source, target, "--rate", "off")
    assert said["bus"] == kafka.url
    assert equal(source, target)
    scribble(source, 5 * MEBI, 100)
    assert ferry.replicate(source, target)["sent"] < 100_000
    assert equal(source, target)
