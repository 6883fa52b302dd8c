"""What `vmferry doctor` looks at for running machines: libvirt-python, libvirtd, the right to use it, QEMU's age."""

from __future__ import annotations

import importlib.metadata
import os

from engine import errors
from engine.cli import confined
from engine.cli.examine import Found
from engine.hypervisor import features, link
from engine.hypervisor.connection import SYSTEM, Hypervisor

_NEEDED = (features.COPY_MODE, features.YANK, features.BREAK_SNAPSHOT)


async def hypervisor(asked: str, scratch: str) -> list[Found]:
    """Looks at libvirt's URI `asked`, which has to be there then; else at this host's, without which only running
    machines cannot be protected.  And whether QEMU may reach what lies in the directory `scratch`."""
    uri, required = asked or SYSTEM, bool(asked)
    if link.libvirt is None:
        words = "is not here: machines cannot be protected while they run"
        return [Found("libvirt-python", False, words, link.MISSING, required)]
    found = [Found("libvirt-python", True, importlib.metadata.version("libvirt-python"))]
    try:
        opened = await Hypervisor.connect(uri)
    except errors.FerryError as why:
        return [*found, Found("libvirt", False, str(why), _mend(why), required)]
    try:
        libvirt, qemu = await opened.versions()
        machines = await opened.domains()
        user, models = await opened.qemu_user(), await opened.confined_by()
    except errors.FerryError as why:
        return [*found, Found("libvirt", False, str(why), _mend(why), required)]
    finally:
        await opened.close()
    running = sum(one.active for one in machines)
    words = f"{libvirt} at {uri}: {len(machines)} machines, {running} running; QEMU runs as {_user(user)}"
    found.append(Found("libvirt", True, words))
    return [*found, _age(qemu), *confined.looks(models, scratch)]


def _mend(why: errors.FerryError) -> str:
    if isinstance(why, errors.Transient):
        return "systemctl start libvirtd, or virtqemud; give --hypervisor URI where it is another one"
    return f"usermod -aG libvirt {os.environ.get('USER', 'USER')} and log in again, or run as root"


def _user(user: tuple[int, int] | None) -> str:
    return "an unknown user" if user is None else f"user {user[0]}, group {user[1]}"


def _age(qemu: str) -> Found:
    """By its version: only a running machine could be asked what it can do."""
    numbers = _numbers(qemu)
    have = [feature for feature in _NEEDED if numbers >= _numbers(features.SINCE[feature])]
    lacks = features.lacking(have, _NEEDED)
    words = f"{qemu}{', without ' + lacks if lacks else ''}"
    return Found("QEMU", not lacks, words, "upgrade QEMU to 7.1 or later; until then a step of the ladder is left out")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
