"""A machine fitted to its replica: its disks are the replica's, what the guest sees stays, and the rest is told."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from engine import errors
from engine.hypervisor import definition
from engine.hypervisor.definition import Fitted, Place
from schemas import events
from tests.support import machines

PLACES = {"vda": Place("/backup/web-1.img", "raw"), "sda": Place("/backup/web-1-sda.qcow2", "qcow2")}
ONE = {"vda": Place("/backup/one.img", "raw")}
BOTH = pytest.mark.parametrize("text", [machines.machine(), machines.running()], ids=["inactive", "running"])


def fit(text: str, places: dict[str, Place] = PLACES, nvram: str = "", data: bytes = b"") -> Fitted:
    return definition.fitted(events.Defined(events.Form.LIBVIRT, text, data), places, nvram)


def parsed(found: Fitted) -> ET.Element:
    return ET.fromstring(found.text)


def disks(found: Fitted) -> dict[str, ET.Element]:
    """By the names that the guest's bus has for them."""
    return {one.find("target").get("dev", ""): one for one in parsed(found).iter("disk")}  # type: ignore[union-attr]


def written(element: ET.Element | None) -> str:
    """An element without the space between what is in it."""
    assert element is not None
    ET.indent(element, "")
    return ET.tostring(element, encoding="unicode").replace("\n", "").strip()


@BOTH
def test_captured_disks_are_the_replicas_files_and_nothing_of_where_they_lay_is_left(text: str) -> None:
    found = disks(fit(text))
    assert written(found["vda"].find("source")) == '<source file="/backup/web-1.img" />'
    assert written(found["sda"].find("source")) == '<source file="/backup/web-1-sda.qcow2" />'
    for name, form in (("vda", "raw"), ("sda", "qcow2")):
        disk = found[name]
        assert (disk.get("type"), disk.get("device")) == ("file", "disk")
        assert disk.find("driver").get("type") == form  # type: ignore[union-attr]
        assert {one.tag for one in disk} <= {"driver", "source", "target", "serial", "boot", "address"}


@BOTH
def test_what_the_guest_sees_stays(text: str) -> None:
    was, found = ET.fromstring(text), fit(text)
    now = parsed(found)
    for path in ("name", "uuid", "memory", "vcpu", "os/type", "os/loader", "cpu", "metadata", "devices/interface"):
        assert written(now.find(path)) == written(was.find(path)), path
    assert now.get("id") is None
    for name, disk in disks(fit(text)).items():
        before = next(one for one in was.iter("disk") if one.find(f"target[@dev='{name}']") is not None)
        for tag in ("target", "serial", "boot", "address"):
            assert (disk.find(tag) is None) == (before.find(tag) is None)
            if disk.find(tag) is not None:
                assert written(disk.find(tag)) == written(before.find(tag))
    driver = disks(found)["vda"].find("driver")
    assert written(driver) == '<driver name="qemu" type="raw" cache="none" io="native" discard="unmap" />'


def test_a_running_machine_comes_out_as_the_inactive_one() -> None:
    assert fit(machines.running()) == fit(machines.machine())


@BOTH
def test_what_was_not_captured_is_gone_or_empty_and_told(text: str) -> None:
    found = fit(text)
    left = disks(found)
    assert set(left) == {"vda", "sda", "sdc", "sdd"}
    assert left["sdc"].find("source") is None
    notes = "\n".join(found.notes)
    assert "hda was /srv/scratch.img, which is not replicated: the machine has no such disk" in notes
    assert "sdb was /srv/shared--all.img, which is not replicated: the machine has no such disk" in notes
    assert "sdc was /srv/debian-12.iso, which is not replicated: the cdrom is empty" in notes
    assert "sdd" not in notes, "it had no medium"
    assert "TPM" in notes
    assert "/usr/share/OVMF/OVMF_CODE_4M.fd: this host must have it" in notes


def test_every_note_stands_in_the_text_as_well() -> None:
    found = fit(machines.machine())
    root = ET.fromstring(found.text, ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)))
    comments: Any = ET.Comment
    told = [one.text for one in root if one.tag is comments]
    assert told == [f" vmferry: {note} ".replace("--", "- -") for note in found.notes]
    assert len(told) == 6
    assert found.text.startswith("<domain ")


def test_a_comment_never_ends_early() -> None:
    text = machines.machine().replace("/srv/scratch.img", "/srv/a----&gt;b-.img")
    found = fit(text)
    assert "/srv/a---->b-.img" in "\n".join(found.notes)
    assert "hda" not in disks(found)
    assert "--" not in found.text.replace("<!--", "").replace("-->", "")


def test_what_was_fitted_once_fits_again() -> None:
    once = fit(machines.machine(), nvram="/backup/vars.fd", data=b"x")
    again = fit(once.text, nvram="/backup/vars.fd", data=b"x")
    assert written(parsed(again)) == written(parsed(once))


def test_prefixes_stay_as_they_were() -> None:
    found = fit(machines.machine()).text
    assert "<qemu:arg value=" in found
    assert "<libosinfo:os id=" in found
    assert "ns0" not in found


def test_a_prefix_that_python_keeps_for_itself_means_the_same_under_another() -> None:
    spaces = 'xmlns:ns7="http://example.org/a" xmlns="http://example.org/b"'
    text = f"<domain><metadata><ns7:a {spaces}><b/></ns7:a></metadata></domain>"
    found = ET.fromstring(fit(text, {}).text).find("metadata/*")
    assert found is not None
    assert found.tag == "{http://example.org/a}a"
    assert found[0].tag == "{http://example.org/b}b"


# -- disks -----------------------------------------------------------------------------------------------------------


def test_a_replica_on_a_block_device_is_one() -> None:
    disk = disks(fit(machines.DATA_FILE, {"vda": Place("/dev/vg1/data", "raw", block=True)}))["vda"]
    assert disk.get("type") == "block"
    assert written(disk.find("source")) == '<source dev="/dev/vg1/data" />'


def test_the_data_file_of_a_qcow2_is_not_that_of_its_replica() -> None:
    found = fit(machines.DATA_FILE, {"vda": Place("/backup/data.qcow2", "qcow2")})
    disk = disks(found)["vda"]
    assert disk.find(".//dataStore") is None
    assert written(disk.find("source")) == '<source file="/backup/data.qcow2" />'
    assert found.notes == ()


def test_what_only_a_qcow2_has_goes_with_it() -> None:
    raw, qcow2 = (disks(fit(machines.DATA_FILE, {"vda": Place("/x", form)}))["vda"] for form in ("raw", "qcow2"))
    assert raw.find("driver").attrib == {"name": "qemu", "type": "raw", "discard": "unmap"}  # type: ignore[union-attr]
    assert qcow2.find("driver").get("discard_no_unref") == "on"  # type: ignore[union-attr]
    places = {**PLACES, "vda": Place("/x", "qcow2")}
    assert disks(fit(machines.machine(), places))["vda"].find("driver/metadata_cache") is not None


def test_a_disk_without_a_driver_is_given_one() -> None:
    disk = disks(fit(machines.machine(), {"hda": Place("/backup/hda.img", "raw")}))["hda"]
    assert written(disk.find("driver")) == '<driver name="qemu" type="raw" />'
    assert [one.tag for one in disk][:2] == ["driver", "source"]


def test_a_replica_of_a_disk_that_the_machine_lacks_is_told() -> None:
    found = fit(machines.DATA_FILE, {**ONE, "vdb": Place("/backup/two.img", "raw")})
    assert found.notes == ("the machine has no disk vdb: /backup/two.img is none of its disks",)


def test_a_cdrom_of_a_captured_name_stays_a_cdrom() -> None:
    found = fit(machines.machine(), {"sdc": Place("/backup/x.img", "raw")})
    assert disks(found)["sdc"].get("device") == "cdrom"
    assert "the machine has no disk sdc" in "\n".join(found.notes)


def test_a_scsi_device_becomes_a_plain_disk() -> None:
    found = fit(machines.LUN, {"sda": Place("/backup/lun.img", "raw")})
    assert disks(found)["sda"].attrib == {"type": "file", "device": "disk"}
    assert "a plain disk here" in found.notes[0]


def test_an_encrypted_replica_keeps_the_secret_by_name() -> None:
    found = fit(machines.ENCRYPTED, {"vda": Place("/backup/secret.luks", "luks")})
    disk = disks(found)["vda"]
    assert disk.find("driver").get("type") == "raw"  # type: ignore[union-attr]
    secret = disk.find("source/encryption[@format='luks']/secret")
    assert secret is not None
    assert secret.get("uuid") == "f52a81b2-424e-490c-823d-6bd4235bc572"
    assert "this host needs a secret" in found.notes[0]


def test_a_plain_replica_of_an_encrypted_disk_has_no_secret() -> None:
    found = fit(machines.ENCRYPTED, ONE)
    assert disks(found)["vda"].find(".//encryption") is None
    assert "was encrypted at its source" in found.notes[0]


def test_a_format_that_libvirt_does_not_know_is_told() -> None:
    found = fit(machines.DATA_FILE, {"vda": Place("/backup/one.vhdx", "vhdx")})
    assert found.notes == ("vda is of format vhdx, which libvirt does not know: convert /backup/one.vhdx first",)


# -- NVRAM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element", [machines.NVRAM, machines.NVRAM_OF_A_TYPE, ""], ids=["text", "source", "none"])
def test_its_variables_lie_where_they_were_written(element: str) -> None:
    found = fit(machines.machine(element), nvram="/backup/web_VARS.fd", data=b"variables")
    nvram = parsed(found).find("os/nvram")
    assert nvram is not None
    assert (nvram.text, len(nvram)) == ("/backup/web_VARS.fd", 0)
    assert nvram.attrib == ({"template": "/usr/share/OVMF/OVMF_VARS_4M.fd"} if element else {})
    assert not [note for note in found.notes if "variables" in note]


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"variables", "(9 bytes) are not beside it: write them with --nvram FILE"), (b"", "did not come with it")],
)
def test_variables_that_are_not_written_are_told(data: bytes, says: str) -> None:
    found = fit(machines.machine(), data=data)
    assert says in "\n".join(found.notes)
    assert parsed(found).findtext("os/nvram") == "/var/lib/libvirt/qemu/nvram/web-1_VARS.fd"


def test_a_machine_without_variables_says_nothing_of_them_and_gets_none() -> None:
    assert not [note for note in fit(machines.machine("")).notes if "variables" in note]
    for text in (machines.machine(""), machines.machine()):
        with pytest.raises(errors.NotFound, match="no NVRAM came"):
            fit(text, nvram="/backup/web_VARS.fd")


# -- what is no machine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", "not XML", "<domain>", "<network/>", "<domain/>trailing",
        '<!DOCTYPE domain [<!ENTITY a "aaaa">]><domain>&a;</domain>', "<domain><x:y/></domain>",
    ],
)  # fmt: skip
def test_what_defines_no_machine_is_refused(text: str) -> None:
    with pytest.raises(errors.Damaged):
        fit(text)


def test_a_machine_without_devices_is_one() -> None:
    assert parsed(fit("<domain><name>x</name></domain>", {})).findtext("name") == "x"
