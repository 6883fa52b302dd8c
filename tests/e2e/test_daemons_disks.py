"""A stream of several disks between two daemons: cut together, taken together, and each at its place."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import Sites
from tests.support.ferry import MEBI, scribble, until
from tests.support.kafka import Cluster
from tests.support.several import SIZES, UUID, Several

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def on_kafka(tmp_path: Path, kafka: Cluster) -> Iterator[Sites]:
    """Where records are seen before their epoch is whole."""
    made = Sites(tmp_path, kafka.url, prefix=f"disks-{tmp_path.name[-20:]}")
    try:
        yield made
    finally:
        if not made.source.ended():
            made.source.send(signal.SIGCONT)
        made.stop()


def test_all_disks_travel_together_and_every_command_names_each(sites: Sites) -> None:
    web = Several(sites, "vda", "vdb", "vdc")
    sites.start()
    until(sites.proved())
    assert web.same()
    assert web.told() == [(name, str(web.replica(name)), SIZES[name]) for name in SIZES]
    for name in web.disks:
        scribble(web.disk(name), MEBI, 70_000, seed=5)
    until(web.same)
    until(sites.proved())
    source, target = sites.source.ferry, sites.target.ferry
    assert [one["path"] for one in sites.source.stream()["disks"]] == list(web.disks.values())
    for ferry, paths in ((source, list(web.disks.values())), (target, [path for _, path, _ in web.told()])):
        shown = ferry.run("status").out
        assert all(path in shown for path in paths)
        assert ferry.run("status", paths[2]).out.count("stream     ") == 1, "each disk names its stream"
    assert target.run("status", "--check", "--max-rpo", "10m").code == 0
    verified = target.told("verify", "web", "--sha256")
    assert [(one["name"], one["path"]) for one in verified["volumes"]] == [one[:2] for one in web.told()]
    assert len({one["sha256"] for one in verified["volumes"]}) == 3
    told = target.told("epochs", "web")
    assert [one["name"] for one in told["disks"]] == list(SIZES)
    assert len(told["epochs"][-1]["roots"]) == 3
    assert all(path in target.run("epochs", "web").out for _, path, _ in web.told())
    released = target.run("target", "release", "web").out
    assert all(path in released for _, path, _ in web.told())
    scribble(web.replica("vdb"), 0, 5000, seed=8)  # its user has it
    assert target.run("target", "acquire", "web").code == 0
    until(lambda: web.same() and sites.proved()())
    gone = target.told("forget", "web", "--purge", "--yes")
    assert [one["path"] for one in gone["stays"] if one["what"] == "replica"] == [
        str(web.replica(one)) for one in SIZES
    ]
    assert not any(web.replica(name).exists() for name in SIZES)


def test_killed_within_an_epoch_that_spans_disks_all_of_them_are_what_they_were(on_kafka: Sites) -> None:
    web = Several(on_kafka, "vda", "vdb", "vdc")
    on_kafka.start()
    until(on_kafka.proved())
    before, epoch = web.copies(), on_kafka.target.stream()["epoch"]
    assert on_kafka.source.ferry.run("rate", "web", "1M").code == 0
    on_kafka.source.send(signal.SIGSTOP)  # it shall see all of the change at once
    for name in web.disks:
        scribble(web.disk(name), 0, 2 * MEBI, seed=99)
    on_kafka.source.send(signal.SIGCONT)
    until(lambda: web.equal(before) == {"vdc"})
    assert on_kafka.target.stream()["epoch"] == epoch
    on_kafka.source.send(signal.SIGSTOP)
    on_kafka.target.kill()
    assert web.equal(before) == {"vdc"}, "it was not in the middle of an epoch of several disks"
    recovered = on_kafka.target.ferry.told("recover", "web")["replicas"][0]
    assert (recovered["epoch"], recovered["held"]) == (epoch, "")
    assert [one["path"] for one in recovered["disks"]] == [str(web.replica(name)) for name in SIZES]
    assert web.equal(before) == set(SIZES), "all of them, or none"
    assert on_kafka.target.ferry.run("verify", "web").code == 0
    on_kafka.target.start()
    on_kafka.source.send(signal.SIGCONT)
    until(web.same)
    until(on_kafka.proved())


def test_a_disk_that_comes_while_it_runs_is_added_and_nothing_else_travels_again(sites: Sites) -> None:
    web = Several(sites, "vda")
    sites.start()
    until(sites.proved())
    assert not web.replica("vdb").exists()
    web.plug("vdb")
    scribble(web.disk("vda"), 0, 70_000, seed=3)
    web.reload()
    until(lambda: sites.target.stream()["epoch"] and web.same())
    until(sites.proved())
    assert sites.target.stream()["stream"] == sites.source.stream()["stream"] == UUID
    assert web.told() == [(name, str(web.replica(name)), SIZES[name]) for name in ("vda", "vdb")]
    assert sites.source.stream()["sent_bytes"] < SIZES["vdb"] + MEBI
    rewound = sites.target.ferry.told("target", "rewind", "web", "--to", str(_first_usable(sites)))
    assert [one["size"] for one in rewound["disks"]] == [SIZES["vda"], None], "the epoch knows nothing of it"
    assert sites.target.ferry.run("target", "resume", "web").code == 0
    scribble(web.disk("vdb"), MEBI, 5000, seed=4)
    until(web.same)
    until(sites.proved())
    assert sites.target.ferry.run("verify", "web").code == 0


def _first_usable(sites: Sites) -> int:
    """The oldest epoch that is kept: one of before the disk came."""
    first = sites.target.ferry.told("epochs", "web")["epochs"][0]
    assert len(first["roots"]) == 1
    return int(first["epoch"])


def test_a_disk_that_comes_while_the_target_is_down_or_its_daemon_dies_over_it(sites: Sites) -> None:
    web = Several(sites, "vda")
    sites.start()
    until(sites.proved())
    sites.target.kill()
    web.plug("vdb")
    web.plug("vdc")
    web.reload()
    until(lambda: len(sites.source.stream().get("disks", [])) == 3 and sites.source.stream().get("epoch", 0) > 1)
    for _ in range(3):
        sites.target.start()
        until(lambda: len(sites.target.stream().get("disks", [])) == 3)
        sites.target.kill()
        recovered = sites.target.ferry.run("recover", "web")
        assert recovered.code == 0, recovered.err
    sites.target.start()
    until(web.same)
    until(sites.proved())


def test_a_disk_that_is_taken_out_stays_as_it_was_and_the_others_keep_their_numbers(sites: Sites) -> None:
    web = Several(sites, "vda", "vdb", "vdc")
    sites.start()
    until(sites.proved())
    before = web.copies()
    path = web.disks.pop("vdb")
    web.reload()
    scribble(web.disk("vdb"), 0, 9000, seed=6)  # nobody looks at it
    scribble(web.disk("vdc"), 0, 9000, seed=6)
    until(lambda: web.same("vda", "vdc"))
    until(sites.proved())
    assert web.equal(before) == {"vda", "vdb"}
    told = {one["name"]: one for one in sites.source.stream()["disks"]}
    assert (told["vdb"]["path"], told["vdb"]["size"]) == ("", SIZES["vdb"])
    assert "not in the config any more" in told["vdb"]["gone"]
    assert f"vdb        {told['vdb']['gone']}, 4 MiB" in sites.source.ferry.run("status").out
    sites.source.kill()
    Path(path).rename(moved := Path(f"{path}.away"))  # gone for good
    sites.source.start()
    scribble(web.disk("vda"), 0, 9000, seed=6)
    until(lambda: web.same("vda", "vdc"))
    until(sites.proved())
    moved.rename(path)
    web.disks["vdb"] = path  # and it is put back, behind the others
    web.reload()
    until(web.same)
    until(sites.proved())
    assert [one["name"] for one in sites.source.stream()["disks"]] == ["vda", "vdb", "vdc"]
    assert sites.source.stream()["sent_bytes"] < MEBI, "what was written meanwhile, and no more"


def test_a_disk_that_will_not_come_back_is_given_up_and_its_replica_emptied(sites: Sites) -> None:
    web = Several(sites, "vda", "vdb")
    sites.start()
    until(sites.proved())
    web.disks["vdb"] = ""
    web.reload()
    until(lambda: web.replica("vdb").stat().st_size == 0)
    until(sites.proved())
    assert web.same("vda")
    assert sites.source.stream()["disks"][1] == {"name": "vdb", "path": "", "size": 0, "gone": "given up: it is empty"}
    epochs = sites.target.ferry.told("epochs", "web")["epochs"]
    kept = next(one["epoch"] for one in epochs if one["usable"])
    assert sites.target.ferry.run("target", "rewind", "web", "--to", str(kept)).code == 0
    assert web.same("vda", "vdb"), "and can be gone back to"


def test_a_disk_whose_state_was_lost_while_it_is_away_is_not_guessed_at(sites: Sites) -> None:
    web = Several(sites, "vda", "vdb")
    sites.start()
    until(sites.proved())
    path = web.disks.pop("vdb")
    web.reload()
    until(sites.proved())
    sites.source.kill()
    (sites.source.state / "streams" / UUID / "source" / "state.sqlite").unlink()
    sites.source.start()
    until(lambda: "can be told by nothing else: put it back" in sites.source.stream().get("why", ""))
    assert web.replica("vdb").stat().st_size == SIZES["vdb"]
    web.disks["vdb"] = path
    scribble(Path(path), 0, 5000, seed=2)
    web.reload()
    until(web.same)
    until(sites.proved())
    assert sites.source.stream()["sent_bytes"] < MEBI


def test_one_disk_is_moved_and_the_others_stay(sites: Sites) -> None:
    web = Several(sites, "vda", "vdb")
    sites.start()
    until(sites.proved())
    there = sites.replicas / "elsewhere.img"
    refused = sites.target.ferry.run("target", "move", "web", there)
    assert refused.code == 2
    assert "it has 2 disks: name one with --disk: vda, vdb" in refused.err
    assert sites.target.ferry.run("target", "move", "web", there, "--disk", "vdx").code == 3
    moved = sites.target.ferry.told("target", "move", "web", there, "--disk", "vdb")
    assert (moved["disk"], moved["target"], moved["old"]) == ("vdb", str(there), str(web.replica("vdb")))
    scribble(web.disk("vda"), 0, 5000, seed=2)
    scribble(web.disk("vdb"), 0, 5000, seed=2)
    until(lambda: web.same("vda") and there.read_bytes() == web.disk("vdb").read_bytes())
    until(sites.proved())
    assert [one[:2] for one in web.told()] == [("vda", str(web.replica("vda"))), ("vdb", str(there))]
    assert sites.target.ferry.run("verify", "web").code == 0
    assert not sites.target.stream()["warning"]


def test_a_quota_counts_all_disks_also_one_that_comes_later(sites: Sites) -> None:
    rule = sites.target.config["accept"][0]
    rule["quota"] = "10M"
    sites.target.write()
    web = Several(sites, "vda", "vdb")
    sites.start()
    until(lambda: "12 MiB more would pass the quota of 10 MiB" in sites.target.stream().get("why", ""))
    rule["quota"] = "13M"
    sites.target.reload()
    until(sites.proved())
    web.plug("vdc")
    web.reload()
    until(lambda: "its source has vdc by now, which is not taken: 2 MiB more" in sites.target.stream()["warning"])
    until(lambda: "this replica 2: vdc not yet" in sites.target.stream()["why"])
    assert sites.target.ferry.run("status", "--check").code >= 1
    assert not web.replica("vdc").exists()
    rule["quota"] = "14M"
    sites.target.reload()
    until(web.same)
    until(sites.proved())
    assert not sites.target.stream()["warning"]


def test_a_rule_says_where_each_disk_lies_and_takes_no_other_file_for_one(sites: Sites) -> None:
    sites.target.config["accept"][0]["path"] = f"{sites.replicas}/{{name}}/{{disk}}.img"
    sites.target.write()
    web = Several(sites, "vda", "vdb")
    (sites.replicas / "web").mkdir()
    (sites.replicas / "web" / "vdc.img").write_bytes(b"somebody's")
    sites.start()
    until(sites.proved())
    places = [sites.replicas / "web" / f"{name}.img" for name in ("vda", "vdb")]
    assert [one[1] for one in web.told()] == [str(path) for path in places]
    assert [path.read_bytes() for path in places] == [Path(path).read_bytes() for path in web.disks.values()]
    web.plug("vdc")
    web.reload()
    until(lambda: "vdc.img exists, and is no replica that is known here" in sites.target.stream()["warning"])
    assert (sites.replicas / "web" / "vdc.img").read_bytes() == b"somebody's"
    (sites.replicas / "web" / "vdc.img").unlink()
    sites.source.ask("cut", stream="web")
    until(lambda: (sites.replicas / "web" / "vdc.img").exists())
    until(sites.proved())
    assert (sites.replicas / "web" / "vdc.img").read_bytes() == web.disk("vdc").read_bytes()


def test_a_disk_that_lies_elsewhere_now_is_read_there(sites: Sites) -> None:
    web = Several(sites, "vda", "vdb")
    sites.start()
    until(sites.proved())
    for name in web.disks:
        moved = sites.disks / f"moved-{name}.img"
        moved.write_bytes(web.disk(name).read_bytes())  # a copy: the old one is there, too, and is not looked at
        web.disks[name] = str(moved)
        scribble(moved, 0, 5000, seed=3)
    web.reload()
    until(lambda: all(web.replica(name).read_bytes() == Path(path).read_bytes() for name, path in web.disks.items()))
    until(sites.proved())
    assert sites.target.stream()["stream"] == UUID
    assert sites.source.stream()["sent_bytes"] < MEBI
