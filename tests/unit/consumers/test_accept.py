"""Which streams a target takes, and that no name of another site leads out of the directory of its replicas."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumers import accept
from engine import errors
from engine.daemon.config import Accept
from engine.registry import Registry
from schemas.control import Present
from schemas.identity import Volume

STREAM = "6f1c0d5e-0000-4000-8000-000000000001"
NAMES = st.text(st.characters(codec="utf-8"), max_size=80) | st.text("./% \x00\n\x7fa\u2003\u202e", max_size=12)
LONG = st.text(st.sampled_from("a%/\u00e9\U0001f600"), min_size=120, max_size=400)


def said(label: str = "web", site: str = "ams", *sizes: int) -> Present:
    return Present(site, label, tuple(Volume(f"v{at}", size, 512) for at, size in enumerate(sizes)), 1, 0, 0)


def rule(streams: str = "*", path: str = "/r/{site}/{name}.img", quota: int = 0) -> Accept:
    return Accept(streams, path, quota=quota, where="/etc/t.toml:3: accept.1")


@pytest.mark.parametrize(
    ("pattern", "taken", "not_taken"),
    [
        ("ams/web", ["ams/web"], ["ams/web1", "xams/web", "ams/Web", "AMS/web"]),
        ("ams/*", ["ams/web", "ams/a/b", "ams/"], ["fra/ams/web", "ams2/web"]),
        ("*/db-?", ["ams/db-1", "fra/db-x"], ["ams/db-12", "ams/db-"]),
        ("ams/[ab]*", ["ams/a", "ams/bc"], ["ams/c"]),
    ],
)
def test_a_pattern_is_of_site_and_name_whole_and_by_letter(
    pattern: str, taken: list[str], not_taken: list[str]
) -> None:
    found = {one: accept.matches(rule(pattern), *one.split("/", 1)) for one in [*taken, *not_taken]}
    assert found == {**dict.fromkeys(taken, True), **dict.fromkeys(not_taken, False)}


def test_the_first_rule_that_takes_it_wins_and_none_may() -> None:
    rules = [rule("fra/*"), rule("ams/w*", "/first/{id}"), rule("ams/*", "/second/{id}")]
    assert accept.rule_for(rules, said("web")) is rules[1]
    assert accept.rule_for(rules, said("db")) is rules[2]
    assert accept.rule_for(rules, said("db", "lon")) is None


@given(NAMES, NAMES)
@example("a/b", "a%2Fb")
@example(".", "%2E")
@example("a ", "a%20")
def test_no_two_names_become_one(one: str, other: str) -> None:
    assert (accept.safe(one) == accept.safe(other)) == (one == other)


@given(NAMES | LONG)
@example("..")
@example("../../etc/passwd")
@example("")
def test_a_name_is_one_part_of_a_path_that_a_file_system_takes(name: str) -> None:
    found = accept.safe(name)
    assert "/" not in found
    assert found not in {".", ".."}
    assert not any(letter < " " or letter == "\x7f" for letter in found)
    assert found == found.strip()
    assert len(found.encode()) <= 200


@given(NAMES | LONG, NAMES | LONG)
@example("..", "..")
@example("{id}", "{name}")
def test_the_path_never_leaves_the_directory_of_the_rule(site: str, name: str) -> None:
    for pattern in ("/r/{site}-of/{name}.img", "/r/x/{name}"):
        found = accept.path(rule(path=pattern), said(name, site), STREAM)
        assert os.path.normpath(found) == found or not name
        assert found.startswith("/r/")
        assert found.count("/") == pattern.count("/")


@given(LONG, LONG)
def test_long_names_that_begin_alike_have_paths_of_their_own(one: str, other: str) -> None:
    first = accept.path(rule(), said("a" * 150 + one), STREAM)
    second = accept.path(rule(), said("a" * 150 + other), STREAM[:-1] + "2")
    assert first != second
    for found in (first, second):
        assert len(os.path.basename(found).encode()) <= 255


def test_braces_in_a_name_are_not_filled_in_again() -> None:
    assert accept.path(rule(), said("{id}", "{name}"), STREAM) == "/r/{name}/{id}.img"


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("/r/{site}/{name}.img", ["/r/ams/web.1.img", "/r/ams/web.1-vdb.img", "/r/ams/web.1-v%2Fc.img"]),
        ("/r/{id}/{disk}.qcow2", [f"/r/{STREAM}/{one}.qcow2" for one in ("vda", "vdb", "v%2Fc")]),
        ("/r/{name}", ["/r/web.1", "/r/web.1-vdb", "/r/web.1-v%2Fc"]),
        ("/r/x.{name}", ["/r/x.web.1", "/r/x.web.1-vdb", "/r/x.web.1-v%2Fc"]),
    ],
)
def test_each_disk_has_a_place_of_its_own(pattern: str, wanted: list[str]) -> None:
    volumes = tuple(Volume(name, 1, 512) for name in ("vda", "vdb", "v/c"))
    told = Present("ams", "web.1", volumes, 1, 0, 0)
    assert [accept.path(rule(path=pattern), told, STREAM, number) for number in range(3)] == wanted


def test_two_disks_of_one_name_are_refused_with_their_place() -> None:
    why = accept.refuse(rule("*", HERE), said("web", "ams", 1, 1), 0, ["/x", "/x"], known())
    assert why == "two disks of it would lie in one place: /x, /x"


def test_of_a_stream_that_is_here_only_what_comes_is_counted() -> None:
    big = said("web", "ams", 3 << 30, 2 << 30)
    assert accept.refuse(rule("*", HERE, 5 << 30), big, 3 << 30, ["/x"], known(), 1) == ""
    assert "2 GiB more would pass" in accept.refuse(rule("*", HERE, 4 << 30), big, 3 << 30, ["/x"], known(), 1)


def known(stream: str = "", problem: errors.FerryError | None = None) -> Registry:
    def of_target(_path: str) -> object:
        if problem is not None:
            raise problem
        return SimpleNamespace(stream=stream) if stream else None

    return cast(Registry, SimpleNamespace(of_target=of_target))


HERE = "/{site}/{name}.img"
"""A rule for replicas below a directory that is there on every machine."""


def test_a_quota_counts_all_disks_and_says_its_figures_and_its_rule() -> None:
    big = said("web", "ams", 3 << 30, 2 << 30)
    assert accept.refuse(rule("*", HERE, 6 << 30), big, 1 << 30, ["/x"], known()) == ""
    why = accept.refuse(rule("*", HERE, 6 << 30), big, (1 << 30) + 1, ["/x"], known())
    assert [part in why for part in ("5 GiB more", "quota of 6 GiB", "/etc/t.toml:3: accept.1", "1 GiB")] == [True] * 4
    assert accept.refuse(rule("*", HERE), big, 1 << 50, ["/x"], known()) == ""


@pytest.mark.parametrize(
    ("pattern", "base"),
    [("/r/{site}/{name}.img", "/r"), ("/r/a{id}.img", "/r"), ("/{name}", "/"), ("/r/s/one.img", "/r/s")],
)
def test_the_base_of_a_rule_is_what_does_not_depend_on_the_stream(pattern: str, base: str) -> None:
    assert rule(path=pattern).base == base


def test_a_base_that_is_not_there_is_no_directory_to_fill_and_what_follows_it_is_made(tmp_path: Path) -> None:
    ours = rule(path=f"{tmp_path}/mount/{{site}}/{{name}}/disk.img")
    where = accept.path(ours, said("a/b"), STREAM)
    why = accept.refuse(ours, said(), 0, [where], known())
    assert why.startswith(f"{tmp_path}/mount, where /etc/t.toml:3: accept.1 puts replicas, is not there")
    (tmp_path / "mount").mkdir()
    assert accept.refuse(ours, said(), 0, [where], known()) == ""
    for _ in range(2):
        accept.make_room(ours, where)
    assert where == f"{tmp_path}/mount/ams/a%2Fb/disk.img"
    assert os.listdir(os.path.dirname(where)) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "ams").write_text("a file")
    with pytest.raises(errors.Transient, match=f"^{tmp_path}/ams: cannot be made for a replica: File exists"):
        accept.make_room(rule(path=f"{tmp_path}/{{site}}/{{name}}"), f"{tmp_path}/ams/web")


def test_a_path_that_is_taken_names_who_has_it_and_both_ways_out() -> None:
    why = accept.refuse(rule("*", HERE), said(), 0, ["/x"], known("that other"))
    assert all(part in why for part in ("/x", "that other", "{id}", "vmferry forget", "/etc/t.toml:3"))


def test_a_registry_that_cannot_be_read_is_a_reason_and_not_an_end() -> None:
    assert accept.refuse(rule(), said(), 0, ["/r/x"], known(problem=errors.Damaged("no registry"))) == "no registry"
