from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from engine import errors
from engine.hypervisor import calls, link
from tests.support import tools

NOBODY = (65534, 65534)


async def test_a_call_gives_what_it_gives_and_raises_what_it_raises() -> None:
    def fail() -> None:
        raise errors.NotFound("no machine")

    assert await calls.in_thread(lambda: threading.current_thread().daemon, 10, "ask") is True
    with pytest.raises(errors.NotFound, match="no machine"):
        await calls.in_thread(fail, 10, "ask")


async def test_a_call_that_is_never_answered_ends_and_holds_nobody_up() -> None:
    answer = threading.Event()
    with pytest.raises(errors.Transient, match=r"machine a: freeze: libvirt has not answered for 0\.05 s"):
        await calls.in_thread(answer.wait, 0.05, "machine a: freeze")
    assert await calls.in_thread(lambda: 1, 10, "ask") == 1
    answer.set()


async def test_a_timeout_that_the_call_itself_raises_is_its_own() -> None:
    def late() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await calls.in_thread(late, 10, "ask")


def test_a_late_answer_to_a_loop_that_is_gone_disturbs_nobody() -> None:
    answer, ended = threading.Event(), threading.Event()

    def call() -> None:
        answer.wait()
        ended.set()

    async def ask() -> None:
        await calls.in_thread(call, 0.05, "ask")

    with pytest.raises(errors.Transient):
        asyncio.run(ask())
    answer.set()
    assert ended.wait(10)
    for thread in threading.enumerate():
        if thread.name == "vmferry-libvirt-call":
            thread.join(10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One whose parents everybody may enter, as far as they are ours."""
    made = tmp_path / "backup"
    made.mkdir()
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == os.geteuid() and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o011)
    return made


def test_a_directory_for_sockets_is_looked_at_before_qemu_fails(folder: Path) -> None:
    where = str(folder / "socket")
    folder.chmod(0o755)
    with pytest.raises(
        errors.Usage, match=f"QEMU runs as user 65534 and may not write to {folder}, .*chown 65534:65534"
    ):
        calls.check_socket(where, NOBODY)
    folder.chmod(0o777)
    calls.check_socket(where, NOBODY)
    folder.parent.chmod(0o700)
    with pytest.raises(errors.Usage, match=f"may not enter {folder.parent}"):
        calls.check_socket(where, NOBODY)
    for user in (None, (0, 0)):
        calls.check_socket(where, user)


def test_owner_group_and_others_have_rights_of_their_own(folder: Path) -> None:
    ours = (os.stat(folder).st_uid or 1, os.stat(folder).st_gid)
    folder.chmod(0o070)
    calls.check_socket(str(folder / "socket"), (NOBODY[0], ours[1]))
    folder.chmod(0o707)
    with pytest.raises(errors.Usage, match="may not write"):
        calls.check_socket(str(folder / "socket"), (NOBODY[0], ours[1]))


def test_a_socket_that_qemu_could_not_connect_to_is_said(folder: Path) -> None:
    where = folder / "socket"
    with pytest.raises(errors.NotFound, match="which QEMU would connect to"):
        calls.check_peer(str(where), NOBODY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(where))
        where.chmod(0o660)
        folder.chmod(0o711)
        with pytest.raises(errors.Usage, match=f"may not write to {where}, .*group 65534 the right"):
            calls.check_peer(str(where), NOBODY)
        where.chmod(0o666)
        calls.check_peer(str(where), NOBODY)
        folder.chmod(0o700)
        with pytest.raises(errors.Usage, match=f"may not enter {folder}"):
            calls.check_peer(str(where), NOBODY)
        for user in (None, (0, 0)):
            calls.check_peer(str(where), user)


def test_a_socket_that_no_system_could_make_is_said(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="is not there"):
        calls.check_socket(str(tmp_path / "none" / "socket"), None)
    with pytest.raises(errors.Usage, match="107 bytes at most"):
        calls.check_socket("/tmp/" + "x" * 103, None)


def test_bitmaps_in_an_image_are_listed_and_removed(tmp_path: Path) -> None:
    tools.need("qemu-img")
    image = str(tmp_path / "a.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    assert calls.image_bitmaps(image) == []
    subprocess.run(["qemu-img", "bitmap", "--add", image, "cp-1"], check=True)
    assert [one["name"] for one in calls.image_bitmaps(image)] == ["cp-1"]
    calls.remove_image_bitmap(image, "cp-1")
    assert calls.image_bitmaps(image) == []
    with pytest.raises(errors.Usage, match="cp-1"):
        calls.remove_image_bitmap(image, "cp-1")


async def test_without_libvirt_python_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "libvirt", None)
    with pytest.raises(errors.Usage, match="libvirt-dev"):
        await link.Link.open("qemu:///system")
