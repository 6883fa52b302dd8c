"""From what a user names to what is opened, before anything is."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from engine import errors
from engine.device import images
from engine.nbd import qemu
from engine.nbd.client import Place


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("/vm/a.raw", "/vm/a.raw"),
        ("a b%20c.qcow2", "a b%20c.qcow2"),
        ("strange:name.raw", "strange:name.raw"),
        ("file:/vm/a%20b.raw", "/vm/a b.raw"),
        ("file:///vm/a.raw", "/vm/a.raw"),
        ("file://localhost/vm/a.raw", "/vm/a.raw"),
        ("nbd+unix:///vda?socket=/run/s", images.Remote(Place(socket="/run/s"), "vda")),
        ("nbd+unix:///?socket=/run/a%20b", images.Remote(Place(socket="/run/a b"), "")),
        ("nbd://host/vda", images.Remote(Place(host="host", port=10809), "vda")),
        ("nbd://[::1]:99/a%2Fb", images.Remote(Place(host="::1", port=99), "a/b")),
        ("nbd://host", images.Remote(Place(host="host"), "")),
    ],
)
def test_a_spec_is_a_path_or_a_place(spec: str, expected: object) -> None:
    assert images.parse(spec) == expected


@pytest.mark.parametrize(
    "spec",
    ["nbd+unix:///vda", "nbds://host/vda", "http://host/a.raw", "file://elsewhere/a", "nbd:unix:/s", "ssh://host/a",
     "nbd://host:port/a", "nbd://host:99999/a", "nbd://[::1/a"],
)  # fmt: skip
def test_other_urls_are_refused(spec: str) -> None:
    with pytest.raises(errors.Usage, match="URL"):
        images.parse(spec)


QCOW2 = b"QFI\xfb" + struct.pack(">L", 3)


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.qcow2", QCOW2, "qcow2"),
        ("A.QCOW2", QCOW2, "qcow2"),
        ("a.qcow2", b"QFI\xfb" + struct.pack(">L", 2), "qcow2"),
        ("a.qcow", b"QFI\xfb" + struct.pack(">L", 1), "qcow"),
        ("a.vmdk", b"KDMV", "vmdk"),
        ("a.vmdk", b"# Disk DescriptorFile\n", "vmdk"),
        ("a.vhdx", b"vhdxfile", "vhdx"),
        ("a.vdi", bytes(64) + struct.pack("<L", 0xBEDA107F), "vdi"),
        ("a.luks", b"LUKS\xba\xbe\0\1", "luks"),
        ("a.raw", QCOW2, "raw"),
        ("a.img", QCOW2, "raw"),
        ("a", QCOW2, "raw"),
        ("a.vmdk", QCOW2, "raw"),
        ("a.qcow2", b"", "raw"),
    ],
)
def test_a_format_needs_both_the_extension_and_the_magic(
    tmp_path: Path, name: str, content: bytes, format: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert images.detect(str(tmp_path / name)) == format


def test_no_character_of_a_path_means_anything_to_qemu(tmp_path: Path) -> None:
    path = tmp_path / 'a,b="c:d\\e.qcow2'
    path.touch()
    image = qemu.Image(str(path), "qcow2", secret_file="/s", encryption="luks", force_share=True)
    assert image.options() == {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": str(path)},
        "encrypt": {"format": "luks", "key-secret": "secret0"},
        "force-share": True,
    }
    assert qemu.secret_object("/a,b") == ["--object", "secret,id=secret0,file=/a,,b,format=raw"]


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(errors.NotFound, match="qemu-nbd is not installed; apt-get install qemu-utils"):
        qemu.program("qemu-nbd")
