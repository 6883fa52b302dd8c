"""What we make of a machine's definition is one by libvirt's own schema, and libvirt defines it with our disks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from engine.hypervisor import definition
from engine.hypervisor.definition import Place
from schemas import events
from tests.support import machines, tools

FILES = {"vda": Place("/backup/web-1.img", "raw"), "sda": Place("/backup/web-1-sda.qcow2", "qcow2")}
DEVICES = {"vda": Place("/dev/vg1/web-1", "raw", block=True), "sda": Place("/dev/vg1/web-1-sda", "raw", block=True)}
LUKS = {"vda": Place("/backup/secret.luks", "luks")}


def valid(text: str, where: Path) -> None:
    where.write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["virt-xml-validate", where, "domain"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def whole(text: str) -> str:
    """The short ones lack what every domain has."""
    return text.replace(
        "<devices>", "<memory>1048576</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>", 1
    )


@pytest.mark.parametrize("nvram", ["", "/backup/web-1_VARS.fd"])
@pytest.mark.parametrize(
    ("text", "places"),
    [
        (machines.machine(), FILES),
        (machines.machine(machines.NVRAM_OF_A_TYPE), FILES),
        (machines.machine(), DEVICES),
        (machines.running(), FILES),
        (whole(machines.DATA_FILE), FILES),
        (whole(machines.ENCRYPTED), FILES),
        (whole(machines.ENCRYPTED), LUKS),
        (whole(machines.LUN), FILES),
    ],
    ids=["inactive", "NVRAM of a type", "devices", "running", "data file", "encrypted", "LUKS", "lun"],
)
def test_a_fitted_machine_is_one_by_the_schema_of_libvirt(
    text: str, places: dict[str, Place], nvram: str, tmp_path: Path
) -> None:
    tools.need("virt-xml-validate", "xmllint")
    found = definition.fitted(events.Defined(events.Form.LIBVIRT, text, b"variables"), places, nvram)
    valid(found.text, tmp_path / "fitted.xml")


@pytest.mark.parametrize("text", [machines.machine(), machines.running()], ids=["inactive", "running"])
def test_libvirt_takes_it_from_standard_input_and_has_our_disks(text: str) -> None:
    """By its own driver for tests, which parses as every other one and keeps what it is told within one connection."""
    tools.need("virsh")
    found = definition.fitted(events.Defined(events.Form.LIBVIRT, text, b"variables"), FILES, "/backup/VARS.fd")
    done = subprocess.run(
        ["virsh", "-c", "test:///default", "define /dev/stdin; dumpxml --inactive web-1"],
        input=found.text, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    root = ET.fromstring(done.stdout[done.stdout.index("<domain") :])
    sources = {one.find("target").get("dev"): one.find("source") for one in root.iter("disk")}  # type: ignore[union-attr]
    assert {name: one.get("file") for name, one in sources.items() if one is not None} == {
        name: place.path for name, place in FILES.items()
    }
    assert set(sources) == {"vda", "sda", "sdc", "sdd"}
    assert [one.get("type") for one in root.iterfind("devices/disk/driver")][:2] == ["raw", "qcow2"]
    assert (root.findtext("uuid"), root.findtext("os/nvram")) == (machines.UUID, "/backup/VARS.fd")
    assert root.find("metadata/*/{http://libosinfo.org/xmlns/libvirt/domain/1.0}os") is not None


def test_what_is_no_machine_is_told_by_that_schema(tmp_path: Path) -> None:
    tools.need("virt-xml-validate", "xmllint")
    with pytest.raises(AssertionError):
        valid(machines.machine().replace("<target dev='vda'", "<target dew='vda'"), tmp_path / "wrong.xml")
