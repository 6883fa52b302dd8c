"""URLs of buses."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import errors
from engine.bus import connect
from engine.bus.embedded import EmbeddedBus


async def test_a_path_opens_an_embedded_log_and_makes_nothing_yet(tmp_path: Path) -> None:
    bus = await connect.connect(f"log:{tmp_path / 'new'}")
    assert isinstance(bus, EmbeddedBus)
    assert not await bus.exists("topic")
    assert not (tmp_path / "new").exists()
    await bus.close()


@pytest.mark.parametrize("url", ["", "log:", "kafka:", "kafka:host:9092", "redis://host", "/var/lib/log", "kafka://"])
async def test_what_is_no_bus_is_refused_with_the_forms_there_are(url: str) -> None:
    with pytest.raises(errors.Usage, match=r"log:PATH, or kafka://HOST:PORT"):
        await connect.connect(url)


@pytest.mark.parametrize("server", ["host", "host:", ":9092", "host:port", "host:0", "host:65536", "a:1,b"])
async def test_a_broker_that_is_no_host_and_port_is_named(server: str) -> None:
    with pytest.raises(errors.Usage, match="is not HOST:PORT"):
        await connect.connect(f"kafka://{server}")


def test_brokers_are_listed_by_commas() -> None:
    assert connect.servers("a:1,b:2,[::1]:9092/", "url") == ("a:1", "b:2", "[::1]:9092")


@pytest.mark.parametrize("topic", ["", ".", "..", ".hidden", "a/b", "a\0b"])
async def test_a_topic_that_is_no_file_name_is_refused(tmp_path: Path, topic: str) -> None:
    bus = EmbeddedBus(tmp_path)
    with pytest.raises(errors.Usage):
        await bus.open(topic)
