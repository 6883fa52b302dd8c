"""Who may call a daemon, and what a dead one leaves where it listened."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.daemons import Daemon, Sites
from tests.support.ferry import MEBI, Ferry, image, until

pytestmark = pytest.mark.timeout(240)
NOBODY, NOGROUP, STRANGERS = 65534, 65534, 54321

# All that a command may need is imported first: a stranger may not be able to read the interpreter's own files.
BECOME = """
import asyncio.runners, concurrent.futures.thread, encodings.idna, grp, os, pathlib, pwd
from engine import cli
from engine.cli import app, daemons
import consumers.daemon, producers.daemon
app.whole()
daemons.RUN = pathlib.Path({run!r})
os.setgroups([])
os.setgid({group})
os.setuid({user})
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that everybody may enter, as pytest's own is not."""
    if os.geteuid() != 0:
        tools.forbidden("only root can become another user: run as root")
    made = Path(tempfile.mkdtemp(prefix="vmferry-sockets-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def sites(home: Path) -> Iterator[Sites]:
    made = Sites(home)
    image(made.disk("web"), MEBI)
    made.serve("web")
    try:
        yield made
    finally:
        made.stop()


def _as(group: int, state: Path, run: Path = Path("/nowhere")) -> Ferry:
    """Commands of user nobody, as a member of `group`."""
    return Ferry(state, BECOME.format(run=str(run), group=group, user=NOBODY))


def _refused(ferry: Ferry, names: Path) -> None:
    for words in (("status",), ("pause", "web"), ("target", "release", "web"), ("status", "--check")):
        found = ferry.run(*words)
        assert found.code == 2, (words, found)
        said = found.out if words[-1] == "--check" else found.err
        assert f"{names}: permission denied" in said, (words, found)
        assert "`sudo`" in said
        assert "control_group" in said


def test_a_socket_is_its_owners_alone_and_a_stranger_is_told_who_may_call(sites: Sites) -> None:
    sites.target.state.mkdir(mode=0o755)
    sites.target.start()
    assert stat.S_IMODE(sites.target.socket.stat().st_mode) == 0o600
    _refused(_as(STRANGERS, sites.target.state), sites.target.socket)
    assert "root and root, mode 600" in _as(STRANGERS, sites.target.state).run("status").err


def test_a_group_may_call_and_those_outside_of_it_are_told_its_name(sites: Sites) -> None:
    sites.target.config["control_group"] = "nogroup"
    sites.target.write()
    sites.target.state.mkdir(mode=0o755)
    sites.start()
    until(sites.proved())
    found = sites.target.socket.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, NOGROUP)
    member = _as(NOGROUP, sites.target.state)
    shown = member.run("status")
    assert shown.code == 0, shown.err
    assert "stream     site-a/web" in shown.out
    assert member.run("pause", "web").code == 0
    until(lambda: sites.target.stream()["state"] == "paused")
    assert member.run("resume", "web").code == 0
    assert member.told("target", "release", "web")["held"] == "released", "the daemon does it, for its own state"
    stranger = _as(STRANGERS, sites.target.state)
    _refused(stranger, sites.target.socket)
    assert "root and nogroup, mode 660" in stranger.run("status").err


def test_a_group_calls_where_systemd_puts_the_socket_and_a_stranger_is_told_of_the_state(
    sites: Sites, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = home / "run"
    run.mkdir(mode=0o750)
    shutil.chown(run, group="nogroup")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(run))
    sites.target.config["control_group"] = "nogroup"
    sites.target.write()
    sites.target.state.mkdir(mode=0o700)  # as StateDirectoryMode= of the unit has it
    sites.target.start()
    assert (run / "target.sock").is_socket()
    found = _as(NOGROUP, sites.target.state, run).run("status")
    assert found.code == 0, found.err
    assert "daemon     target of site site-b" in found.out
    judged = _as(NOGROUP, sites.target.state, run).run("status", "--check")
    assert "no stream is known here" in judged.out, "none was taken yet"
    _refused(_as(STRANGERS, sites.target.state, run), run / "source.sock")
    own = home / "own"  # with a state of his own a stranger is not refused for a daemon that is not his
    own.mkdir()
    own.chmod(0o777)
    mine = _as(STRANGERS, own, run).run("status")
    assert mine.code == 0, mine.err


def test_what_a_killed_daemon_leaves_stops_neither_the_next_one_nor_a_command(sites: Sites) -> None:
    sites.start()
    until(sites.proved())
    for daemon in (sites.source, sites.target):
        daemon.kill()
        assert daemon.socket.is_socket(), "kill -9 leaves it"
        found = daemon.ferry.run("cut" if daemon is sites.source else "pause", "web")
        assert found.code == 3
        assert "daemon answers in" in found.err
        assert "systemctl start vmferry-" in found.err
        daemon.start()
    until(sites.proved())
    assert sites.target.ferry.run("status").code == 0


def test_a_second_daemon_is_refused_by_state_and_by_socket_and_told_who_is_there(sites: Sites, home: Path) -> None:
    sites.target.start()
    pid = sites.target.pid
    again = sites.target.ferry.run("target", "run", "-c", sites.target.file)
    assert again.code == 4
    assert f"the target daemon of {sites.target.state} is held by process {pid} " in again.err
    assert "stop that one first" in again.err
    second = Daemon("target", home / "second", {**sites.target.config, "state": str(home / "second" / "state")})
    second.config["control"] = str(sites.target.socket)
    second.write()
    other = second.ferry.run("target", "run", "-c", second.file)
    assert other.code == 4
    assert f"a daemon answers at {sites.target.socket} already" in other.err
    assert sites.target.ask("status")["pid"] == pid
