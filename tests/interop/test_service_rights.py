"""With the rights that the units give, and no others: what a machine that runs needs can be done, or cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tools

UNIT = tools.ROOT / "packaging" / "systemd" / "vmferry-source.service"
MACHINES = tools.ROOT / "packaging" / "systemd" / "vmferry-source.service.d" / "machines.conf"
QEMU = 65534

PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from producers.machine.view import make_place
from producers.tap.keeper import Keeper

async def main():
    where = Path(sys.argv[1])
    place = make_place(where / "scratch", "a-machine", (QEMU, QEMU))
    keeper = Keeper(where / "home", place, "web-1")
    for _ in range(2):
        await keeper.begin({"vda": 1 << 20}, group=QEMU)
        found = keeper.socket.stat()
        print(oct(place.stat().st_mode & 0o777), place.stat().st_uid, oct(found.st_mode & 0o777), found.st_gid)
        await keeper.end()
    await keeper.close()

asyncio.run(main())
""".replace("QEMU", str(QEMU))


def rights(*files: Path) -> str:
    """The last words of `setpriv --bounding-set`, of what these say together."""
    lines = [line for file in files for line in file.read_text().splitlines()]
    words = [word for line in lines if line.startswith("CapabilityBoundingSet=") for word in line.split("=")[1].split()]
    assert words
    return ",".join(["-all", *(f"+{word.removeprefix('CAP_').lower()}" for word in words)])


def run(where: Path, rights: str) -> subprocess.CompletedProcess[str]:
    tools.need("setpriv")
    (where / "scratch").mkdir(mode=0o711)
    command = ("setpriv", f"--bounding-set={rights}", "--no-new-privs", sys.executable, "-c", PROGRAM, str(where))
    return subprocess.run(
        command, cwd=tools.ROOT, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(tools.ROOT)},
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to take away")
def test_a_machine_has_its_place_and_its_tap_with_the_rights_of_the_drop_in(tmp_path: Path) -> None:
    found = run(tmp_path, rights(UNIT, MACHINES))
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [f"0o700 {QEMU} 0o660 {QEMU}"] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to take away")
def test_root_with_the_rights_of_the_unit_alone_could_not_give_it_a_place(tmp_path: Path) -> None:
    found = run(tmp_path, rights(UNIT))
    assert found.returncode != 0
    assert "Operation not permitted" in found.stderr
