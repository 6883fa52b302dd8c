"""What an older vmferry left on disk, killed in the middle of an epoch, goes on under today's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import olden
from tests.support.ferry import Ferry, same
from tests.support.olden import BLOCK, Olden

pytestmark = pytest.mark.timeout(240)
ARCHIVES = olden.archives()


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Olden:
    return olden.lay(request.param, tmp_path)


@pytest.fixture
def ferry(tree: Olden) -> Ferry:
    return Ferry(tree.state)


def test_the_open_epoch_is_taken_back_without_bus_or_source(tree: Olden, ferry: Ferry) -> None:
    last = max(tree.epochs)
    assert olden.digest_of(tree.target) != tree.epochs[last]
    said = ferry.told("recover", "disk")
    (found,) = said["replicas"]
    assert (found["recovered"], found["epoch"], found["usable"]) == (len(olden.OPEN), last, True)
    assert olden.digest_of(tree.target) == tree.epochs[last]
    assert ferry.run("verify", "disk").code == 0


def test_it_goes_on_with_a_delta(tree: Olden, ferry: Ferry) -> None:
    olden.change(tree.source, 6, (60,))
    said = ferry.replicate(tree.source, tree.target)
    assert said["notes"] == []
    assert said["epoch"] > max(tree.epochs)
    assert len(olden.OPEN) * BLOCK < said["sent"] < (len(olden.OPEN) + 2) * BLOCK
    assert same(tree.source, tree.target)
    assert ferry.run("verify", "disk").code == 0
    assert {one["epoch"] for one in ferry.told("epochs", "disk")["epochs"]} == {*tree.epochs, said["epoch"]}


def test_it_can_be_looked_at_as_it_lies_there(tree: Olden, ferry: Ferry) -> None:
    last = max(tree.epochs)
    before = tree.target.read_bytes()
    said = ferry.told("epochs", "disk")
    assert [one["epoch"] for one in said["epochs"]] == list(tree.epochs)
    assert (said["position"]["epoch"], said["position"]["usable"]) == (last, True)
    (stream,) = ferry.told("status", "disk")["streams"]
    (replica,) = stream["replicas"]
    assert (stream["source"]["damaged"], replica["damaged"]) == ("", "")
    assert replica["epoch"] == last
    assert tree.target.read_bytes() == before


def test_what_it_knew_of_its_machine_is_told(tree: Olden, ferry: Ferry) -> None:
    last = max(tree.epochs)
    found = ferry.run("target", "definition", "disk", "--json")
    if tree.versions["state.sqlite"] == 1:
        assert found.code == 3, "it knew nothing of machines"
        assert f"has said nothing of its machine up to epoch {last}" in found.last["message"]
        return
    assert found.code == 0, found.err
    assert (found.last["epoch"], found.last["nvram_bytes"]) == (last, len(olden.MACHINE.nvram))
    assert "<memory>1048576</memory>" in found.last["xml"]
    before = ferry.run("target", "definition", "disk", "--epoch", str(min(tree.epochs)))
    assert before.code == 3
    assert ferry.run("recover", "disk").code == 0
    assert ferry.told("target", "definition", "disk")["xml"] == found.last["xml"], "an open epoch said another one"


def test_every_kept_epoch_can_be_gone_back_to(tree: Olden, ferry: Ferry) -> None:
    for epoch in sorted(tree.epochs, reverse=True):
        said = ferry.told("target", "rewind", "disk", "--to", str(epoch))
        assert said["epoch"] == epoch
        assert olden.digest_of(tree.target) == tree.epochs[epoch]
        assert ferry.run("verify", "disk").code == 0
    assert ferry.run("target", "resume", "disk").code == 0
    said = ferry.replicate(tree.source, tree.target)
    assert said["notes"] == []
    assert same(tree.source, tree.target)
