"""One disk or several of a stream in the config, and what is said of each that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.daemon import config

HEAD = 'site = "a"\nbus = "log:/x"\n'


def load(tmp_path: Path, text: str) -> config.Config:
    file = tmp_path / "source.toml"
    file.write_text(HEAD + text)
    return config.load(file, "source")


def test_the_order_of_disks_is_kept_and_one_disk_is_the_first(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        '[streams.one]\ndisk = "/a"\n[streams.two]\ndisks = { vdb = "/c", vda = "/b" }\n'
        '[streams.three.disks]\nos-1 = "/d"\nold = ""\n',
    )
    assert found.problems == ()
    assert [one.disks for one in found.streams] == [
        (("vda", "/a"),), (("vdb", "/c"), ("vda", "/b")), (("os-1", "/d"), ("old", "")),
    ]  # fmt: skip
    assert [one.disk for one in found.streams] == ["/a", "/c", "/d"]
    assert found.streams[2].paths == ("/d",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[streams.w]\ndisk = "/a"\ndisks = { vdb = "/b" }\n', "3: streams.w: both disk and disks"),
        ('[streams.w]\nevery = "5s"\n', "3: streams.w: disk, disks or vm is missing"),
        ("[streams.w]\ndisks = {}\n", "4: streams.w.disks: at least one disk is wanted"),
        ('[streams.w.disks]\nvda = ""\n', "3: streams.w.disks: at least one disk is wanted"),
        ('[streams.w.disks]\nvda = "/a"\n"v/b" = "/b"\n', "5: streams.w.disks.\"v/b\": 'v/b': the name of a disk"),
        ('[streams.w.disks]\nvda = "a.img"\n', "4: streams.w.disks.vda: 'a.img': a daemon has no directory"),
        ('[streams.w.disks]\nvda = "/a"\nvdb = 7\n', "5: streams.w.disks.vdb: a text is wanted"),
        ('[streams.w.disks]\nvda = "/a"\nvdb = "//a"\n', "5: streams.w.disks.vdb: //a is the disk of vda as well"),
        ('[streams.v]\ndisk = "/a"\n[streams.w]\ndisks = { x = "/b", y = "/a" }\n', "6: streams.w.disks.y: /a is the"),
        ('[streams.v.disks]\nx = "/b"\ny = "/a"\n[streams.w]\ndisk = "/a"\n', "7: streams.w.disk: /a is the disk of"),
        ('streams.w.disks = "/a"\n', "3: streams.w.disks: a table is wanted"),
    ],
)
def test_what_is_wrong_is_said_at_its_line_and_key(tmp_path: Path, text: str, problem: str) -> None:
    found = load(tmp_path, text)
    assert [one.removeprefix(f"{tmp_path}/source.toml:")[: len(problem)] for one in found.problems] == [problem]
    assert found.troubled == ("w",)


def test_a_rule_may_say_where_each_disk_lies(tmp_path: Path) -> None:
    file = tmp_path / "target.toml"
    file.write_text(f'{HEAD}[[accept]]\nstreams = "*"\npath = "/r/{{name}}/{{disk}}.img"\n')
    assert config.check(file, "target").accept[0].path == "/r/{name}/{disk}.img"
    file.write_text(f'{HEAD}[[accept]]\nstreams = "*"\npath = "/r/{{disk}}.img"\n')
    assert "neither {name} nor {id}" in config.load(file, "target").problems[0]
