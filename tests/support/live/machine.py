"""The guest of the live tests: kernel, busybox, guest agent and a load, all in its initramfs; its disks are data disks.

So whatever befalls a disk, the guest lives, answers its agent, and reports.  What the load writes is said in load.c.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import guest, initramfs, tools

UP = "vmferry-guest: up"
"""What it says on its console once disks are mounted, and the agent and the load run."""

_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4")

_INIT = f"""#!/bin/busybox sh
{initramfs.LOAD}export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /mnt /run /sbin /etc
ln -s /bin/down /sbin/shutdown
beat= file= agent=
for word in $(cat /proc/cmdline); do
    case $word in
    vmferry.disks=*) disks=${{word#*=}} ;;
    vmferry.agent=*) agent=${{word#*=}} ;;
    vmferry.beat=*) beat=${{word#*=}} ;;
    vmferry.file=*) file=${{word#*=}} ;;
    esac
done
tries=0
while [ $(ls /sys/block | grep -c ^vd) -lt $disks ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
for name in $(ls /sys/block | grep ^vd); do
    mkdir /mnt/$name
    mount -t ext4 /dev/$name /mnt/$name && continue
    echo "vmferry-guest: $name does not mount"
    rmdir /mnt/$name
done
tries=0
while [ -n "$agent" ] && [ $tries -lt 300 ]; do  # the name of a port comes a little after its driver
    port=$(grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name 2>/dev/null) && break
    sleep 0.1; tries=$((tries + 1))
done
if [ -n "$port" ] && [ "$agent" != none ]; then
    qemu-ga -m virtio-serial -p /dev/$(basename $(dirname $port)) -t /run > /run/agent.log 2>&1 &
    [ $agent = on ] || {{ sleep 1; kill -STOP $!; echo "vmferry-guest: the agent is stopped"; }}
fi
[ -z "$beat" ] || load run $beat $file /mnt/* &
echo "{UP}"
while :; do sleep 1000; done
"""
# `wait` would end when the load does; a shell that is PID 1 reaps while it waits for its sleep.

_DOWN = """#!/bin/sh
echo "vmferry-guest: going down"
killall load
while killall -0 load; do sleep 0.1; done
umount -a -t ext4
case "$*" in *-r*) reboot -f ;; esac
poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Report:
    """One line of the load."""

    at: float
    "Seconds of the guest's clock."
    beat: int
    files: tuple[int, ...]
    "The newest file of each disk."
    longest: float
    "Seconds of the longest wait for one write since the line before, also of one that still waits."


def need() -> None:
    """Go on when such a guest can be built here (else as `tools.need`)."""
    guest.need_guest()
    tools.need("gcc", "ldd", "debugfs", "e2fsck")
    if not _agent().exists():
        tools.lack("the guest agent is not in .tools/guest; sh tools/install-test-tools.sh")


@functools.cache
def initrd() -> bytes:
    """The whole initramfs, with the load compiled; made once in a process."""
    with tempfile.TemporaryDirectory() as scratch:
        load = Path(scratch) / "load"
        source = Path(__file__).with_name("load.c")
        subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", load, source], check=True)
        entries = initramfs.entries(_INIT, _MODULES)
        entries += [(name, 0o040755, b"") for name in ("proc", "sys")]
        entries += [("bin/load", 0o100755, load.read_bytes()), ("bin/down", 0o100755, _DOWN.encode())]
        entries += initramfs.program(_agent(), "qemu-ga")
        return initramfs.archive(entries)


def make_disk(path: Path, size: int, format: str) -> None:
    """A disk of `size` bytes with an empty ext4 on it, "raw" or "qcow2"."""
    raw = path if format == "raw" else path.with_suffix(".raw")
    with open(raw, "wb") as made:
        made.truncate(size)
    subprocess.run(
        [tools.find("mke2fs") or "mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0", raw], check=True
    )
    if format != "raw":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", format, raw, path], check=True)
        raw.unlink()


def reports(console: str) -> list[Report]:
    """Every whole line of the load, oldest first."""
    found = re.findall(r"vmferry-load: at=([\d.]+) beat=(\d+) files=([\d,]*) longest=([\d.]+)\r?\n", console)
    return [
        Report(float(at), int(beat), tuple(int(one) for one in files.split(",") if one), float(longest) / 1000)
        for at, beat, files, longest in found
    ]


def _agent() -> Path:
    return initramfs.HOME / "usr/sbin/qemu-ga"
