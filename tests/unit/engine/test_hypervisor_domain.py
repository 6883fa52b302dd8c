from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from engine import errors
from engine.hypervisor import domain
from engine.hypervisor.domain import BackupDisk, Disk

HEAD = "<domain type='kvm'><name>web-1</name><uuid>0c62f8a2-4e6b-4d54-9e53-5d24b1b7f3a1</uuid>"


def parse(devices: str = "", os: str = "", active: bool = False) -> domain.Domain:
    return domain.parse(f"{HEAD}<os><type>hvm</type>{os}</os><devices>{devices}</devices></domain>", active=active)


def disk(inner: str, kind: str = "file", device: str = "disk", name: str = "vda") -> Disk:
    found = parse(f"<disk type='{kind}' device='{device}'>{inner}<target dev='{name}' bus='virtio'/></disk>")
    return found.disks[0]


def test_a_plain_machine() -> None:
    found = parse(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/srv/a b.qcow2'/>"
        "<target dev='vda' bus='virtio'/></disk>"
        "<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg/b'/>"
        "<target dev='sda' bus='scsi'/></disk>",
        active=True,
    )
    assert (found.uuid, found.name) == ("0c62f8a2-4e6b-4d54-9e53-5d24b1b7f3a1", "web-1")
    assert (found.active, found.paused, found.persistent) == (True, False, True)
    assert (found.nvram, found.agent, found.tpm) == ("", False, False)
    assert found.disks == (
        Disk("vda", "/srv/a b.qcow2", "qcow2", "file"),
        Disk("sda", "/dev/vg/b", "raw", "block"),
    )
    assert found.captured == found.disks


@pytest.mark.parametrize(
    ("mark", "words"),
    [("<shareable/>", "shared with other guests"), ("<transient/>", "transient"), ("<readonly/>", "read-only")],
)
def test_a_disk_that_is_marked_is_not_captured_and_says_why(mark: str, words: str) -> None:
    found = disk(f"<driver name='qemu' type='raw'/><source file='/srv/a.img'/>{mark}")
    assert (found.excluded, found.path) == (words, "/srv/a.img")


@pytest.mark.parametrize(
    ("device", "words"),
    [("cdrom", "a CD-ROM"), ("floppy", "a floppy disk"), ("lun", "a LUN passed through to the guest")],
)
def test_what_is_no_disk_is_not_captured(device: str, words: str) -> None:
    assert disk("<source dev='/dev/sdx'/>", "block", device).excluded == words
    assert disk("", "file", device).excluded == words


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("network", "<source protocol='rbd' name='pool/a'><host name='mon'/></source>", "no local file (rbd)"),
        ("network", "<source protocol='nbd' name='a'><host transport='unix' socket='/s'/></source>",
         "no local file (nbd)"),
        ("nvme", "<source type='pci' managed='yes' namespace='1'><address domain='0' bus='1'/></source>",
         "no local file (nvme)"),
        ("vhostuser", "<source type='unix' path='/tmp/s'/>", "no local file (vhostuser)"),
        ("volume", "<source pool='gone' volume='a'/>", "no local file (volume)"),
        ("dir", "<source dir='/srv'/>", "no local file (dir)"),
        ("file", "", "empty"),
        ("file", "<source/>", "empty"),
        ("block", "<source startupPolicy='optional'/>", "empty"),
    ],
)  # fmt: skip
def test_a_disk_without_a_file_of_this_host_is_not_captured(kind: str, source: str, words: str) -> None:
    found = disk(f"<driver name='qemu' type='raw'/>{source}", kind)
    assert (found.excluded, found.path, found.kind) == (words, "", kind)


def test_a_volume_of_a_pool_is_where_the_pool_says() -> None:
    xml = (
        f"{HEAD}<devices><disk type='volume' device='disk'><driver type='qcow2'/><source pool='p' volume='v'/>"
        "<target dev='vda'/></disk></devices></domain>"
    )
    found = domain.parse(xml, resolve=lambda pool, volume: f"/pools/{pool}/{volume}")
    assert found.disks == (Disk("vda", "/pools/p/v", "qcow2", "volume"),)


def test_a_chain_of_overlays_is_its_newest_image() -> None:
    found = disk(
        "<driver name='qemu' type='qcow2'/><source file='/srv/top.qcow2' index='2'/>"
        "<backingStore type='file' index='1'><format type='raw'/><source file='/srv/base.img'/>"
        "<backingStore/></backingStore>"
    )
    assert found == Disk("vda", "/srv/top.qcow2", "qcow2", "file")


def test_a_format_that_is_not_said_is_raw_as_libvirt_takes_it() -> None:
    assert disk("<source file='/srv/a'/>").format == "raw"


def test_a_mirror_that_somebody_attached_is_seen() -> None:
    found = disk(
        "<driver type='qcow2'/><source file='/srv/a.qcow2'/>"
        "<mirror type='file' file='/b' format='raw' job='copy' ready='yes'><format type='raw'/></mirror>"
    )
    assert (found.mirror, found.excluded) == ("copy", "")


@pytest.mark.parametrize(
    ("os", "path"),
    [
        ("<nvram>/var/lib/libvirt/qemu/nvram/web-1_VARS.fd</nvram>", "/var/lib/libvirt/qemu/nvram/web-1_VARS.fd"),
        ("<nvram template='/usr/share/OVMF/OVMF_VARS.fd'/>", ""),
        ("<nvram type='file'><source file='/srv/vars.fd'/></nvram>", "/srv/vars.fd"),
        ("<nvram type='network'><source protocol='iscsi' name='iqn/0'/></nvram>", ""),
        ("", ""),
    ],
)
def test_where_uefi_variables_lie(os: str, path: str) -> None:
    assert parse(os=os).nvram == path


def test_agent_and_tpm_are_told_by_their_devices() -> None:
    agent = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/></channel>"
    spice = "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>"
    assert not parse(spice).agent
    assert parse(spice + agent).agent
    assert parse("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>").tpm


def test_the_definition_is_the_one_for_other_hosts() -> None:
    xml = f"{HEAD}</domain>"
    assert domain.parse(xml, "<domain>inactive</domain>").definition == "<domain>inactive</domain>"
    assert domain.parse(xml).definition == xml


@pytest.mark.parametrize("xml", ["", "<domain", "<network/>", "<domain><name>a</name></domain>", f"{HEAD[:-20]}"])
def test_what_is_no_machine_is_refused(xml: str) -> None:
    with pytest.raises(errors.Usage):
        domain.parse(xml)


def test_a_backup_names_each_disk_its_scratch_and_since_when() -> None:
    made = ET.fromstring(domain.backup_xml("/run/a&b", [BackupDisk("vda", "/s/<a>", "cp1"), BackupDisk("vdb", "/s/b")]))
    server = made.find("server")
    assert made.get("mode") == "pull"
    assert server is not None
    assert server.attrib == {"transport": "unix", "socket": "/run/a&b"}
    one, two = made.findall("disks/disk")
    assert (one.get("incremental"), one.get("exportbitmap"), one.get("exportname")) == ("cp1", "backup-vda", "vda")
    assert (two.get("backupmode"), two.get("incremental")) == ("full", None)
    assert [scratch.get("file") for scratch in made.iter("scratch")] == ["/s/<a>", "/s/b"]


def test_a_checkpoint_is_written_and_read() -> None:
    made = domain.checkpoint_xml("cp-2", ["vda", "vdb"])
    assert domain.parse_checkpoint(made) == domain.Checkpoint("cp-2", ("vda", "vdb"))
    told = (
        "<domaincheckpoint><name>cp-2</name><parent><name>cp-1</name></parent><creationTime>1764000000</creationTime>"
        "<disks><disk name='vda' checkpoint='bitmap' bitmap='cp-2'/><disk name='vdb' checkpoint='no'/></disks>"
        "</domaincheckpoint>"
    )
    assert domain.parse_checkpoint(told) == domain.Checkpoint("cp-2", ("vda",), "cp-1", 1764000000)


def test_where_a_backup_is_served() -> None:
    tcp = "<domainbackup mode='pull'><server transport='tcp' name='localhost' port='1'/></domainbackup>"
    assert domain.backup_socket(domain.backup_xml("/run/s", [])) == "/run/s"
    assert domain.backup_socket(tcp) == domain.backup_socket("<domainbackup mode='push'/>") == ""


def test_who_qemu_runs_as() -> None:
    def host(models: str) -> str:
        return f"<capabilities><host><cpu/>{models}</host></capabilities>"

    dac = (
        "<secmodel><model>apparmor</model><doi>0</doi></secmodel><secmodel><model>dac</model><doi>0</doi>"
        "<baselabel type='qemu'>+1:+2</baselabel><baselabel type='kvm'>+64055:+106</baselabel></secmodel>"
    )
    assert domain.qemu_user(host(dac)) == (64055, 106)
    assert domain.confined_by(host(dac)) == ["apparmor", "dac"]
    assert domain.qemu_user(host("<secmodel><model>selinux</model></secmodel>")) is None
    assert domain.confined_by(host("")) == []


@pytest.mark.parametrize(
    ("state", "connected"), [(" state='connected'", True), (" state='disconnected'", False), ("", False)]
)
def test_whether_an_agent_has_come_is_what_the_running_machine_says(state: str, connected: bool) -> None:
    channel = f"<channel type='unix'><target type='virtio' name='{domain.AGENT}'{state}/></channel>"
    named = "<name>web</name><uuid>8c550ff1-2496-47a2-997a-e4061acd4d62</uuid>"
    found = domain.parse(f"<domain>{named}<devices>{channel}</devices></domain>", active=True)
    assert (found.agent, found.connected) == (True, connected)
