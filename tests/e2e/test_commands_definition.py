"""`target definition` as its user sees it: the machine of a replica, where it is and where it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.support import machines
from tests.support.ferry import MEBI, Ferry, scribble

pytestmark = pytest.mark.timeout(240)

# What a source that knows its machine does: it says what lies in two files beside the disk.
_KNOWS = """
from pathlib import Path
from producers.image import ImageSource
from schemas import events

place = Path({place!r})

def machine(self):
    text, nvram = (place / "machine.xml").read_text(), (place / "nvram").read_bytes()
    return events.Defined(events.Form.LIBVIRT, text, nvram)

ImageSource.machine = property(machine)
"""


@pytest.fixture
def ferry(tmp_path: Path) -> Ferry:
    define(tmp_path, 1)
    return Ferry(tmp_path / "state", _KNOWS.format(place=str(tmp_path)))


def define(place: Path, gibi: int) -> None:
    """The machine is one of so much memory."""
    memory = f"<memory unit='KiB'>{gibi << 20}</memory>"
    text = machines.machine().replace("<memory unit='KiB'>2097152</memory>", memory)
    assert memory in text
    (place / "machine.xml").write_text(text)
    (place / "nvram").write_bytes(b"variables of %d" % gibi * 1000)


@pytest.fixture
def epochs(ferry: Ferry, source: Path, target: Path, tmp_path: Path) -> list[int]:
    """Three epochs, of machines of 1, 1 and 3 GiB."""
    found = []
    for number, gibi in enumerate((1, 1, 3)):
        define(tmp_path, gibi)
        scribble(source, number * MEBI, 5000, seed=number)
        found.append(ferry.replicate(source, target)["epoch"])
    return found


def gibi(text: str) -> int:
    """The memory of the machine."""
    return int(ET.fromstring(text).findtext("memory") or "0") >> 20


def test_the_machine_of_a_replica_has_its_files_as_disks(
    ferry: Ferry, source: Path, target: Path, epochs: list[int]
) -> None:
    found = ferry.run("target", "definition", "disk")
    assert found.code == 0, found.err
    root = ET.fromstring(found.out)
    assert (gibi(found.out), root.findtext("uuid")) == (3, machines.UUID)
    assert [one.get("file") for one in root.iterfind("devices/disk/source")] == [str(target)]
    assert str(source) not in found.out
    assert "sda was /dev/vg0/web-1-data, which is not replicated: the machine has no such disk" in found.err
    assert "the replica is still applied to: `vmferry target release disk` before the machine is started" in found.err
    assert "write them with --nvram FILE" in found.err
    assert ferry.run("target", "release", "disk").code == 0
    assert "still applied to" not in ferry.run("target", "definition", "disk").err


def test_it_is_as_it_was_at_every_kept_epoch_and_goes_back_with_a_rewind(
    ferry: Ferry, source: Path, target: Path, epochs: list[int]
) -> None:
    for epoch, expected in zip(epochs, (1, 1, 3), strict=True):
        said = ferry.told("target", "definition", "disk", "--epoch", str(epoch))
        assert (said["epoch"], said["position"]["epoch"], gibi(said["xml"])) == (epoch, epochs[-1], expected)
        words = f"its disks are at epoch {epochs[-1]}: `vmferry target rewind disk --to {epoch}` takes them back"
        assert (words in said["notes"]) == (epoch != epochs[-1])
    assert ferry.run("target", "rewind", "disk", "--to", str(epochs[1])).code == 0
    said = ferry.told("target", "definition", "disk")
    assert (said["epoch"], gibi(said["xml"])) == (epochs[1], 1)
    refused = ferry.run("target", "definition", "disk", "--epoch", str(epochs[2]))
    assert refused.code == 3
    assert f"epoch {epochs[2]} is not kept; these are: {epochs[0]}, {epochs[1]}; the replica is at" in refused.err
    assert ferry.run("target", "resume", "disk").code == 0
    ferry.replicate(source, target)
    assert gibi(ferry.run("target", "definition", "disk").out) == 3


def test_its_variables_are_written_for_it_alone_and_over_nothing(
    ferry: Ferry, epochs: list[int], tmp_path: Path
) -> None:
    goal = tmp_path / "web-1_VARS.fd"
    said = ferry.told("target", "definition", "disk", "--nvram", goal)
    assert goal.read_bytes() == (tmp_path / "nvram").read_bytes()
    assert stat.S_IMODE(goal.stat().st_mode) == 0o600
    assert (said["nvram"], said["nvram_bytes"]) == (str(goal), goal.stat().st_size)
    assert ET.fromstring(said["xml"]).findtext("os/nvram") == str(goal)
    goal.write_bytes(b"of a machine that runs")
    refused = ferry.run("target", "definition", "disk", "--nvram", goal)
    assert refused.code == 2
    assert "is there already" in refused.err
    assert (refused.out, goal.read_bytes()) == ("", b"of a machine that runs")
    goal.unlink()
    refused = ferry.run("target", "definition", "disk", "--nvram", tmp_path / "nowhere" / "VARS.fd")
    assert refused.code != 0
    assert refused.out == ""


def test_a_state_that_was_lost_is_told_the_machine_again(
    ferry: Ferry, source: Path, target: Path, epochs: list[int]
) -> None:
    (lost,) = ferry.state.glob("streams/*/replica-*/state.sqlite")
    for side in ("", "-wal", "-shm"):
        Path(f"{lost}{side}").unlink(missing_ok=True)
    ferry.replicate(source, target)
    assert gibi(ferry.run("target", "definition", "disk").out) == 3


def test_a_replica_that_was_taken_back_is_told_the_machine_again(
    ferry: Ferry, source: Path, target: Path, epochs: list[int]
) -> None:
    assert ferry.run("target", "release", "disk").code == 0
    scribble(target, 9 * MEBI, 100)
    assert ferry.run("target", "acquire", "disk").code == 0
    refused = ferry.run("target", "definition", "disk")
    assert refused.code == 3
    assert "has said nothing of its machine up to epoch 0" in refused.err
    ferry.replicate(source, target)
    assert gibi(ferry.run("target", "definition", "disk").out) == 3


def test_a_stream_that_is_of_no_machine_has_none(source: Path, target: Path, tmp_path: Path) -> None:
    plain = Ferry(tmp_path / "other")
    plain.replicate(source, target)
    refused = plain.run("target", "definition", "disk", "--json")
    assert (refused.code, refused.last["error"]) == (3, "NotFound")
    assert "stream disk has said nothing of its machine" in refused.last["message"]


def test_a_replica_that_is_gone_is_named(ferry: Ferry, target: Path, epochs: list[int]) -> None:
    os.rename(target, target.with_suffix(".away"))
    refused = ferry.run("target", "definition", "disk")
    assert refused.code == 3
    assert str(target) in refused.err
