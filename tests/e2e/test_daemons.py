"""Two daemons over an embedded log, as an operator has them: streams come, change, rest, move and go."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.daemon import control
from tests.support.daemons import Daemon, Sites
from tests.support.ferry import MEBI, image, same, scribble, until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path)
    image(made.disk("web"), 8 * MEBI, {0: 2 * MEBI, 5 * MEBI: 100_000})
    made.serve("web")
    try:
        yield made
    finally:
        made.stop()


def test_a_stream_is_taken_replicated_followed_and_judged(sites: Sites) -> None:
    sites.start()
    until(lambda: sites.replica().exists() and sites.proved()())
    assert same(sites.disk("web"), sites.replica())
    scribble(sites.disk("web"), 3 * MEBI, 70_000)
    until(lambda: same(sites.disk("web"), sites.replica()))
    until(sites.proved())
    until(lambda: sites.target.stream()["rpo_by"] == "its source's own word")
    said = sites.target.stream()
    assert (said["state"], said["held"], said["restarts"], said["site"]) == ("running", "", 0, "site-a")
    assert said["path"] == str(sites.replica())
    assert abs(said["clock_difference_seconds"]) < 60
    for daemon, name in ((sites.source, "web"), (sites.target, "site-a/web")):
        found = daemon.ferry.run("status", "--check", "--max-rpo", "10m")
        assert found.code == 0, found.out + found.err
        assert f"worst is {name}" in found.out
        shown = daemon.ferry.run("status")
        assert f"daemon     {daemon.side} of site" in shown.out
        assert "whoever can read the bus can read the disks" in shown.out
        assert daemon.ferry.told("status")["daemons"][0]["daemon"] == daemon.side
    assert sites.source.ferry.run("status", "--check", "--max-rpo", "1ms").code == 2
    assert sites.source.stop() == 0
    assert sites.target.stop() == 0
    assert sites.target.ferry.run("verify", "web").code == 0


def test_names_are_labels_and_two_streams_never_share_anything(sites: Sites) -> None:
    names = ["a b", "päivä/..", "../../etc/passwd", ".hidden", "%2F", "x" * 190]
    for number, name in enumerate(names):
        disk = image(sites.disks / f"{number}.img", MEBI, {0: 65536}, seed=100 + number)
        sites.source.config["streams"][name] = {"disk": str(disk)}
    sites.source.write()
    sites.start()
    until(lambda: all(sites.target.streams().get(name, {}).get("proved_epoch") for name in names))
    found = sites.target.streams()
    paths = {name: Path(found[name]["path"]) for name in names}
    assert len(set(paths.values())) == len(names)
    for number, name in enumerate(names):
        assert paths[name].parent == sites.replicas
        assert same(sites.disks / f"{number}.img", paths[name])
    assert len({one["stream"] for one in found.values()}) == len(names) + 1


def test_a_renamed_stream_stays_itself_and_a_recreated_one_is_another(sites: Sites) -> None:
    first, second = "0e2c1b7a-58a3-4c1c-9d36-7d2a7a1f0001", "0e2c1b7a-58a3-4c1c-9d36-7d2a7a1f0002"
    sites.serve("web", id=first)
    sites.target.config["accept"][0]["path"] = f"{sites.replicas}/{{name}}-{{id}}.img"
    sites.target.write()
    sites.start()
    until(sites.proved())
    assert sites.target.stream()["stream"] == first
    streams = sites.source.config["streams"]
    streams["shop"] = streams.pop("web")
    assert sites.source.reload()["problems"] == []
    until(lambda: sites.target.stream("shop").get("stream") == first)
    until(sites.proved("shop"))
    streams["shop"]["id"] = second  # deleted, and made again under the same name
    sites.source.reload()
    until(lambda: len([one for one in sites.target.ask("status")["streams"] if one.get("proved_epoch")]) == 2)
    assert {one["stream"] for one in sites.target.ask("status")["streams"]} == {first, second}
    found = sites.source.ferry.run("forget", first)
    assert found.code == 0, found.err
    assert "topic" in found.out
    until(lambda: any(one.get("source_gone") for one in sites.target.ask("status")["streams"]))


def test_what_no_rule_takes_is_reported_and_not_applied(sites: Sites) -> None:
    rule = sites.target.config["accept"][0]
    rule["streams"] = "site-a/db*"
    sites.target.write()
    sites.start()
    until(lambda: sites.target.stream().get("state") == "unclaimed")
    assert "no [[accept]]" in sites.target.stream()["why"]
    assert sites.target.ferry.run("status", "--check").code == 1
    assert not any(sites.replicas.iterdir())
    rule |= {"streams": "site-a/*", "quota": "1M"}
    sites.target.reload()
    until(lambda: "quota" in sites.target.stream()["why"])
    assert "8 MiB more would pass the quota of 1 MiB" in sites.target.stream()["why"]
    mount = sites.replicas / "mount"
    rule |= {"quota": "1G", "path": f"{mount}/{{site}}/{{name}}.img"}
    sites.target.reload()
    until(lambda: "is not there: make it, or mount what belongs there" in sites.target.stream()["why"])
    mount.mkdir()
    sites.target.reload()
    until(sites.proved())
    assert (mount / "site-a" / "web.img").stat().st_size == sites.disk("web").stat().st_size


def test_a_quota_counts_what_its_rule_took_also_when_it_stands_elsewhere_now(sites: Sites) -> None:
    rules = sites.target.config["accept"]
    rules[0]["quota"] = "10M"
    sites.target.write()
    sites.start()
    until(sites.proved())
    rules.insert(0, {"streams": "site-c/*", "path": f"{sites.home}/{{name}}.img"})
    sites.target.reload()
    image(sites.disk("db"), 4 * MEBI)
    sites.serve("db")
    sites.source.reload()
    until(lambda: "4 MiB more would pass the quota of 10 MiB" in sites.target.stream("db").get("why", ""))
    assert "of which 8 MiB are taken" in sites.target.stream("db")["why"]


def test_pause_and_rate_outlive_the_daemon_and_need_no_other_side(sites: Sites) -> None:
    sites.start()
    until(sites.proved())
    sites.source.stop()
    assert sites.target.ferry.run("pause", "web").code == 0
    until(lambda: sites.target.stream()["state"] == "paused")
    sites.target.kill()
    sites.target.start()
    until(lambda: sites.target.stream().get("state") == "paused")
    sites.source.start()
    limited = sites.source.ferry.run("rate", "web", "3M")
    assert (limited.code, limited.out) == (0, "web: at most 3 MiB/s, from now on\n")
    assert sites.source.stream()["rate"] == 3 * MEBI
    scribble(sites.disk("web"), 0, 5000)
    until(lambda: sites.source.stream().get("epoch", 0) > sites.target.stream()["epoch"])
    assert not same(sites.disk("web"), sites.replica())
    assert sites.target.ferry.run("resume", "web").code == 0
    until(lambda: same(sites.disk("web"), sites.replica()))
    sites.source.stop()
    sites.source.start()
    until(lambda: sites.source.stream().get("rate") == 3 * MEBI)


def test_release_acquire_move_and_forget(sites: Sites) -> None:
    sites.start()
    until(sites.proved())
    target = sites.target.ferry
    released = target.told("target", "release", "web")
    assert released["held"] == "released"
    assert sites.target.stream()["state"] == "held"
    assert target.run("status", "--check").code == 2
    scribble(sites.replica(), MEBI, 4096)  # its user has it
    assert target.run("target", "acquire", "web").code == 0
    until(sites.proved())
    assert same(sites.disk("web"), sites.replica())
    assert target.run("verify", "web").code == 0
    there = sites.replicas / "elsewhere" / "web.img"
    there.parent.mkdir()
    moved = target.told("target", "move", "web", there)
    assert (moved["target"], moved["old"]) == (str(there), str(sites.replica()))
    scribble(sites.disk("web"), 0, 70_000, seed=9)
    until(lambda: same(sites.disk("web"), there))
    assert not same(sites.disk("web"), sites.replica())
    until(sites.proved())
    assert target.run("target", "move", "web", there).code == 2
    found = target.run("forget", "web")
    assert found.code == 0, found.err
    assert f"replica: {there}" in found.out
    until(lambda: sites.target.stream().get("state") == "unclaimed")
    until(lambda: sites.source.stream()["replicas"] == [])
    assert "it was forgotten here" in sites.target.stream()["why"]
    assert "no stream is known here" in target.run("status", "--check").out, "what was given up alarms nobody"
    assert there.exists()
    taken = target.told("target", "take", "web")
    assert not taken["taken"]
    assert "adopt = true" in taken["why"], "what stayed there is not overwritten unasked"
    there.unlink()
    sites.replica().unlink()
    assert target.told("target", "take", "web")["taken"]
    until(sites.proved())
    assert same(sites.disk("web"), sites.replica())


def test_forget_purge_asks_and_removes(sites: Sites) -> None:
    sites.start()
    until(sites.proved())
    directory = sites.target.state / "streams" / sites.target.stream()["stream"]
    assert sites.target.ferry.run("forget", "web", "--purge", "--json").code == 2
    gone = sites.target.ferry.told("forget", "web", "--purge", "--yes")
    assert gone["purged"]
    assert not sites.replica().exists()
    assert sorted(one.name for one in directory.iterdir()) == ["control.json", "stream.json.forgotten"]
    stream = sites.source.stream()["stream"]
    refused = sites.source.ferry.run("forget", "web", "--purge", "--yes")
    assert refused.code == 2
    assert "source.toml" in refused.err
    del sites.source.config["streams"]["web"]
    sites.source.reload()
    purged = sites.source.ferry.run("forget", "web", "--purge", "--yes")
    assert purged.code == 0
    assert f"stays      disk: {sites.disk('web')}\ngone       topic: vmferry.{stream} on " in purged.out
    assert not (sites.home / "log" / f"vmferry.{stream}").exists()
    assert not (sites.source.state / "streams" / stream).exists()
    assert sites.disk("web").exists()


def test_one_bad_stream_in_a_changed_config_harms_no_other(sites: Sites) -> None:
    image(sites.disk("db"), MEBI)
    sites.serve("db")
    sites.start()
    until(lambda: sites.proved()() and sites.proved("db")())
    sent = sites.source.stream("db")["sent_bytes"]
    sites.source.config["streams"]["web"]["every"] = "often"
    sites.source.write()
    sites.source.send(signal.SIGHUP)
    until(lambda: sites.source.ask("status")["problems"])
    (problem,) = sites.source.ask("status")["problems"]
    assert f"{sites.source.file}:" in problem
    assert "streams.web.every: 'often' is no duration" in problem
    scribble(sites.disk("web"), 0, 9000, seed=5)  # as it stood before, it goes on
    until(lambda: same(sites.disk("web"), sites.replica()))
    assert sites.source.stream("db")["restarts"] == 0
    assert sites.source.stream("db")["sent_bytes"] >= sent > 0, "it was begun anew, as its entry stands a line lower"
    sites.source.file.write_text("site = ")
    with pytest.raises(errors.Usage, match=r"source\.toml:1: "):
        sites.source.ask("reload")
    assert set(sites.source.streams()) == {"web", "db"}
    sites.disk("db").unlink()  # a disk that is gone is that stream's trouble
    sites.source.stop()
    sites.serve("web")
    sites.source.start()
    until(lambda: sites.source.stream("db").get("state") == "trouble")
    assert "db.img" in sites.source.stream("db")["why"]
    until(sites.proved())


def test_a_control_socket_that_gets_garbage_goes_on(sites: Sites) -> None:
    sites.target.start()
    for garbage in (
        b"\x00\xff\xfe\n",
        b"[]\n",
        b'{"do": 7}\n',
        b'{"do": "fly"}\n',
        b"{" * 3000 + b"\n",
        b"x" * 200_000,
    ):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(sites.target.socket))
            caller.settimeout(30)
            caller.sendall(garbage)
            caller.shutdown(socket.SHUT_WR)
            answer = json.loads(caller.makefile("rb").readline())
        assert answer["ok"] is False
        assert answer["message"]
    with socket.socket(socket.AF_UNIX) as silent:  # one that says nothing keeps nobody waiting
        silent.connect(str(sites.target.socket))
        assert sites.target.ask("status")["daemon"] == "target"
    assert sites.target.socket.stat().st_mode & 0o777 == 0o600


def test_a_second_daemon_on_the_same_state_is_refused(sites: Sites) -> None:
    sites.target.start()
    found = sites.target.ferry.run("target", "run", "-c", sites.target.file)
    assert found.code == 4
    assert "the target daemon of" in found.err
    assert control.answers(sites.target.socket)


def test_a_config_is_checked_without_running(sites: Sites) -> None:
    ferry = sites.source.ferry
    assert "well; site site-a, 1 stream: web" in ferry.run("source", "run", "-c", sites.source.file, "--check").out
    folder = sites.source.file.with_suffix(".d")
    folder.mkdir()
    (folder / "more.toml").write_text('[streams.web]\ndisk = "/nowhere"\n[streams."a b"]\ndisk = "x.img"\nspeed = 1\n')
    found = ferry.run("source", "run", "-c", sites.source.file, "--check")
    assert found.code == 2
    more = folder / "more.toml"
    assert f"{more}:1: streams.web: it stands at {sites.source.file}" in found.err
    assert f'{more}:4: streams."a b".disk: ' in found.err
    assert f'{more}:5: streams."a b".speed: no such key' in found.err
    assert ferry.run("target", "run", "-c", sites.source.file, "--check").code == 2
    assert ferry.run("source", "run", "-c", sites.home / "none.toml").code == 3


def test_a_target_that_is_killed_while_a_baseline_travels_goes_on_where_it_was(sites: Sites) -> None:
    image(sites.disk("big"), 48 * MEBI)
    sites.serve("big", rate="16M")
    sites.start()
    until(lambda: (sites.target.stream("big").get("epoch") or 0) > 2)
    sites.target.kill()
    sites.target.start()
    until(lambda: sites.source.stream("big").get("sent_bytes", 0) > 20 * MEBI)
    sites.source.kill()
    sites.source.start()
    until(sites.proved("big"))
    assert same(sites.disk("big"), sites.replica("big"))


def test_a_state_that_is_lost_on_either_side_costs_a_reading_and_no_full_copy(sites: Sites) -> None:
    sites.start()
    until(sites.proved())
    sites.stop()
    shutil.rmtree(sites.target.state)
    sites.start()
    until(lambda: "adopt = true" in sites.target.stream().get("why", ""))
    sites.target.config["accept"][0]["adopt"] = True
    sites.target.reload()
    until(sites.proved())
    assert sites.source.stream()["sent_bytes"] < 65536
    sites.source.stop()
    stream = next(sites.source.state.glob("streams/*/source"))
    (stream / "state.sqlite").unlink()
    sites.source.start()
    until(sites.proved())
    assert sites.source.stream()["sent_bytes"] < 65536
    assert any("was lost" in note for note in sites.source.stream()["notes"])
    assert same(sites.disk("web"), sites.replica())


def test_two_sources_of_one_stream_fence_each_other_once(sites: Sites, tmp_path: Path) -> None:
    identity = "0e2c1b7a-58a3-4c1c-9d36-7d2a7a1f0009"
    sites.serve("web", id=identity)
    sites.start()
    until(sites.proved())
    other = Daemon(
        "source", tmp_path / "other", {**sites.source.config, "state": str(tmp_path / "other" / "source-state")}
    )
    sites.source.send(signal.SIGSTOP)  # a host that is thought dead
    other.start()
    try:
        # The embedded log knows one writer: the new one waits for its lock, and the old one, once it goes on, keeps it.
        until(lambda: other.stream().get("state") == "trouble")
        assert "written by process" in other.stream()["why"]
        sites.source.send(signal.SIGCONT)
        sites.source.stop()
        until(lambda: (other.stream().get("epoch") or 0) > 0 and other.stream()["state"] == "running")
        until(lambda: same(sites.disk("web"), sites.replica()))
    finally:
        if not sites.source.ended():
            sites.source.send(signal.SIGCONT)
        other.stop()
