"""What QEMU's answers say of mirrors; the answers are QEMU 7.2's, shortened."""

from __future__ import annotations

from typing import Any

from engine.hypervisor import domain, mirror

JOB = {"device": "vmferry-vda", "type": "mirror", "status": "ready", "ready": True, "paused": False, "io-status": "ok",
       "len": 119808, "offset": 119808, "speed": 0}  # fmt: skip
IMAGE = {"filename": "/i/top", "backing-image": {"filename": "/i/middle", "backing-image": {"filename": "/i/base"}}}
BLOCKS: list[dict[str, Any]] = [
    {"device": "", "qdev": "/machine/peripheral/virtio-disk0/virtio-backend",
     "inserted": {"node-name": "vmferry-vda", "drv": "mirror_top", "file": "/i/top", "image": IMAGE}},
    {"device": "", "qdev": "/machine/peripheral/virtio-disk10/virtio-backend",
     "inserted": {"node-name": "libvirt-2-format", "drv": "raw", "file": "/i/vdb", "image": {"filename": "/i/vdb"}}},
    {"device": "", "qdev": "sata0-0-0"},
    {"device": "drive-x", "inserted": {"node-name": "#block1", "drv": "raw", "file": "/i/x"}},
]  # fmt: skip
NODES: list[dict[str, Any]] = [
    {"node-name": "vmferry-vda", "drv": "mirror_top", "file": "/i/top"},
    {"node-name": "vmferry-vda-tap", "drv": "nbd", "file": "nbd+unix:///vda?socket=/t"},
    {"node-name": "libvirt-1-storage", "drv": "file", "file": "/i/top"},
    {"node-name": "libvirt-1-format", "drv": "qcow2", "file": "/i/top", "dirty-bitmaps": [
        {"recording": False, "granularity": 4096, "count": 8192, "busy": False},
        {"name": "cp-1", "recording": True, "granularity": 65536, "count": 65536},
        {"name": "cp-2", "recording": False, "granularity": 65536, "count": 0},
        {"name": "cp-3", "recording": True, "inconsistent": True, "granularity": 65536, "count": 0}]},
    {"node-name": "libvirt-2-format", "drv": "raw", "file": "/i/vdb"},
]  # fmt: skip


def test_jobs_of_ours_are_told_from_others() -> None:
    others = [JOB | {"device": "copy-vdb-libvirt-2-format"}, JOB | {"device": "drive-vda"}]
    assert mirror.jobs([*others, JOB]) == {
        "vda": mirror.Job(
            ready=True, paused=False, failed=False, parked=False, left=0, synced=None, ending=False
        )
    }  # fmt: skip


def test_what_a_job_says() -> None:
    def job(**more: Any) -> mirror.Job:
        return mirror.jobs([JOB | {name.replace("_", "-"): value for name, value in more.items()}])["vda"]

    stopped = job(status="standby", paused=True, io_status="failed", len=594944)
    assert (stopped.parked, stopped.paused, stopped.failed, stopped.left) == (True, True, True, 475136)
    assert job(io_status="nospace").failed
    assert not job(paused=True).parked
    assert (job(actively_synced=False).synced, job(actively_synced=True).synced) == (False, True)
    assert job(status="concluded").ending
    assert not job(status="running", ready=False).ready


def test_a_disk_is_found_by_the_alias_of_its_device_alone() -> None:
    aliases = {"vda": "virtio-disk0", "vdb": "virtio-disk1", "sda": "sata0-0-0", "x": "drive-x", "y": ""}
    assert {disk: top["node-name"] for disk, top in mirror.tops(BLOCKS, aliases).items()} == {
        "vda": "vmferry-vda", "x": "#block1",
    }  # fmt: skip
    assert mirror.tops(BLOCKS, {"vdk": "virtio-disk10"})["vdk"]["drv"] == "raw"


def test_the_content_is_below_the_filter_of_a_mirror() -> None:
    assert mirror.below(BLOCKS[0]["inserted"], NODES) == "libvirt-1-format"
    assert mirror.below(BLOCKS[1]["inserted"], NODES) == "libvirt-2-format"
    # A raw image may have no node of its format.
    assert mirror.below(BLOCKS[0]["inserted"], NODES[:3]) == "libvirt-1-storage"
    assert mirror.below(BLOCKS[0]["inserted"], NODES[:2]) == ""


def test_the_bitmap_without_a_name_is_the_mirrors() -> None:
    assert mirror.behind(NODES, "libvirt-1-format") == 8192
    assert mirror.behind(NODES, "libvirt-2-format") == 0


def test_a_bitmap_counts_when_it_has_counted_all_the_time() -> None:
    found = [name for name in ("cp-1", "cp-2", "cp-3", "cp-4") if mirror.sound(NODES, "libvirt-1-format", name)]
    assert found == ["cp-1"]
    assert not mirror.sound(NODES, "libvirt-2-format", "cp-1")


def test_an_image_and_what_lies_below_it() -> None:
    assert mirror.chain(BLOCKS[0]["inserted"]) == ["/i/top", "/i/middle", "/i/base"]
    assert mirror.chain({}) == []


def test_names_of_the_longest_disks_are_ones_that_qemu_takes() -> None:
    for name in (mirror.of("sdaaa"), mirror.target_of("sdaaa")):
        assert len(name.encode()) < 32


def test_the_xml_of_a_mirrored_disk_says_where_to() -> None:
    mirrored = """<mirror type='network' job='copy' ready='yes'><source protocol='nbd' name='vda'>
        <host transport='unix' socket='/run/tap'/></source></mirror>"""
    xml = f"""<domain><name>a</name><uuid>b</uuid><devices>
        <disk type='file'><source file='/a'/><target dev='vda'/>{mirrored}<alias name='virtio-disk0'/></disk>
        <disk type='file'><source file='/b'/><target dev='vdb'/><mirror job='active-commit'/></disk>
        </devices></domain>"""
    first, second = domain.parse(xml).disks
    assert (first.mirror, first.mirror_socket, first.mirror_ready, first.alias) == (
        "copy", "/run/tap", "yes", "virtio-disk0",
    )  # fmt: skip
    assert (second.mirror, second.mirror_socket, second.mirror_ready, second.alias) == ("active-commit", "", "", "")
