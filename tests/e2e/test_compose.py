"""compose.yaml as its user runs it: built, started, a disk put in, its replica equal; changed; ended in good order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import errors
from engine.daemon import control
from tests.support import containers, ferry
from tests.support.containers import Podman
from tests.support.ferry import MEBI

PROJECT = "vmferry-test"
SERVICES = ("kafka", "source", "target")
# Everything is downloaded and built where nothing was kept; then it is a minute at most.
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture
def podman() -> Iterator[Podman]:
    with containers.opened() as found:
        _down(found)  # what a run left that was killed
        try:
            yield found
        finally:
            _down(found)


def _down(podman: Podman) -> None:
    podman.compose(PROJECT, "down", "--volumes", "--timeout", "10")
    podman.tell("network", "rm", f"{PROJECT}_default")  # podman-compose leaves it


def _streams(podman: Podman, side: str) -> list[dict[str, Any]]:
    """What the daemon of a side says of its streams; nothing while it does not answer."""
    socket = podman.volume(f"{PROJECT}_{side}-state") / f"{side}.sock"
    try:
        found: list[dict[str, Any]] = control.ask(socket, {"do": "status"})["streams"]
    except (errors.Transient, FileNotFoundError):
        return []
    return found


def _until(podman: Podman, side: str, what: str, least: int) -> None:
    """Wait until the side's one stream has at least so much of `what`."""

    def reached() -> bool:
        streams = _streams(podman, side)
        return bool(streams) and (streams[0].get(what) or 0) >= least

    try:
        ferry.until(reached, 180)
    except AssertionError as why:
        logs = "\n".join(podman.tell("logs", "--tail", "30", f"{PROJECT}_{one}_1").stderr for one in SERVICES)
        raise AssertionError(f"{side} has no {what} >= {least}: {_streams(podman, side)}\n{logs}") from why


def _started(podman: Podman, disk: Path) -> tuple[Path, Path]:
    """All of it runs; gives the disk and its replica, in their volumes."""
    podman.build(PROJECT, "localhost/vmferry", "localhost/vmferry-kafka")
    podman.compose(PROJECT, "up", "--no-start")
    podman.ask("cp", disk, f"{PROJECT}_source_1:/disks/web-1.img")
    podman.compose(PROJECT, "up", "--detach")
    return (
        podman.volume(f"{PROJECT}_disks") / "web-1.img",
        podman.volume(f"{PROJECT}_replicas") / "site-a-web-1.img",
    )


def test_a_disk_is_replicated_between_two_containers_over_a_third(podman: Podman, tmp_path: Path) -> None:
    disk, replica = _started(podman, ferry.image(tmp_path / "web-1.img", 64 * MEBI, {0: 16 * MEBI, 40 * MEBI: MEBI}))
    _until(podman, "target", "proved_epoch", 1)
    assert ferry.same(disk, replica)

    (before,) = _streams(podman, "source")
    for start in (4096, 30 * MEBI, 64 * MEBI - 65536):
        ferry.scribble(disk, start, 65536)
    _until(podman, "target", "proved_epoch", before["epoch"] + 1)
    assert ferry.same(disk, replica)
    (after,) = _streams(podman, "source")
    assert after["sent_bytes"] - before["sent_bytes"] < MEBI, "only what differs travels"

    for service in SERVICES:
        podman.ask("healthcheck", "run", f"{PROJECT}_{service}_1")
    _stopped_well(podman)
    ferry.scribble(disk, 20 * MEBI, 65536)  # while nothing runs
    podman.compose(PROJECT, "start")
    _until(podman, "target", "proved_epoch", after["epoch"] + 1)
    assert ferry.same(disk, replica)
    assert _streams(podman, "source")[0]["sent_bytes"] < MEBI, "its state outlived the containers' stop"


def _stopped_well(podman: Podman) -> None:
    """Stop all; both daemons came to their good end, in the time that they have, by the signal that containers get."""
    podman.compose(PROJECT, "stop", "--timeout", "60")
    for side in ("source", "target"):
        name = f"{PROJECT}_{side}_1"
        assert podman.ask("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name) == "exited 0"
        assert "come to a good end" in podman.tell("logs", name).stderr
