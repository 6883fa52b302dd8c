"""Records of a state directory as each version wrote them are read for ever; those of a later one are not touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine import errors, places, quotas, registry
from engine.daemon import wishes

GOLDEN = Path(__file__).parent.parent.parent / "golden"
STREAM, REPLICA = "11111111-2222-4333-8444-555555555555", "00112233445566778899aabbccddeeff"


def laid(tmp_path: Path, version: str) -> registry.Registry:
    """A state directory with the records of that version."""
    where = places.Places(tmp_path)
    directory = where.replica(STREAM, REPLICA)
    directory.mkdir(parents=True)
    shutil.copy(GOLDEN / version / "stream.json", where.stream(STREAM))
    shutil.copy(GOLDEN / version / "replica.json", directory)
    return registry.Registry(where)


@pytest.mark.parametrize("version", ["state-v1", "state-v2"])
def test_what_an_older_version_wrote_is_read(tmp_path: Path, version: str) -> None:
    known = laid(tmp_path, version)
    (stream,), (replica,) = known.streams(), known.replicas()
    assert (stream.stream, stream.label, stream.begun, stream.prefix) == (STREAM, "web-1", True, "vmferry")
    assert (replica.replica, replica.left, replica.prefix) == (
        REPLICA,
        ((1 << 30, 1_700_000_000_123_456_789),),
        "vmferry",
    )
    assert stream.disks[0].path == "/srv/web-1.qcow2"
    assert (stream.site, stream.config) == (
        ("", "") if version == "state-v1" else ("site-a", "/etc/vmferry/source.toml")
    )


def test_we_write_the_bytes_that_version_2_wrote(tmp_path: Path) -> None:
    known = laid(tmp_path, "state-v2")
    for record, path in ((known.streams()[0], "stream.json"), (known.replicas()[0], "replica.json")):
        known.save(record)
        written = next(tmp_path.rglob(path))
        assert written.read_bytes() == (GOLDEN / "state-v2" / path).read_bytes()


def test_what_a_later_version_wrote_is_refused_and_stays(tmp_path: Path) -> None:
    known = laid(tmp_path, "state-v2")
    for path in (known.places.stream(STREAM) / "stream.json", known.places.replica(STREAM, REPLICA) / "replica.json"):
        later = json.dumps({**json.loads(path.read_text()), "version": registry.VERSION + 1, "more": 1})
        path.write_text(later)
        with pytest.raises(errors.Damaged, match="upgrade it"):
            known.streams() if path.name == "stream.json" else known.replicas()
        assert path.read_text() == later
    asked = tmp_path / wishes.FILE
    asked.write_text('{"version": 2, "paused": true}')
    with pytest.raises(errors.Damaged, match="upgrade it"):
        wishes.load(tmp_path)
    assert "paused" in asked.read_text()


def test_wishes_are_kept_and_damaged_ones_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wishes.save(tmp_path, wishes.Wishes(paused=True, rate=5))
    assert wishes.load(tmp_path) == wishes.Wishes(paused=True, rate=5)
    assert (tmp_path / wishes.FILE).read_text() == '{"version": 1, "paused": true, "rate": 5, "forgotten": false}'
    for damage in ("", "[]", '{"version": 1, "paused": "yes"}', '{"version": 1, "speed": 1}'):
        (tmp_path / wishes.FILE).write_text(damage)
        assert wishes.load(tmp_path) == wishes.Wishes()
    assert "does not read as written" in caplog.text


def test_a_quota_is_kept_one_of_version_0_is_read_and_a_later_one_stays(tmp_path: Path) -> None:
    path = tmp_path / quotas.LOG
    assert quotas.kept(tmp_path, quotas.LOG) == 0
    path.write_text("4096\n")
    assert quotas.kept(tmp_path, quotas.LOG) == 4096
    quotas.keep(tmp_path, quotas.LOG, 8192)
    assert path.read_text() == '{"version": 1, "bytes": 8192}\n'
    assert quotas.kept(tmp_path, quotas.LOG) == 8192
    for damage in ("", "many", '{"version": 1}', '{"version": 1, "bytes": Infinity}', "[]"):
        path.write_text(damage)
        assert quotas.kept(tmp_path, quotas.LOG) == 0
    path.write_text('{"version": 2, "of": "something else"}')
    with pytest.raises(errors.Newer, match="log-quota is of version 2, and this vmferry knows 1: upgrade it"):
        quotas.keep(tmp_path, quotas.LOG, 1)
    assert "something else" in path.read_text()
