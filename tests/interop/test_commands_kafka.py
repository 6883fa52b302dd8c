"""The commands beside a real broker: lag from its log, and its settings told by doctor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ferry import MEBI, Ferry, image, same, scribble
from tests.support.kafka import Cluster

pytestmark = pytest.mark.timeout(240)


def test_every_command_over_kafka(kafka: Cluster, tmp_path: Path) -> None:
    ferry = Ferry(tmp_path / "state")
    source, target = image(tmp_path / "disk.img", 8 * MEBI, {0: MEBI}), tmp_path / "replica.img"
    first = ferry.replicate(source, target, "--bus", kafka.url)
    scribble(source, 3 * MEBI, MEBI)
    ferry.replicate(source, target)
    (stream,) = ferry.run("status", "--json").last["streams"]
    (replica,) = stream["replicas"]
    assert stream["bus"] == kafka.url
    assert replica["bus_reachable"] is True
    assert (replica["lag_bytes"], replica["lag_seconds"], replica["slow"]) == (0, 0, "none")
    found = ferry.run("doctor", "--bus", kafka.url)
    assert found.code == 0, found.err
    assert "vmferry.receipts: settings are safe" in found.out
    assert f"vmferry.{first['stream']}: settings are safe" in found.out
    rewound = ferry.run("target", "rewind", "disk", "--to", str(first["epoch"]), "--json")
    assert rewound.code == 0, rewound.err
    assert rewound.last["note"] == "", "it is said on the bus"
    assert ferry.run("target", "release", "disk").code == 0
    scribble(target, MEBI, 100)
    assert ferry.run("target", "acquire", "disk").code == 0
    assert ferry.replicate(source, target)["sent"] < 2 * MEBI
    assert same(source, target)
    assert ferry.run("verify", "disk").code == 0


def test_lag_is_unknown_while_the_broker_is_away(tmp_path: Path) -> None:
    ferry = Ferry(tmp_path / "state")
    source, target = image(tmp_path / "disk.img", MEBI), tmp_path / "replica.img"
    ferry.replicate(source, target)
    (record,) = ferry.state.glob("streams/*/replica-*/replica.json")
    record.write_text(record.read_text().replace(f"log:{ferry.state}/log", "kafka://127.0.0.1:9"))
    found = ferry.run("status")
    assert found.code == 0, found.err
    assert "lag      unknown: the bus is not reachable (Kafka is away: 0 of 1 brokers answer" in found.out
    assert "slow     bus: it is not reachable from here" in found.out
