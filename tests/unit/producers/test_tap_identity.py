"""A process is its id and when it began: nobody else is taken for a tap."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine import errors
from producers.tap import identity
from producers.tap.identity import Process

SERVE = """
import socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen(4)
other = socket.socketpair()
taken = [listening.accept(), listening.accept()]
sys.stdout.write("taken")
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def of(pid: int) -> Process:
    return Process(pid, identity._started(pid), identity.boot())


def test_we_are_alive_and_read_as_we_were_written(tmp_path: Path) -> None:
    me = identity.me()
    assert me.pid == os.getpid()
    assert me.alive()
    assert identity.load(tmp_path) is None
    identity.save(tmp_path, me, b"n" * 16)
    assert identity.load(tmp_path) == me


def test_the_same_id_begun_at_another_time_or_boot_is_somebody_else(sleeper: subprocess.Popen[bytes]) -> None:
    process = of(sleeper.pid)
    assert process.alive()
    for other in (replace(process, started=process.started - 1), replace(process, boot="another")):
        assert not other.alive()
        with other.held() as held:
            assert held is None
    with process.held() as held:
        assert held is not None
        assert identity.kill(held, 60)
    sleeper.wait(60)
    assert sleeper.returncode == -signal.SIGKILL


def test_one_that_ended_and_was_not_waited_for_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    process = of(sleeper.pid)
    with process.held() as held:
        assert held is not None
        assert identity.kill(held, 60)
    assert not process.alive()
    with process.held() as held:
        assert held is None
    sleeper.wait(60)
    with process.held() as held:
        assert held is None


def test_connections_of_the_named_socket_are_shut_down_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with subprocess.Popen(
        (sys.executable, "-c", SERVE, str(path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        while not path.exists():
            assert process.poll() is None
        for client in clients:
            while client.connect_ex(str(path)):
                assert process.poll() is None
        assert process.stdout is not None
        assert process.stdout.read(5) == b"taken"
        process.send_signal(signal.SIGSTOP)
        with of(process.pid).held() as held:
            assert held is not None
            assert identity.sever(held, process.pid, tmp_path / "other") == 0
            assert identity.sever(held, process.pid, path) == 2
        for client in clients:
            client.settimeout(60)
            assert client.recv(1) == b""
            client.close()
        process.kill()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 1, "pid": "x", "started": 1, "boot": "b"}'])
def test_a_file_that_does_not_read_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / identity.FILE).write_text(text)
    with pytest.raises(errors.Damaged):
        identity.load(tmp_path)


def test_a_newer_file_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / identity.FILE).write_text('{"version": 2}')
    with pytest.raises(errors.Newer):
        identity.load(tmp_path)
