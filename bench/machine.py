"""What the figures were measured on, and with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from bench.measure import GIB, said

_LIBRARIES = ("aiokafka", "blake3", "msgpack", "xxhash", "zstandard", "sqlite-utils")


def describe(directory: Path) -> list[tuple[str, str]]:
    """(what, which) of this machine and of everything that takes part."""
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    return [
        ("CPU", f"{_cpu()}, {os.cpu_count()} cores"),
        ("memory", f"{_memory() / GIB:.0f} GiB"),
        ("disk", _disk(directory)),
        ("kernel", f"{platform.system()} {platform.release()}, {_release()}"),
        ("vmferry", said(["git", "describe", "--always", "--dirty", "--exclude", "*"])),
        ("Python", f"{platform.python_version()}; {libraries}"),
        ("QEMU", _version(["qemu-img", "--version"])),
        ("rsync", _version(["rsync", "--version"])),
        ("libnbd", _version(["nbdcopy", "--version"])),
        ("Kafka", f"{_kafka()}; Java {_version(['java', '--version'])}"),
    ]


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _disk(directory: Path) -> str:
    """The file system that holds `directory`, and its device."""
    best = ("", "?", "?")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, place, kind, *_ = line.split()
        if str(directory.resolve()).startswith(place) and len(place) >= len(best[0]):
            best = (place, kind, device)
    return f"{best[1]} on {Path(best[2]).name}"


def _release() -> str:
    found = re.search(r'^PRETTY_NAME="(.*)"$', Path("/etc/os-release").read_text(), re.MULTILINE)
    return found.group(1) if found else ""


def _version(command: list[str]) -> str:
    """The first thing in a tool's first line that looks like a version."""
    found = re.search(r"\d+(\.\d+)+", said(command).split("\n")[0])
    return found.group(0) if found else "not found"


def _kafka() -> str:
    from tests.support import kafka

    found = sorted(kafka.JARS.glob("kafka_2.13-*.jar"))
    return found[0].stem.removeprefix("kafka_2.13-") if found else "not found"
