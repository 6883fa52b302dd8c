"""sd_notify, heard by a real datagram socket: one with a path, and an abstract one."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.notify import Notifier
from tests.support.ferry import ROOT


class Manager:
    """Hears what a service says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.settimeout(30)

    def heard(self) -> list[str]:
        return self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify") if request.param == "path" else f"@vmferry-test-{uuid.uuid4()}")
    yield found
    found.close()


def test_each_word_of_the_contract_is_heard(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    notifier.ready("3 streams")
    assert manager.heard() == ["READY=1", "STATUS=3 streams"]
    notifier.ready()
    assert manager.heard() == ["READY=1"]
    notifier.status("2 of 3 streams run")
    assert manager.heard() == ["STATUS=2 of 3 streams run"]
    notifier.watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    notifier.stopping("draining")
    assert manager.heard() == ["STOPPING=1", "STATUS=draining"]


def test_a_reload_carries_the_time_at_which_it_began(manager: Manager) -> None:
    before = time_now()
    Notifier({"NOTIFY_SOCKET": manager.name}).reloading()
    word, instant = manager.heard()
    assert word == "RELOADING=1"
    name, _, microseconds = instant.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time_now()


def time_now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_status_of_several_lines_cannot_say_anything_else(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": manager.name}).status("cannot read x\nREADY=1")
    assert manager.heard() == ["STATUS=cannot read x READY=1"]


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier({})
    assert notifier.watchdog_seconds is None
    for call in (notifier.ready, notifier.reloading, notifier.stopping, notifier.watchdog):
        call()
    notifier.status("nobody hears")


def test_a_manager_that_is_gone_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    manager.close()
    with caplog.at_level(logging.WARNING, "vmferry"):
        notifier.ready()
        os.unlink(manager.name)
        notifier.watchdog()
    assert [record.getMessage() for record in caplog.records] == [
        "the service manager at $NOTIFY_SOCKET does not take what it is told: [Errno 111] Connection refused"
    ]


def test_a_manager_that_comes_back_is_heard_by(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    manager.close()
    notifier.watchdog()
    os.unlink(manager.name)
    manager = Manager(manager.name)
    notifier.watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    manager.close()


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # the queue is full, which is what is wanted
            while True:
                filler.sendto(b"x", manager.name)
        Notifier({"NOTIFY_SOCKET": manager.name}).watchdog()
    assert "does not take what it is told: timed out" in caplog.text
    manager.close()


def test_an_address_of_another_kind_is_said_and_not_used(caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": "vsock:2:1234"}).ready()
    assert "'vsock:2:1234': only /PATH and @NAME are known" in caplog.text


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_wanted_of_the_process_that_is_named(variables: dict[str, str], seconds: float | None) -> None:
    assert Notifier(variables).watchdog_seconds == seconds


SERVICE = """
import signal
from engine import notify

notifier = notify.Notifier()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
notifier.ready("up")
while True:
    if notifier.watchdog_seconds:
        notifier.watchdog()
    if signal.sigwait({signal.SIGHUP, signal.SIGTERM}) == signal.SIGTERM:
        break
    notifier.reloading()
    notifier.ready("up again")
notifier.stopping("draining")
"""


def test_a_service_that_is_started_reloaded_and_stopped_says_so_in_order(manager: Manager) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "60000000"}
    environment.pop("WATCHDOG_PID", None)
    with subprocess.Popen([sys.executable, "-c", SERVICE], env=environment) as service:
        try:
            assert manager.heard() == ["READY=1", "STATUS=up"]
            assert manager.heard() == ["WATCHDOG=1"]
            service.send_signal(signal.SIGHUP)
            assert manager.heard()[0] == "RELOADING=1"
            assert manager.heard() == ["READY=1", "STATUS=up again"]
            assert manager.heard() == ["WATCHDOG=1"]
            service.terminate()
            assert manager.heard() == ["STOPPING=1", "STATUS=draining"]
            assert service.wait(30) == 0
        finally:
            service.kill()
