"""From what a user names, a path or a URL, to an opened BlockDevice.

    /path, file:/path                   raw: RawDevice; any other format: through a qemu-nbd of our own
    nbd+unix:///export?socket=/path     an NBD server that runs already
    nbd://host[:port]/export            the same over TCP, in the clear

A format is never guessed from bytes alone: a guest writes the first bytes of its raw disk, and a qcow2 header there
that names /etc/shadow as its backing file would be obeyed.  So it is what the caller says; or what the magic number
says when the extension, which no guest can write, agrees (`FORMATS`); else raw.  The same holds for backing files: an
image that does not name the format of its backing file is refused, as libvirt does.

What speaks NBD is loaded once there is something to speak it with: most images are raw.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from engine import errors, linux
from engine.device import blocking
from engine.device.raw import RawDevice
from engine.ports import BlockDevice, Offload

if TYPE_CHECKING:
    from engine.nbd import client

RAW = "raw"

FORMATS = {
    ".luks": ("luks", ((0, b"LUKS\xba\xbe"),)),
    ".qcow": ("qcow", ((0, b"QFI\xfb\0\0\0\x01"),)),
    ".qcow2": ("qcow2", ((0, b"QFI\xfb\0\0\0\x02"), (0, b"QFI\xfb\0\0\0\x03"))),
    ".vdi": ("vdi", ((64, b"\x7f\x10\xda\xbe"),)),
    ".vhdx": ("vhdx", ((0, b"vhdxfile"),)),
    ".vmdk": ("vmdk", ((0, b"KDMV"), (0, b"COWD"), (0, b"# Disk DescriptorFile"))),
}
"""extension -> (QEMU's driver, (offset, magic) of which one must be there)."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an image is, without opening its contents: sizes in bytes, `allocated` None where it is not known."""

    format: str
    size: int
    allocated: int | None
    note: str = ""
    """One sentence when what it looks like is not what it is taken for."""


@dataclass(frozen=True, slots=True)
class Remote:
    """An NBD URL, taken apart."""

    place: client.Place
    export: str


def parse(spec: str) -> str | Remote:
    """A path, or an NBD server's place.  Raises Usage for a URL of no known kind."""
    if spec.startswith("/"):
        return spec
    try:
        found = _url(spec)
    except ValueError as error:
        raise errors.Usage(f"{spec}: not a URL: {error}") from error
    if found is None and ("://" in spec or spec.startswith(("file:", "nbd:"))):
        raise errors.Usage(f"{spec}: neither a path nor a URL of kind file:, nbd+unix: or nbd:")
    return found or spec


def _url(spec: str) -> str | Remote | None:
    """What a URL of ours names.  Raises ValueError for one that cannot be."""
    url = urlsplit(spec)
    if url.scheme == "file" and url.netloc in ("", "localhost"):
        return unquote(url.path)
    return _server(url) if url.scheme in ("nbd", "nbd+unix") else None


def _server(url: SplitResult) -> Remote | None:
    from engine.nbd import client

    if url.scheme == "nbd+unix":
        socket = parse_qs(url.query).get("socket", [""])[0]
        if not socket:
            raise ValueError("it names no socket; write nbd+unix:///EXPORT?socket=/PATH")
        return Remote(client.Place(socket=socket), unquote(url.path[1:]))
    if url.hostname:
        return Remote(client.Place(host=url.hostname, port=url.port or 10809), unquote(url.path[1:]))
    return None


def detect(path: str) -> str:
    """The format of an existing image, when its extension and its magic number agree; else raw.

    Raises NotFound, Usage (permissions), DeviceFailed.
    """
    name, magics = FORMATS.get(Path(path).suffix.lower(), (RAW, ()))
    if not magics:
        return RAW
    try:
        with open(path, "rb") as image:
            head = image.read(4096)
    except OSError as error:
        raise linux.failure(error, path, "open it", opening=True) from error
    return name if any(head.startswith(magic, offset) for offset, magic in magics) else RAW


async def open_image(
    spec: str,
    writable: bool,
    *,
    format: str | None = None,
    secret_file: str = "",
    create_size: int | None = None,
    force_share: bool = False,
    offload: Offload = asyncio.to_thread,
) -> BlockDevice:
    """Open what `spec` names; with `create_size` make it first, of that many bytes, where nothing may be yet.

    `format` is explicit or as this module's docstring says; a new image has that of its extension.  `force_share` reads
    a source that something else has open to write, and makes cuts of consistency none.  A new
    image reads as zeros.
    Raises NotFound, Usage, InUse, Full, Unsafe, Transient (an NBD server that is away), DeviceFailed.
    """
    place = parse(spec)
    if isinstance(place, Remote):
        if (format or RAW) != RAW or secret_file or create_size is not None:
            raise errors.Usage(f"{spec}: what a server exports is raw; format, secret and creation are its business")
        return await _connect(place, writable, spec, offload)
    kind = format or await offload(_kind, place, create_size is not None)
    if kind == RAW:
        if secret_file:
            raise errors.Usage(f"{place}: a raw image has no secret; name its format, such as luks")
        return await RawDevice.open(place, writable, create_size, offload, lock=not force_share)
    from engine.device import served

    return await served.open_image(place, kind, writable, secret_file, create_size, force_share, offload)


async def _connect(remote: Remote, writable: bool, spec: str, offload: Offload = asyncio.to_thread) -> BlockDevice:
    from engine.device.nbd import NbdDevice

    return await NbdDevice.connect(remote.place, remote.export, writable, spec, offload)


def _kind(path: str, new: bool) -> str:
    if new:
        return FORMATS.get(Path(path).suffix.lower(), (RAW,))[0]
    return detect(path)


async def describe(spec: str, *, format: str | None = None, offload: Offload = asyncio.to_thread) -> Description:
    """What `spec` is, without its lock and without its secret.  Raises as `open_image`, never InUse."""
    place = parse(spec)
    if isinstance(place, Remote):
        device = await _connect(place, False, spec)
        await device.close()
        return Description(RAW, device.size, None)
    found: Description = await offload(_describe, place, format)
    return found


def _describe(path: str, format: str | None) -> Description:
    kind = format or detect(path)
    if kind != RAW:
        from engine.device import served

        found = served.info(path, kind)
        return Description(kind, found["virtual-size"], found.get("actual-size"))
    fd, device = blocking.open_existing(path, writable=False)
    try:
        size, allocated = blocking.measure(fd), None if device else os.fstat(fd).st_blocks * 512
        head = os.pread(fd, 4096, 0)
    finally:
        os.close(fd)
    looks = [name for name, magics in FORMATS.values() if any(head.startswith(magic, at) for at, magic in magics)]
    note = f"it begins like {looks[0]} and is taken as raw; name the format if it is one" if looks else ""
    return Description(RAW, size, allocated, "" if format else note)
