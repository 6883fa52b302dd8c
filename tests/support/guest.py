"""A real guest: Debian's cloud kernel, busybox, an ext4 root in a qcow2 image; built without root, booted under TCG.

An image holds no boot loader: QEMU loads the kernel and an initramfs of ours (tests/support/initramfs.py), which finds
the disk and hands over to /sbin/init on it.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import initramfs, tools

MIB = 1 << 20
UP = "vmferry-guest: up, counter "
"""What the guest says on its console once it is in user space, followed by the counter that its disk holds."""
DONE = "vmferry-guest: done"
"""The last thing that it says: everything is synced and its root is read-only."""

_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
"""What the kernel needs to find its root; what these need is found, what is built in is left out."""

_FIRST_INIT = f"""#!/bin/busybox sh
{initramfs.LOAD}tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mount -t ext4 -o ro /dev/vda /root || echo "vmferry-guest: no root"
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
"""

_INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
counter=$(cat /counter)
echo "vmferry-guest: up, counter $counter"
for word in $(cat /proc/cmdline); do
    case $word in
    vmferry.write=*)
        mount -o remount,rw /
        dd if=/dev/urandom of=/data/$counter.bin bs=1k count=${word#*=} 2>/dev/null
        rm -f /data/$((counter - 2)).bin
        echo $((counter + 1)) > /counter.new
        sync
        mv /counter.new /counter
        sync
        mount -o remount,ro /
        ;;
    esac
done
cd /data && sha256sum *
echo "vmferry-guest: done"
poweroff -f
"""


def need_guest() -> None:
    """Go on when a guest can be built and booted here (else as `tools.need`)."""
    tools.need("mke2fs", "qemu-img", "qemu-system-x86_64")
    initramfs.need()


def build_image(image: Path, size: int = 64 * MIB) -> None:
    """Make a bootable qcow2 at `image`: `size` bytes of ext4, an eighth of it filled with random files."""
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        root, raw = Path(scratch) / "root", Path(scratch) / "raw"
        _fill_root(root, size // 8)
        raw.touch()
        os.truncate(raw, size)
        _run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "guest", "-E", "root_owner=0:0", "-d", str(root), str(raw))
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image))


def boot(image: Path, format: str = "qcow2", timeout: float = 100, write_kib: int | None = None) -> str:
    """Boot `image` until it powers itself off; gives what it said on its console.

    The image is left as it was, unless `write_kib` is given: then the guest writes a file of so many KiB, removes an
    old one, raises its counter, and syncs.  Raises AssertionError with the console when it does not come up and down
    within `timeout` seconds.
    """
    command = f"console=ttyS0 quiet panic=-1 nokaslr{'' if write_kib is None else f' vmferry.write={write_kib}'}"
    snapshot = "on" if write_kib is None else "off"
    arguments = [
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-machine", "pc,accel=tcg", "-cpu", "max", "-m", "256"),
        *("-kernel", str(initramfs.kernel()), "-initrd", str(_initrd())),
        *("-drive", f"file={image},format={format},if=virtio,snapshot={snapshot}", "-append", command),
    ]
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            [_path("qemu-system-x86_64"), *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        output.seek(0)
        console = output.read()
    assert UP in console, f"{image} did not boot to user space; its console:\n{console}"
    assert DONE in console, f"{image} booted and did not finish; its console:\n{console}"
    return console


def counter(console: str) -> int:
    """The counter that the guest found on its disk when it came up."""
    found = re.search(re.escape(UP) + r"(\d+)", console)
    assert found, console
    return int(found[1])


def files(console: str) -> dict[str, str]:
    """SHA-256 of each file that the guest's disk holds in /data, as the guest itself read them."""
    return {name: digest for digest, name in re.findall(r"([0-9a-f]{64})  (\S+)", console)}


def change(image: Path, kib: int, format: str = "qcow2") -> str:
    """Let the guest change its own disk, by about `kib` KiB; gives its console."""
    return boot(image, format, write_kib=kib)


def _fill_root(root: Path, data: int) -> None:
    for folder in ("bin", "sbin", "dev", "proc", "data"):
        (root / folder).mkdir(parents=True)
    shutil.copy(initramfs.busybox(), root / "bin" / "busybox")
    applets = subprocess.run([initramfs.busybox(), "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin" / "init").write_text(_INIT)
    (root / "sbin" / "init").chmod(0o755)
    (root / "counter").write_text("1\n")
    for number in range(8):
        (root / "data" / f"first-{number}.bin").write_bytes(os.urandom(data // 8))


@functools.cache
def _initrd() -> Path:
    """Our initramfs, kept beside the kernel."""
    handle, name = tempfile.mkstemp(dir=initramfs.HOME)
    with os.fdopen(handle, "wb") as made:
        made.write(initramfs.archive(initramfs.entries(_FIRST_INIT, _MODULES)))
    return Path(name).replace(initramfs.HOME / "initrd")


def _path(tool: str) -> str:
    path = tools.find(tool)
    assert path, f"{tool} not found; call need_guest() first"
    return path


def _run(tool: str, *arguments: str) -> None:
    done = subprocess.run([_path(tool), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{tool} {' '.join(arguments)}: {done.stderr}"
