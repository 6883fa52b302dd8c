"""A virtual machine as libvirt describes it, and the documents that libvirt is given; no libvirt, no I/O.

Sources: libvirt's formatdomain, formatbackup and formatcheckpoint.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine import errors

AGENT = "org.qemu.guest_agent.0"

Resolve = Callable[[str, str], str]
"""(pool, volume) -> the path of a volume of a storage pool, or nothing."""

_DEVICES = {
    "cdrom": "a CD-ROM",
    "floppy": "a floppy disk",
    # Its guest may send SCSI commands that pass QEMU's block layer by.
    "lun": "a LUN passed through to the guest",
}
_MARKS = {"transient": "transient", "shareable": "shared with other guests", "readonly": "read-only"}
_SOURCES = {"file": "file", "block": "dev"}


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk of a machine."""

    name: str
    "The target, as the guest or its bus counts: vda."
    path: str
    "The image or device on this host; nothing where there is none."
    format: str
    "As QEMU calls it: raw, qcow2."
    kind: str
    "As libvirt calls it: file, block, network, volume, nvme, vhostuser, dir."
    size: int = 0
    "Bytes that the guest sees; 0 where nobody was asked."
    excluded: str = ""
    "Why it is not captured; nothing when it is."
    mirror: str = ""
    "The kind of the job that mirrors it already, by libvirt: copy, active-commit."
    mirror_socket: str = ""
    "The UNIX socket that it mirrors into; nothing where it is no NBD server on one."
    mirror_ready: str = ""
    "yes once the mirror is whole; abort and pivot while it ends."
    alias: str = ""
    "How QEMU calls its device, while the machine runs: virtio-disk0."


@dataclass(frozen=True, slots=True)
class Domain:
    """One machine, as it was at one moment."""

    uuid: str
    name: str
    active: bool
    paused: bool
    persistent: bool
    disks: tuple[Disk, ...]
    definition: str
    "The XML that another host can define it by: inactive, migratable, without passwords."
    nvram: str = ""
    "The path of its UEFI variables."
    agent: bool = False
    "It has a channel for a guest agent; whether one answers is another question."
    connected: bool = False
    "An agent has opened that channel since the machine was started."
    tpm: bool = False

    @property
    def captured(self) -> tuple[Disk, ...]:
        return tuple(disk for disk in self.disks if not disk.excluded)


@dataclass(frozen=True, slots=True)
class BackupDisk:
    """A disk of a backup: what the guest overwrites meanwhile goes to `scratch`, a qcow2 that libvirt makes and
    removes; `since` is the checkpoint from which on changes are told, or nothing."""

    name: str
    scratch: str
    since: str = ""
    tracked: bool = True
    "Whether a checkpoint that is made with the backup has a bitmap on it: not on one that is raw."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One point since which libvirt counts changes; a bitmap of its name on each of `disks`."""

    name: str
    disks: tuple[str, ...]
    parent: str = ""
    created: int = 0
    "Seconds since 1970."


def parse(
    xml: str, definition: str = "", active: bool = False, paused: bool = False, persistent: bool = True,
    resolve: Resolve = lambda pool, volume: "",
) -> Domain:  # fmt: skip
    """`xml` is that of the running machine where it is `active`.  Raises Usage for what is no domain's XML."""
    root = _root(xml, "domain")
    uuid, name = root.findtext("uuid", "").strip(), root.findtext("name", "")
    if not uuid or not name:
        raise errors.Usage("libvirt's description of a machine has no UUID or no name")
    channels = {target.get("name"): target.get("state") for target in root.iterfind("devices/channel/target")}
    return Domain(
        uuid=uuid, name=name, active=active, paused=paused, persistent=persistent,
        disks=tuple(_disk(one, resolve) for one in root.iterfind("devices/disk")),
        definition=definition or xml, nvram=_nvram(root), agent=AGENT in channels,
        connected=channels.get(AGENT) == "connected", tpm=root.find("devices/tpm") is not None,
    )  # fmt: skip


def bitmap_of(disk: str) -> str:
    """The bitmap that is exported for `disk` of an incremental backup; its NBD context is qemu:dirty-bitmap:THIS."""
    return f"backup-{disk}"


def backup_xml(socket: str, disks: Sequence[BackupDisk]) -> str:
    """A backup in pull mode over the UNIX socket `socket`, an export of its own name for each disk."""
    root = ET.Element("domainbackup", mode="pull")
    ET.SubElement(root, "server", transport="unix", socket=socket)
    listed = ET.SubElement(root, "disks")
    for disk in disks:
        # Disks that are not listed are not part of it.
        one = ET.SubElement(listed, "disk", name=disk.name, backup="yes", type="file", exportname=disk.name)
        one.set("backupmode", "incremental" if disk.since else "full")
        if disk.since:
            one.set("incremental", disk.since)
            one.set("exportbitmap", bitmap_of(disk.name))
        ET.SubElement(one, "driver", type="qcow2")
        ET.SubElement(one, "scratch", file=disk.scratch)
    return ET.tostring(root, encoding="unicode")


def checkpoint_xml(name: str, disks: Sequence[str]) -> str:
    """A checkpoint with a bitmap on each of `disks`."""
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    listed = ET.SubElement(root, "disks")
    for disk in disks:
        ET.SubElement(listed, "disk", name=disk, checkpoint="bitmap")
    return ET.tostring(root, encoding="unicode")


def copy_xml(socket: str, export: str) -> str:
    """The target of a mirror: an export of an NBD server on the UNIX socket `socket`."""
    root = ET.Element("disk", type="network", device="disk")
    ET.SubElement(root, "driver", name="qemu", type="raw")
    source = ET.SubElement(root, "source", protocol="nbd", name=export)
    ET.SubElement(source, "host", transport="unix", socket=socket)
    return ET.tostring(root, encoding="unicode")


def mark_xml(name: str) -> str:
    """What a running machine carries: the checkpoint that was kept last."""
    return ET.tostring(ET.Element("kept", checkpoint=name), encoding="unicode")


def parse_mark(xml: str) -> str:
    """Raises Usage for what is no mark of ours."""
    return _root(xml, "kept").get("checkpoint", "")


def parse_checkpoint(xml: str) -> Checkpoint:
    """Raises Usage for what is no checkpoint's XML."""
    root = _root(xml, "domaincheckpoint")
    marked = (disk for disk in root.iterfind("disks/disk") if disk.get("checkpoint") == "bitmap")
    return Checkpoint(
        root.findtext("name", ""), tuple(disk.get("name", "") for disk in marked),
        root.findtext("parent/name", ""), int(root.findtext("creationTime", "0")),
    )  # fmt: skip


def backup_socket(xml: str) -> str:
    """Where the backup that `xml` describes is served; nothing when that is no UNIX socket."""
    server = _root(xml, "domainbackup").find("server")
    return "" if server is None else server.get("socket", "")


def qemu_user(capabilities: str) -> tuple[int, int] | None:
    """User and group that QEMU runs as on this host; None where libvirt does not say."""
    for model in _root(capabilities, "capabilities").iterfind("host/secmodel"):
        label = model.findtext("baselabel[@type='kvm']") or model.findtext("baselabel") or ""
        user, _, group = label.replace("+", "").partition(":")
        if model.findtext("model") == "dac" and user.isdigit() and group.isdigit():
            return int(user), int(group)
    return None


def confined_by(capabilities: str) -> list[str]:
    """How libvirt keeps machines apart on this host: "dac", "apparmor", "selinux"."""
    return [model.text or "" for model in _root(capabilities, "capabilities").iterfind("host/secmodel/model")]


def _root(xml: str, tag: str) -> ET.Element:
    try:
        root = ET.fromstring(xml)
    except ET.ParseError as error:
        raise errors.Usage(f"libvirt's description of a {tag} cannot be read: {error}") from error
    if root.tag != tag:
        raise errors.Usage(f"this is no description of a {tag}, but of a {root.tag}")
    return root


def _disk(one: ET.Element, resolve: Resolve) -> Disk:
    kind, target, driver, mirror = one.get("type", "file"), one.find("target"), one.find("driver"), one.find("mirror")
    alias, host = one.find("alias"), one.find("mirror/source[@protocol='nbd']/host[@transport='unix']")
    path = _path(one.find("source"), kind, resolve)
    return Disk(
        name="" if target is None else target.get("dev", ""),
        path=path,
        # libvirt takes an image whose format is not said for raw: it probes nothing that a guest could have written.
        format="raw" if driver is None else driver.get("type", "raw"),
        kind=kind,
        excluded=_excluded(one, kind, path),
        mirror="" if mirror is None else mirror.get("job", "copy"),
        mirror_socket="" if host is None else host.get("socket", ""),
        mirror_ready="" if mirror is None else mirror.get("ready", ""),
        alias="" if alias is None else alias.get("name", ""),
    )


def _path(source: ET.Element | None, kind: str, resolve: Resolve) -> str:
    if source is None:
        return ""
    if kind == "volume":
        return resolve(source.get("pool", ""), source.get("volume", ""))
    return source.get(_SOURCES.get(kind, ""), "")


def _excluded(one: ET.Element, kind: str, path: str) -> str:
    device = one.get("device", "disk")
    if device in _DEVICES:
        return _DEVICES[device]
    for mark, words in _MARKS.items():
        if one.find(mark) is not None:
            return words
    source = one.find("source")
    if source is None or (kind in _SOURCES and not path):
        return "empty"
    return "" if path else f"no local file ({source.get('protocol', kind)})"


def _nvram(root: ET.Element) -> str:
    found = root.find("os/nvram")
    if found is None:
        return ""
    source = found.find("source")
    if source is None:
        return (found.text or "").strip()
    return source.get("file", "") or source.get("dev", "")
