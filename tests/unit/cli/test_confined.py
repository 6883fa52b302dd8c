"""What `vmferry doctor` reads from the files of AppArmor and SELinux; under neither was anything run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from engine import places
from engine.cli import confined
from tests.support import tools

SCRATCH = "/srv/scratch"
SHIPPED = tools.ROOT / "packaging" / "apparmor" / "libvirt-qemu"


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ("/srv/scratch/** rw,", True),
        ("  /srv/scratch/** rwk,  # vmferry", True),
        ('"/srv/scratch/**" wr,', True),
        ("allow file /srv/{other,scratch}/*/*.sock rw,", True),
        ("/srv/scratch/*/tap.soc? rw,", True),
        ("/srv/** rwk,", True),
        ("", False),
        ("# /srv/scratch/** rw,", False),
        ("/srv/scratch/** r,", False),
        ("/srv/scratch/* rw,", False),
        ("/srv/scratch2/** rw,", False),
        ("/srv/scratch/**,", False),
        ("owner /srv/scratch/** rw,", False),
        ("deny /srv/scratch/** rw,", False),
        ("/srv/scratch.** rw,", False),
    ],
)
def test_a_rule_lets_qemu_reach_the_sockets_or_not(rule: str, allowed: bool) -> None:
    for text in (rule, f"/dev/kvm rw,\n{rule}\n/dev/tap* rw,\n"):
        assert confined.allows(text, SCRATCH) is allowed
        assert confined.allows(text, SCRATCH + "/") is allowed


def test_the_rules_that_are_shipped_are_for_the_directory_that_is_made() -> None:
    assert confined.allows(SHIPPED.read_text(), places.SCRATCH)
    assert places.SCRATCH in (tools.ROOT / "packaging" / "tmpfiles.d" / "vmferry.conf").read_text()
    example = tomllib.loads((tools.ROOT / "packaging" / "etc" / "source.toml").read_text())
    assert example.get("scratch", places.SCRATCH) == places.SCRATCH


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_apparmor_wants_a_rule_and_that_it_is_included(tmp_path: Path) -> None:
    def look(models: tuple[str, ...] = ("apparmor", "dac")) -> list[tuple[str, bool]]:
        return [(one.name, one.ok) for one in confined.looks(models, SCRATCH, tmp_path)]

    assert look() == [], "the kernel has none"
    put(tmp_path, "sys/module/apparmor/parameters/enabled", "Y\n")
    assert look(("dac",)) == [], "libvirt makes no use of it"
    assert look() == [("AppArmor", False)]
    put(tmp_path, confined.RULES, "/srv/scratch/** rwk,\n")
    (weak,) = confined.looks(("apparmor",), SCRATCH, tmp_path)
    assert not weak.ok
    assert "does not include" in weak.words
    put(tmp_path, confined.ABSTRACTION, "  include if exists <local/abstractions/libvirt-qemu>\n")
    assert look() == [("AppArmor", True)]
    (weak,) = confined.looks(("apparmor",), "/elsewhere", tmp_path)
    assert not weak.ok
    assert "/elsewhere" in weak.words
    assert "/elsewhere" in weak.mend
    put(tmp_path, "sys/module/apparmor/parameters/enabled", "N\n")
    assert look() == []


def test_selinux_wants_the_label_and_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(confined.looks(("selinux",), SCRATCH, tmp_path))
    put(tmp_path, "sys/fs/selinux/enforce", "0")
    assert not list(confined.looks(("selinux",), SCRATCH, tmp_path)), "it only says what it would refuse"
    put(tmp_path, "sys/fs/selinux/enforce", "1")
    assert not list(confined.looks(("dac",), SCRATCH, tmp_path))
    (weak,) = confined.looks(("selinux", "dac"), SCRATCH, tmp_path)
    assert not weak.ok
    assert not weak.required, "the rest of vmferry needs none of it"
    assert "is not of type svirt_image_t and the module vmferry is not loaded" in weak.words
    assert "semodule -i packaging/selinux/vmferry.cil" in weak.mend
    assert (tools.ROOT / "packaging/selinux/vmferry.cil").exists()
    labels = {str(tmp_path / "srv/scratch"): b"system_u:object_r:svirt_image_t:s0\0"}
    monkeypatch.setattr("os.getxattr", lambda path, name: labels[str(path)])
    (weak,) = confined.looks(("selinux",), SCRATCH, tmp_path)
    assert not weak.ok
    assert "svirt_image_t" not in weak.words
    put(tmp_path, "var/lib/selinux/targeted/active/modules/400/vmferry/cil", "")
    (well,) = confined.looks(("selinux",), SCRATCH, tmp_path)
    assert well.ok
