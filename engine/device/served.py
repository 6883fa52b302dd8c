"""Images of QEMU's formats, through a qemu-nbd of our own."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from engine import errors, linux
from engine.device import blocking
from engine.device.nbd import NbdDevice
from engine.nbd import qemu
from engine.ports import Offload

CREATED = ("qcow2", "raw")
"""Formats that a new target may have: those that read as zeros when they are new (plain LUKS reads as noise)."""

SECTOR = 512
"""QEMU's formats hold whole sectors."""


def info(path: str, kind: str) -> dict[str, Any]:
    """`qemu-img info`, which reads headers only; without its lock, since nothing is relied on that a writer changes.

    Raises Usage for what is no image of this format.
    """
    image = qemu.Image(path, kind)
    command = [qemu.program("qemu-img"), "info", "--force-share", "--output=json", image.filename()]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = ended.stderr.strip().splitlines()[:1]
        raise errors.Usage(f"{image.path}: not an image of format {image.format}: {' '.join(said)}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def _check(path: str, found: dict[str, Any]) -> str:
    """The kind of encryption of an image, or nothing.  Raises Usage for a backing file that would be probed."""
    backing = found.get("backing-filename")
    if backing and not found.get("backing-filename-format"):
        raise errors.Usage(
            f"{path}: it does not name the format of its backing file, and a guest could have chosen what QEMU would"
            f" guess; `qemu-img rebase -u -F FORMAT -b {backing} {path}`"
        )
    data = found.get("format-specific", {}).get("data", {})
    return str(data.get("encrypt", {}).get("format", "aes")) if found.get("encrypted") else ""


def _served(path: str, kind: str, writable: bool, secret_file: str, force_share: bool) -> qemu.Image:
    """The image as qemu-nbd is told of it.  Raises Usage where secret and encryption do not go together, NotFound."""
    encryption = _check(path, info(path, kind))
    if encryption and not secret_file:
        raise errors.Usage(
            f"{path}: it is encrypted; name the file that holds its secret, or replicate it as it lies with format raw"
        )
    if secret_file and not encryption:
        raise errors.Usage(f"{path}: it is not encrypted ({kind}); leave out the secret file")
    if secret_file and not os.path.isfile(secret_file):
        raise errors.NotFound(f"{secret_file}: no such secret file")
    return qemu.Image(path, kind, writable, encryption, secret_file, force_share and not writable)


def _create(path: str, kind: str, size: int, secret_file: str) -> None:
    """A new image by qemu-img.  Raises Usage when something is there; leaves nothing when it fails."""
    if kind not in CREATED or size % SECTOR:
        raise errors.Usage(
            f"{path}: cannot make {size:,} bytes of {kind}: new images are {', '.join(CREATED)}, and all but raw hold"
            f" multiples of {SECTOR} bytes"
        )
    os.close(blocking.create(path, 0))
    options = ["-f", kind]
    if secret_file:
        options += [*qemu.secret_object(secret_file), "-o", f"encrypt.format=luks,encrypt.key-secret={qemu.SECRET}"]
    said = qemu.make_image(*options, f"file:{path}", str(size))
    if said:
        os.unlink(path)
        raise errors.Usage(f"{path}: cannot make {size:,} bytes of {kind}: {said.splitlines()[0]}")
    linux.sync_directory(path)


async def open_image(
    path: str, kind: str, writable: bool, secret_file: str, create_size: int | None, force_share: bool, offload: Offload
) -> NbdDevice:
    """As images.open_image, for a path and a format that is not raw."""
    if create_size is None:
        return await NbdDevice.serve(await offload(_served, path, kind, writable, secret_file, force_share), offload)
    await offload(_create, path, kind, create_size, secret_file)
    try:
        return await NbdDevice.serve(await offload(_served, path, kind, True, secret_file, False), offload)
    except errors.FerryError:
        await offload(os.unlink, path)
        raise
