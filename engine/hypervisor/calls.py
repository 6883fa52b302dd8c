"""Blocking calls in threads of their own, and what hypervisor code asks of this host's files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from engine import errors
from engine.nbd import qemu

T = TypeVar("T")


async def in_thread(call: Callable[[], T], seconds: float, what: str) -> T:
    """What `call` gives or raises.  Raises Transient when it has not returned after `seconds`; it goes on then.

    A thread for each call, and no pool: a call that libvirt never answers (a QEMU whose monitor hangs) would keep its
    place in a pool, and keep the process from ending.  A thread costs 0.1 ms; cuts are seconds apart.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if ended.done():
            return
        if error is not None:
            ended.set_exception(error)
        else:
            ended.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for a late answer
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="vmferry-libvirt-call", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await ended
    except TimeoutError as error:
        if not ended.cancelled():
            raise
        raise errors.Transient(f"{what}: libvirt has not answered for {seconds:g} s; it is tried again") from error


def check_socket(socket: str, user: tuple[int, int] | None) -> None:
    """Raises NotFound or Usage when QEMU, run as (user, group), could not make a socket there; no access lists.

    None is a user that nobody knows: then only the length and the directory are looked at.
    """
    if len(os.fsencode(socket)) > qemu.LONGEST_SOCKET:
        raise errors.Usage(f"{socket} is too long for a socket: {qemu.LONGEST_SOCKET} bytes at most")
    folder = Path(socket).parent
    if not folder.is_dir():
        raise errors.NotFound(f"{folder}, where QEMU would make a socket, is not there")
    if user is None or user[0] == 0:
        return
    for place, need in ((folder, 0o3), *((above, 0o1) for above in folder.parents)):
        if not _may(os.stat(place), user, need):
            right = "write to" if place == folder else "enter"
            raise errors.Usage(
                f"QEMU runs as user {user[0]} and may not {right} {place}, where its socket {Path(socket).name} is to"
                f" be: give the directory to it (chown {user[0]}:{user[1]} {place})"
            )


def check_peer(socket: str, user: tuple[int, int] | None) -> None:
    """Raises NotFound or Usage when QEMU, run as (user, group), could not connect to the socket there."""
    if not Path(socket).exists():
        raise errors.NotFound(f"{socket}, which QEMU would connect to, is not there")
    if user is None or user[0] == 0:
        return
    for place, need in ((Path(socket), 0o6), *((above, 0o1) for above in Path(socket).parents)):
        if not _may(os.stat(place), user, need):
            raise errors.Usage(
                f"QEMU runs as user {user[0]} and may not {'write to' if need == 0o6 else 'enter'} {place}, by which it"
                f" would reach {socket}: give its group {user[1]} the right to"
            )


def _may(found: os.stat_result, user: tuple[int, int], need: int) -> bool:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == user[0]:
        return mode >> 6 & need == need
    if found.st_gid == user[1]:
        return mode >> 3 & need == need
    return mode & need == need


def image_bitmaps(path: str) -> list[dict[str, Any]]:
    """The bitmaps that the qcow2 image `path` holds, as qemu-img info says them; it must not be open to write."""
    ended = _qemu_img("info", "--output=json", "-f", "qcow2", path)
    found: list[dict[str, Any]] = json.loads(ended).get("format-specific", {}).get("data", {}).get("bitmaps", [])
    return found


def remove_image_bitmap(path: str, bitmap: str) -> None:
    """Raises InUse while a machine has the image open."""
    _qemu_img("bitmap", "--remove", "-f", "qcow2", path, bitmap)


def _qemu_img(*words: str) -> str:
    ended = subprocess.run([qemu.program("qemu-img"), *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        kind = errors.InUse if "lock" in ended.stderr else errors.Usage
        raise kind(f"qemu-img {' '.join(words)}: {ended.stderr.strip()}")
    return ended.stdout
