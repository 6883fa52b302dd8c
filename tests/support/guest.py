"""A real guest: Debian's cloud kernel, busybox, an ext4 root in a qcow2 image; built without root, booted under TCG.

The kernel and its modules lie in .tools/guest, where tools/install-test-tools.sh extracts them.  An image holds no boot
loader: QEMU loads the kernel and an initramfs of ours, which finds the disk and hands over to /sbin/init on it.
"""

from __future__ import annotations

import functools
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import zstandard

from tests.support import tools

MIB = 1 << 20
UP = "vmferry-guest: up, counter "
"""What the guest says on its console once it is in user space, followed by the counter that its disk holds."""
DONE = "vmferry-guest: done"
"""The last thing that it says: everything is synced and its root is read-only."""

_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
"""What the kernel needs to find its root; what these need is found, what is built in is left out."""

_FIRST_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
while read module; do insmod /modules/$module || echo "vmferry-guest: $module did not load"; done < /modules/order
tries=0
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
    if not (tools.HOME / "guest" / ".complete").exists():
        tools.lack("the test guest's kernel is not in .tools/guest; sh tools/install-test-tools.sh")


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
        *("-machine", "pc,accel=tcg", "-cpu", "max", "-m", "256", "-kernel", str(_kernel()), "-initrd", str(_initrd())),
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
    shutil.copy(_busybox(), root / "bin" / "busybox")
    applets = subprocess.run([_busybox(), "--list"], check=True, capture_output=True, text=True).stdout.split()
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
    """Our initramfs: busybox, the modules that the root needs, and a script; kept beside the kernel."""
    modules = list(_module_files())
    entries: list[tuple[str, int, bytes]] = [(name, 0o040755, b"") for name in ("bin", "dev", "modules", "root")]
    entries += [("init", 0o100755, _FIRST_INIT.encode()), ("bin/busybox", 0o100755, _busybox().read_bytes())]
    entries += [(f"modules/{name}", 0o100644, content) for name, content in modules]
    entries += [("modules/order", 0o100644, "".join(f"{name}\n" for name, _ in modules).encode())]
    handle, name = tempfile.mkstemp(dir=_home())
    with os.fdopen(handle, "wb") as made:
        made.write(_cpio(entries))
    return Path(name).replace(_home() / "initrd")


def _module_files() -> Iterator[tuple[str, bytes]]:
    """(name, plain content) of each module that is not built in, in the order in which they can be loaded."""
    found = {_module_name(path): path for path in _home().rglob("*.ko*")}  # lib/modules, or usr/lib/modules
    wanted: dict[str, bytes] = {}

    def take(module: str) -> None:
        if module in found and module not in wanted:
            content = _plain(found[module])
            needs = re.search(rb"\0depends=([^\0]*)\0", content)
            for each in needs[1].decode().split(",") if needs else ():
                take(each.replace("-", "_"))
            wanted[module] = content

    for module in _MODULES:
        take(module)
    return ((f"{module}.ko", content) for module, content in wanted.items())


def _module_name(path: Path) -> str:
    return path.name.split(".")[0].replace("-", "_")


def _plain(path: Path) -> bytes:
    """A module as the kernel takes it; distributions compress them in different ways."""
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return content


def _cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """An archive in cpio's "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    archive = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4)
        archive += content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _home() -> Path:
    return tools.HOME / "guest"


def _kernel() -> Path:
    return next((_home() / "boot").glob("vmlinuz-*"))


def _busybox() -> Path:
    return next(path for path in (_home() / "bin/busybox", _home() / "usr/bin/busybox") if path.exists())


def _path(tool: str) -> str:
    path = tools.find(tool)
    assert path, f"{tool} not found; call need_guest() first"
    return path


def _run(tool: str, *arguments: str) -> None:
    done = subprocess.run([_path(tool), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{tool} {' '.join(arguments)}: {done.stderr}"
