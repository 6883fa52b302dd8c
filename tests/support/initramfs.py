"""What test guests are booted from: Debian's cloud kernel, and an initramfs made of busybox, modules and a script.

The kernel, its modules and busybox lie in .tools/guest, where tools/install-test-tools.sh extracts them.
"""

from __future__ import annotations

import lzma
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import zstandard

from tests.support import tools

HOME = tools.HOME / "guest"

Entry = tuple[str, int, bytes]
"""Path without a leading slash, mode with its type, content (of a symbolic link: where it points)."""

LOAD = """/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
while read module; do insmod /modules/$module || echo "vmferry-guest: $module did not load"; done < /modules/order
"""
"""What /init begins with: applets, /dev, the modules in the order in which they can be loaded."""


def need() -> None:
    """Go on when the kernel is here (else as `tools.need`)."""
    if not (HOME / ".complete").exists():
        tools.lack("the test guest's kernel is not in .tools/guest; sh tools/install-test-tools.sh")


def kernel() -> Path:
    return next((HOME / "boot").glob("vmlinuz-*"))


def busybox() -> Path:
    return next(path for path in (HOME / "bin/busybox", HOME / "usr/bin/busybox") if path.exists())


def entries(init: str, modules: Sequence[str]) -> list[Entry]:
    """Busybox, `modules` with all that these need, and `init` as /init; empty /dev, /bin and /root."""
    files = list(_module_files(modules))
    made: list[Entry] = [(name, 0o040755, b"") for name in ("bin", "dev", "modules", "root")]
    made += [("init", 0o100755, init.encode()), ("bin/busybox", 0o100755, busybox().read_bytes())]
    made += [(f"modules/{name}", 0o100644, content) for name, content in files]
    made += [("modules/order", 0o100644, "".join(f"{name}\n" for name, _ in files).encode())]
    return made


def program(path: Path, name: str) -> list[Entry]:
    """`path` as bin/`name`, and the libraries that it needs as this machine has them, where the loader looks."""
    made: list[Entry] = [(f"bin/{name}", 0o100755, path.read_bytes())]
    said = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
    assert "not found" not in said, f"{path} needs libraries that are not here:\n{said}"
    folders: set[str] = set()
    for library in map(Path, re.findall(r"(/\S+) \(0x", said)):
        folders.update(str(folder)[1:] for folder in library.parents if folder != Path("/"))
        made.append((str(library)[1:], 0o100755, library.read_bytes()))
    return [*((folder, 0o040755, b"") for folder in sorted(folders)), *made]


def archive(entries: Sequence[Entry]) -> bytes:
    """In cpio's "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    made = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        made += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        made += bytes(-len(made) % 4)
        made += content
        made += bytes(-len(made) % 4)
    return bytes(made)


def _module_files(modules: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(name, plain content) of each module that is not built in, in the order in which they can be loaded."""
    found = {_module_name(path): path for path in HOME.rglob("*.ko*")}  # lib/modules, or usr/lib/modules
    wanted: dict[str, bytes] = {}

    def take(module: str) -> None:
        if module in found and module not in wanted:
            content = _plain(found[module])
            needs = re.search(rb"\0depends=([^\0]*)\0", content)
            for each in needs[1].decode().split(",") if needs else ():
                take(each.replace("-", "_"))
            wanted[module] = content

    for module in modules:
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
