"""What is installed beside the program, read by systemd's own tools: units, the user, directories, examples."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from engine import units
from engine.daemon import config
from tests.support import tools

PACKAGING = tools.ROOT / "packaging"
SIDES = ("source", "target")
EXPOSURE = 30
"""Of 100, by `systemd-analyze security`; ours are below 25.  A unit without any hardening has 96."""


def run(tool: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    tools.need(tool)
    path = tools.find(tool)
    assert path is not None
    return subprocess.run([path, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)


def unit(side: str, directory: Path, more: str = "") -> Path:
    """A copy whose program is there, which `verify` wants to see; with `more` in its [Service]."""
    text = (PACKAGING / "systemd" / f"vmferry-{side}.service").read_text()
    assert f"\nExecStart=vmferry {side} run -c /etc/vmferry/{side}.toml" in text
    program = directory / "vmferry"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = directory / f"vmferry-{side}.service"
    copy.write_text(
        text.replace("ExecStart=vmferry", f"ExecStart={program}").replace("[Service]\n", f"[Service]\n{more}\n")
    )
    return copy


@pytest.mark.parametrize("side", SIDES)
def test_systemd_takes_the_unit_without_a_word(side: str, tmp_path: Path) -> None:
    found = run("systemd-analyze", "verify", "--man=no", unit(side, tmp_path))
    assert (found.returncode, found.stderr) == (0, "")


def test_what_systemd_does_not_know_would_be_heard_of(tmp_path: Path) -> None:
    found = run("systemd-analyze", "verify", "--man=no", unit("source", tmp_path, "Watchdog=60"))
    assert "'Watchdog'" in found.stderr


@pytest.mark.parametrize(("more", "heard"), [("", ""), ("Wrong=1", "'Wrong'")])
def test_systemd_takes_what_running_machines_add_to_it(tmp_path: Path, more: str, heard: str) -> None:
    copy, beside = unit("source", tmp_path), tmp_path / "vmferry-source.service.d"
    beside.mkdir()
    text = (PACKAGING / "systemd" / beside.name / "machines.conf").read_text()
    (beside / "machines.conf").write_text(f"{text}{more}\n")
    found = run("systemd-analyze", "verify", "--man=no", copy)
    assert heard in found.stderr
    assert bool(found.stderr) == bool(heard)


@pytest.mark.parametrize("side", SIDES)
def test_the_unit_exposes_little(side: str, tmp_path: Path) -> None:
    copy = unit(side, tmp_path)
    found = run("systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}", copy)
    assert found.returncode == 0, found.stdout


def said(side: str, key: str) -> list[str]:
    """What the unit says of it, line by line."""
    text = (PACKAGING / "systemd" / f"vmferry-{side}.service").read_text()
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def calls(name: str) -> set[str]:
    """The system calls of a set, or of one that is no set."""
    if not name.startswith("@"):
        return {name}
    found = run("systemd-analyze", "syscall-filter", name)
    assert found.returncode == 0, found.stderr
    lines = (line.strip() for line in found.stdout.splitlines()[1:])
    return {call for line in lines if line and not line.startswith("#") for call in calls(line)}


def test_a_watchdog_may_take_the_connections_of_its_tap() -> None:
    allowed = {call for line in said("source", "SystemCallFilter") for word in line.split() for call in calls(word)}
    assert {"pidfd_open", "pidfd_getfd", "pidfd_send_signal", "shutdown"} <= allowed
    assert "ptrace" not in allowed


def test_only_the_daemon_itself_is_ended_with_the_source_so_that_taps_go_on() -> None:
    assert said("source", "KillMode") == ["process"]
    assert said("target", "KillMode") == ["mixed"]
    assert said("source", "OOMPolicy") == ["continue"]


def test_there_is_one_user_without_a_shell(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    found = run("systemd-sysusers", f"--root={tmp_path}", PACKAGING / "sysusers.d" / "vmferry.conf")
    assert found.returncode == 0, found.stderr
    name, _, _, group, _, home, shell = (tmp_path / "etc" / "passwd").read_text().strip().split(":")
    assert (name, home, shell) == ("vmferry", "/var/lib/vmferry", "/usr/sbin/nologin")
    assert (tmp_path / "etc" / "group").read_text().strip() == f"vmferry:x:{group}:"


def test_directories_are_made_for_those_who_need_them(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give directories away")
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", PACKAGING / "sysusers.d" / "vmferry.conf")
    found = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", PACKAGING / "tmpfiles.d" / "vmferry.conf")
    assert (found.returncode, found.stderr) == (0, "")
    _, _, user, group, *_ = (tmp_path / "etc" / "passwd").read_text().split(":")
    root = str(pwd.getpwnam("root").pw_uid)
    made = {}
    for path in ("run/vmferry", "var/lib/vmferry", "etc/vmferry", "etc/vmferry/source.d", "etc/vmferry/secrets"):
        at = (tmp_path / path).stat()
        made[path] = (oct(stat.S_IMODE(at.st_mode)), str(at.st_uid), str(at.st_gid))
    assert made == {
        "run/vmferry": ("0o750", user, group),
        "var/lib/vmferry": ("0o700", user, group),
        "etc/vmferry": ("0o750", root, group),
        "etc/vmferry/source.d": ("0o750", root, group),
        "etc/vmferry/secrets": ("0o700", root, "0"),
    }


def test_the_examples_can_be_read(tmp_path: Path) -> None:
    source, target = (tomllib.loads((PACKAGING / "etc" / f"{side}.toml").read_text()) for side in SIDES)
    assert source["state"] == target["state"] == "/var/lib/vmferry"
    assert (source["bus"], source["prefix"]) == (target["bus"], target["prefix"])
    assert source["metrics"] != target["metrics"], "both may run on one machine"
    assert [units.seconds(stream["every"]) for stream in source["streams"].values()] == [30, 300]
    assert units.rate(source["streams"]["web-1"]["rate"]) == 50 << 20
    (accepted,) = target["accept"]
    assert accepted["streams"].startswith(source["site"])
    assert units.size(accepted["quota"]) == 500 << 30


@pytest.mark.parametrize("folder", ["etc", "compose"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_the_example_configurations_are_ones(folder: str, side: str) -> None:
    found = config.check(tools.ROOT / "packaging" / folder / f"{side}.toml", side)
    assert found.streams if side == "source" else found.accept
