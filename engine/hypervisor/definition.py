"""The definition of a machine, fitted to the place where its replica lies.  Pure: text in, text out.

What libvirt's XML says of the source's host, and is not so at the target's, is replaced, or taken out and told:
https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from engine import errors
from schemas import events

_DISKS, _TRAYS = ("disk", "lun"), ("cdrom", "floppy")
_OF_THE_SOURCE = ("source", "backingStore", "mirror", "auth", "encryption")
"""What an element of a disk says of where it lies."""
_KNOWN = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc")
"""Formats by libvirt's names.  A plain LUKS image is a raw one with encryption."""
_OF_QCOW2 = ("metadata_cache", "discard_no_unref")
_PLACES = ("file", "dev", "name", "volume", "dir")
_KEPT = {
    "tpm": "the state of its TPM is not replicated: it begins as a new one",
    "hostdev": "it is given devices of its host: this one must have them",
    "filesystem": "it is given directories of its host: this one must have them",
}
"""What stays as it is, and may not be so here."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the replica of a disk lies: a path, its format, and whether it is a block device."""

    path: str
    format: str
    block: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """XML that `virsh define` takes, and what its user must know of it."""

    text: str
    notes: tuple[str, ...]


def fitted(definition: events.Defined, places: Mapping[str, Place], nvram: str = "") -> Fitted:
    """The machine over the replicas of its disks, by the names that the guest's bus has for them (`vda`).

    `nvram` is the path where the bytes of its NVRAM will lie; without it the path stays what it was.  Raises Damaged
    where the text defines no machine, NotFound for an NVRAM that did not come with it.
    """
    root = _domain(definition.text)
    root.attrib.pop("id", None)  # that of a running one
    notes = [*_fit_disks(root, places), *_fit_nvram(root, definition.nvram, nvram), *_kept(root)]
    ET.indent(root)
    for note in reversed(notes):
        comment = ET.Comment(f" vmferry: {re.sub('-(?=-)', '- ', note)} ")  # a comment must not hold two of them
        comment.tail = "\n  "
        root.insert(0, comment)
    return Fitted(ET.tostring(root, encoding="unicode") + "\n", tuple(notes))


def _domain(text: str) -> ET.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise errors.Damaged("the definition has a document type, which libvirt never writes: it is not looked into")
    names = ET.iterparse(io.StringIO(text), events=("start-ns",))
    try:
        spaces = [space for _, space in names]
    except ET.ParseError as why:
        raise errors.Damaged(f"the definition is no XML: {why}") from why
    for prefix, uri in spaces:
        if prefix.isalpha():  # else ns0 and so on take its place, which means the same
            ET.register_namespace(prefix, uri)
    root: ET.Element = names.root  # type: ignore[attr-defined]
    if root.tag != "domain":
        raise errors.Damaged(f"the definition is of a {root.tag}, not of a domain")
    return root


def _fit_disks(root: ET.Element, places: Mapping[str, Place]) -> Iterator[str]:
    devices = root.find("devices")
    left = dict(places)
    for disk in root.findall("devices/disk"):
        kind, target = disk.get("device", "disk"), disk.find("target")
        name = target.get("dev", "") if target is not None else ""
        was = _where(disk)
        if kind in _DISKS and name in left:
            yield from _move(disk, name, left.pop(name))
        elif kind in _TRAYS:
            _clear(disk)
            disk.set("type", "file")
            if was:
                yield f"{name} was {was}, which is not replicated: the {kind} is empty"
        elif devices is not None:
            devices.remove(disk)
            yield f"{name} was {was or 'a disk of nothing'}, which is not replicated: the machine has no such disk"
    for name, place in left.items():
        yield f"the machine has no disk {name}: {place.path} is none of its disks"


def _where(disk: ET.Element) -> str:
    """Where a disk lies, in a word; nothing where it lies nowhere."""
    source = disk.find("source")
    if source is None:
        return ""
    return next((source.get(key, "") for key in _PLACES if source.get(key)), f"of type {disk.get('type', 'file')}")


def _clear(disk: ET.Element) -> None:
    for tag in _OF_THE_SOURCE:
        for one in disk.findall(tag):
            disk.remove(one)


def _move(disk: ET.Element, name: str, place: Place) -> Iterator[str]:
    """Let the disk be its replica.  What the guest sees of it, its bus, address and serial, stays."""
    secret = next(iter(disk.findall("source/encryption/secret") + disk.findall("encryption/secret")), None)
    _clear(disk)
    if disk.get("device") == "lun":
        yield f"{name} was handed to the guest as a SCSI device (lun): it is a plain disk here"
        for key in ("rawio", "sgio"):
            disk.attrib.pop(key, None)
    disk.set("device", "disk")
    disk.set("type", "block" if place.block else "file")
    driver = disk.find("driver")
    if driver is None:
        driver = ET.Element("driver", {"name": "qemu"})
        disk.insert(0, driver)
    luks = place.format == "luks"
    driver.set("type", "raw" if luks else place.format)
    if place.format != "qcow2":
        for key in _OF_QCOW2:
            driver.attrib.pop(key, None)
        for one in [one for one in driver if one.tag in _OF_QCOW2]:
            driver.remove(one)
            driver.text = driver.text if len(driver) else None
    source = ET.Element("source", {"dev" if place.block else "file": place.path})
    disk.insert(list(disk).index(driver) + 1, source)
    if luks:
        encryption = ET.SubElement(source, "encryption", {"format": "luks"})
        encryption.extend([secret] if secret is not None else [])
        yield f"{name} is encrypted: this host needs a secret of libvirt with its passphrase, named in <encryption>"
    elif secret is not None:
        yield f"{name} was encrypted at its source: where the replica is, too, it needs <encryption> and a secret here"
    if place.format not in (*_KNOWN, "luks"):
        yield f"{name} is of format {place.format}, which libvirt does not know: convert {place.path} first"


def _fit_nvram(root: ET.Element, data: bytes, path: str) -> Iterator[str]:
    system = root.find("os")
    element = root.find("os/nvram")
    if path:
        if not data or system is None:
            raise errors.NotFound("no NVRAM came with the definition: leave --nvram out")
        if element is None:
            element = ET.SubElement(system, "nvram")
        element.attrib.pop("type", None)
        for one in list(element):
            element.remove(one)
        element.text = path
    elif data:
        yield f"its UEFI variables ({len(data):,} bytes) are not beside it: write them with --nvram FILE"
    elif element is not None:
        yield "its UEFI variables did not come with it: the firmware begins with those of its template"
    loader = (root.findtext("os/loader") or "").strip()
    if loader:
        yield f"its firmware is {loader}: this host must have it"


def _kept(root: ET.Element) -> Iterator[str]:
    for tag, note in _KEPT.items():
        if root.find(f"devices/{tag}") is not None:
            yield note
