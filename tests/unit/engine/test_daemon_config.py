"""A config says what is wrong with it by file, line and key, and what is wrong with one stream stays with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import errors
from engine.daemon import config
from engine.daemon.config import Config
from engine.daemon.toml import Misset, read

HEAD = 'site = "ams"\nbus = "kafka://b:9092"\n'
ID = "6f1c0d5e-0000-4000-8000-000000000001"


class Files:
    def __init__(self, folder: Path, side: str) -> None:
        self.side, self.main = side, folder / f"{side}.toml"
        self.fragments = folder / f"{side}.d"

    def write(self, text: str | bytes, head: str = HEAD, fragments: dict[str, str | bytes] | None = None) -> Files:
        data = text if isinstance(text, bytes) else (head + text).encode()
        self.main.write_bytes(data)
        for name, said in (fragments or {}).items():
            self.fragments.mkdir(exist_ok=True)
            (self.fragments / name).write_bytes(said if isinstance(said, bytes) else said.encode())
        return self

    def load(self) -> Config:
        return config.load(self.main, self.side)

    def refused(self) -> list[str]:
        """What nobody can run with, without the folder."""
        with pytest.raises(Misset) as why:
            self.load()
        return [self.short(one) for one in why.value.problems]

    def problems(self) -> list[str]:
        with pytest.raises(Misset) as why:
            config.check(self.main, self.side)
        found = self.load()
        assert list(found.problems) == why.value.problems == str(why.value).splitlines()
        return [self.short(one) for one in found.problems]

    def short(self, problem: str) -> str:
        return problem.replace(f"{self.main.parent}/", "")


@pytest.fixture
def source(tmp_path: Path) -> Files:
    return Files(tmp_path, "source")


@pytest.fixture
def target(tmp_path: Path) -> Files:
    return Files(tmp_path, "target")


def begins(problems: list[str], *wanted: str) -> None:
    assert len(problems) == len(wanted), problems
    for problem, beginning in zip(problems, wanted, strict=True):
        assert problem.startswith(beginning), f"{problem!r} does not begin with {beginning!r}"


def names(found: Config) -> list[str]:
    return [one.name for one in found.streams]


# -- places --------------------------------------------------------------------------------------------------------


def test_a_place_is_the_line_of_its_key_or_of_the_nearest_table_around_it(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        'a.b = 1\n"x.y" = 2\n\n[streams."web 1"] # main\n  every="1s"\n[[accept]]\nq = 1\n'
        "[[accept]]\n# q = 0\n'q' = 2\n[t]\nin = {k = 1}\n"
    )
    found = read(path)
    wanted = {
        ("a", "b"): "1: a.b",
        ("x.y",): '2: "x.y"',
        ("streams", "web 1"): '4: streams."web 1"',
        ("streams", "web 1", "every"): '5: streams."web 1".every',
        ("streams", "web 1", "disk"): '4: streams."web 1".disk',
        ("accept", 0, "q"): "7: accept.1.q",
        ("accept", 1): "8: accept.2",
        ("accept", 1, "q"): "10: accept.2.q",
        ("t", "in", "k"): "12: t.in.k",
    }
    assert {place: found.at(place) for place in wanted} == {place: f"{path}:{at}" for place, at in wanted.items()}
    assert found.at(("none",)) == f"{path}: none"


def test_what_is_no_toml_no_text_or_not_there_is_said_with_its_place(source: Files) -> None:
    with pytest.raises(errors.NotFound, match=r"source\.toml"):
        source.load()
    begins(source.write('[streams.web]\ndisk = "/a\n').refused(), "source.toml:4: ")
    begins(source.write('[streams.web]\ndisk = "/a"\ndisk = "/b"\n').refused(), "source.toml:5: ")
    begins(source.write(b'site = "\xff"\n').refused(), "source.toml: it is not UTF-8 text")


# -- what holds for all --------------------------------------------------------------------------------------------


def test_every_problem_is_said_at_once_by_line_and_key(source: Files) -> None:
    text = 'bus = ""\nsite = "a/b"\nprefix = "x y"\ndrain = "soon"\nat_once = 0\nmetric = "x"\n'
    begins(
        source.write(text, head="").refused(),
        *("source.toml:1: bus: ", "source.toml:2: site: ", "source.toml:3: prefix: ", "source.toml:4: drain: "),
        *("source.toml:5: at_once: ", "source.toml:6: metric: no such key; known here: accept, at_once, bus"),
    )
    begins(source.write("", head="").refused(), "source.toml: site: it is missing", "source.toml: bus: it is missing")


def test_tables_of_the_other_side_are_refused_where_they_stand(source: Files, target: Files) -> None:
    wrong = source.write('[[accept]]\nstreams = "*"\npath = "/r/{id}"\n').refused()
    begins(wrong, "source.toml:3: accept: this is the config of a source; accept belongs into that of a target")
    wrong = target.write('[streams.web]\ndisk = "/a"\n\n[defaults]\nevery = "5s"\n').refused()
    assert [one.split(": ")[:2] for one in wrong] == [["target.toml:3", "streams"], ["target.toml:6", "defaults"]]
    begins(target.write("at_once = 3\n").refused(), "target.toml:3: at_once: no such key")


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ('tls = true\ncertficate = "/c"', "5: kafka.certficate"),
        ('tls = "yes"', "4: kafka.tls"),
        ('tls = true\ncertificate = "/c"', "5: kafka.certificate"),
        ('tls = true\nsasl = "GSSAPI"', "5: kafka.sasl"),
    ],
)
def test_a_mistake_in_kafka_is_said_at_its_key(target: Files, table: str, place: str) -> None:
    begins(target.write(f"[kafka]\n{table}\n").refused(), f"target.toml:{place}: ")


def test_defaults_hold_where_a_stream_says_nothing_and_are_checked(source: Files) -> None:
    text = '[defaults]\nevery = "5m"\nrate = "off"\ncap = "2G"\n[streams.a]\ndisk = "/a"\n'
    found = source.write(text + '[streams.b]\ndisk = "/b"\nevery = "1s"\n').load()
    assert [(one.every, one.rate, one.cap) for one in found.streams] == [(300, 0, 2 << 30), (1, 0, 2 << 30)]
    begins(
        source.write('[defaults]\ndisk = "/a"\nevery = "1ms"\n').refused(),
        *("source.toml:4: defaults.disk: no such key", "source.toml:5: defaults.every: "),
    )


def test_what_is_left_out_is_as_promised(source: Files, target: Files) -> None:
    found = config.check(source.write('[streams.a]\ndisk = "/a"\n').main, "source")
    assert (found.common.site, found.common.bus, found.common.drain, found.common.at_once) == (
        *("ams", "kafka://b:9092"),
        *(10.0, 4),
    )
    (one,) = found.streams
    assert (one.every, one.rate, one.keep, one.cap, one.force_share) == (30.0, None, 0.0, 0, False)
    assert source.short(one.where) == "source.toml:3: streams.a"
    rules = config.check(target.write('[[accept]]\nstreams = "*"\npath = "/r/{id}"\n').main, "target").accept
    assert [(rule.streams, rule.quota, target.short(rule.where)) for rule in rules] == [
        ("*", 0, "target.toml:3: accept.1")
    ]


# -- single streams ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key"),
    [
        *(('every = "often"', "every"), ("every = true", "every"), ('every = "10ms"', "every")),
        *(('rate = "fast"', "rate"), ('block_size = "3000"', "block_size"), ('block_size = "256"', "block_size")),
        *(('id = "web"', "id"), ('force_share = "yes"', "force_share"), ('secret_file = "k"', "secret_file")),
        *(('format = ""', "format"), ('kep = "1h"', "kep"), ('"kep" = 1', "kep"), ("'a b'.c = 1", '"a b"')),
    ],
)
def test_a_bad_stream_is_in_trouble_and_the_others_stay(source: Files, line: str, key: str) -> None:
    text = f'[streams.a]\ndisk = "/a"\n\n[streams."web 1"]\ndisk = "/w"\n{line}\n\n[streams.z]\ndisk = "/z"\n'
    begins(source.write(text).problems(), f'source.toml:8: streams."web 1".{key}: ')
    found = source.load()
    assert (names(found), found.troubled) == (["a", "z"], ("web 1",))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[streams.w]\n", "3: streams.w: disk, disks or vm is missing"),
        ('[streams.w]\ndisk = "w.img"\n', "4: streams.w.disk: 'w.img'"),
        ("[streams]\nw = 5\n", "4: streams.w: a table is wanted"),
        ('[streams." "]\ndisk = "/w"\n', '3: streams." ": a name of 1 to 200'),
        ('streams.w.disk = "/w"\nstreams.w.rate = "x"\n', "4: streams.w.rate: "),
        ('[streams]\nw = {disk = "/w", rate = "x"}\n', "4: streams.w.rate: "),
    ],
)
def test_what_is_no_stream_is_said(source: Files, text: str, problem: str) -> None:
    begins(source.write(text).problems(), f"source.toml:{problem}")
    assert source.load().streams == ()


def test_a_name_that_stands_twice_is_used_by_nobody_and_both_places_are_said(source: Files) -> None:
    files = source.write(
        '[streams.w]\ndisk = "/w"\n[streams.a]\ndisk = "/a"\n', fragments={"w.toml": '\n[streams.w]\ndisk = "/v"\n'}
    )
    (problem,) = files.problems()
    assert problem.startswith("source.d/w.toml:2: streams.w: it stands at ")
    assert "source.toml:3: streams.w" in problem
    assert (names(files.load()), files.load().troubled) == (["a"], ("w",))


def test_a_disk_that_is_there_by_another_name_is_found(source: Files, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    files = source.write(
        f'[streams.a]\ndisk = "{tmp_path}/disk"\n', fragments={"b.toml": f'[streams.b]\ndisk = "{tmp_path}/link"\n'}
    )
    (problem,) = files.problems()
    assert problem.startswith("source.d/b.toml:2: streams.b.disk: ")
    assert "source.toml:3: streams.a" in problem
    assert (names(files.load()), files.load().troubled) == (["a"], ("b",))


# -- fragments and rules -------------------------------------------------------------------------------------------


def test_fragments_are_read_in_order_and_a_broken_one_takes_no_other_with_it(source: Files) -> None:
    files = source.write(
        '[streams.m]\ndisk = "/m"\n',
        fragments={
            "30.toml": '[streams.c]\ndisk = "/c"\n', "10.toml": '[streams.a]\ndisk = "/a"\n', "20.toml": "[streams.b\n",
            "25.toml": b"\xff", "40.toml": 'bus = "x"\n[streams.d]\ndisk = "/d"\n', "no.tml": "[",
        },
    )  # fmt: skip
    begins(
        files.problems(),
        *("source.d/20.toml:1: ", "source.d/25.toml: it is not UTF-8", "source.d/40.toml:1: bus: only streams may"),
    )
    assert names(files.load()) == ["m", "a", "c", "d"]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        *(('path = "/r/{nam}"', ".path"), ('path = "/r/x"', ".path"), ('path = "r/{id}"', ".path")),
        *(('path = "/r/{id}"\nquotas = 1', ".quotas"), ('path = "/r/{id}"\nquota = "x"', ".quota"), ("", "")),
    ],
)
def test_a_bad_rule_is_left_out_and_the_others_stay(target: Files, line: str, key: str) -> None:
    good = '[[accept]]\nstreams = "fra/*"\npath = "/r/{name}"\n'
    at = 6 if not key else 9 if "\n" in line else 8
    files = target.write(f'{good}[[accept]]\nstreams = "*"\n{line}\n{good}')
    begins(files.problems(), f"target.toml:{at}: accept.2{key}: ")
    assert len(files.load().accept) == 2


def test_streams_and_rules_of_the_wrong_kind_are_said(source: Files, target: Files) -> None:
    begins(source.write("streams = 5\n").refused(), "source.toml:3: streams: a table is wanted")
    begins(target.write('accept = "*"\n').refused(), "target.toml:3: accept: a list of tables is wanted")
    files = source.write("", fragments={"a.toml": "streams = 5\n"})
    begins(files.problems(), "source.d/a.toml:1: streams: tables are wanted")
    files = target.write("", fragments={"a.toml": "\naccept = 5\n"})
    begins(files.problems(), "target.d/a.toml:2: accept: a list of tables is wanted")
