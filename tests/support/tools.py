"""Tools that tests need and we did not write: a missing one fails the run in CI, and is named in a line elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parent.parent.parent
HOME = ROOT / ".tools"
"""What tools/install-test-tools.sh brings and Debian does not install: Kafka's jars, the guest's kernel."""

PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
"""Debian keeps e2fsprogs where users do not look."""

PACKAGES = {
    "busybox": "busybox-static",
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "faketime": "faketime",
    "ip": "iproute2",
    "java": "openjdk-17-jre-headless",
    "journalctl": "systemd",
    "mke2fs": "e2fsprogs",
    "mvn": "maven",
    "nbdcopy": "libnbd-bin",
    "nbdinfo": "libnbd-bin",
    "nbdkit": "nbdkit",
    "openssl": "openssl",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-system-x86_64": "qemu-system-x86",
    "rsync": "rsync",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "systemd-tmpfiles": "systemd",
    "unshare": "util-linux",
    "virsh": "libvirt-clients",
    "virt-xml-validate": "libvirt-clients",
    "xmllint": "libxml2-utils",
}


def find(tool: str) -> str | None:
    """The path of `tool`, or None."""
    return shutil.which(tool, path=PATH)


def need(*tools: str) -> None:
    """Go on when all `tools` are here; else fail where they are required, skip and say how to get them elsewhere."""
    missing = [tool for tool in tools if find(tool) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES.get(tool, tool) for tool in missing}))
        lack(f"{', '.join(missing)} not found; sudo apt-get install --no-install-recommends {packages}")


def lack(what: str) -> NoReturn:
    """Something that a test needs is not here: `what` names it and how to get it, in one line."""
    if os.environ.get("CI") == "true" or os.environ.get("VMFERRY_REQUIRE_TOOLS") == "1":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def forbidden(what: str) -> NoReturn:
    """The machine itself does not allow what a test needs, and nothing that could be installed would: `what` says so.

    Only a probe of the machine may come here.  The words stand in the summary of the run, also in CI.
    """
    pytest.skip(what)
