"""The endpoint for Prometheus, scraped over real HTTP and read by the official parser."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import parser

from engine import errors, metrics

WEB: dict[str, Any] = {
    "stream": "0b0e6a0e-0000-4000-8000-000000000001", "label": "web-1", "site": "site-a", "state": "running",
    "epoch": 41, "sent_bytes": 123456789012, "missing_bytes": 0, "rate": 20 << 20, "log_bytes": 4096,
    "log_cap_bytes": None, "restarts": 2,
}  # fmt: skip
DB: dict[str, Any] = {
    "stream": "0b0e6a0e-0000-4000-8000-000000000002", "label": 'db "x"\\\n', "site": "site-b", "state": "held",
    "epoch": 7, "rpo_seconds": 12.5, "lag_seconds": 0.0, "proved_epoch": 6, "usable_epoch": None, "undo_bytes": 1 << 40,
    "clock_difference_seconds": -0.25, "restarts": 0, "replica": "/backup/db.img",
}  # fmt: skip
Samples = dict[tuple[str, tuple[str, ...]], float]


def snapshot(*streams: dict[str, Any]) -> metrics.Snapshot:
    return {"daemon": "source", "site": "site-a", "version": "1.2.3", "streams": list(streams)}


@pytest.fixture
def exporter() -> Iterator[metrics.Exporter]:
    found = metrics.Exporter()
    yield found
    found.close()


def text(exporter: metrics.Exporter, host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{exporter.port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def scraped(exporter: metrics.Exporter) -> Samples:
    """(name, values of the labels in the order of their names) to value; no line may come twice."""
    found: Samples = {}
    for family in parser.text_string_to_metric_families(text(exporter)):
        for one in family.samples:
            key = (one.name, tuple(one.labels[name] for name in sorted(one.labels)))
            assert key not in found
            found[key] = one.value
    return found


def of(samples: Samples, label: str) -> dict[str, float]:
    """The numbers of one stream, by the part of the name that tells them apart."""
    return {
        name.removeprefix("vmferry_stream_"): value
        for (name, labels), value in samples.items()
        if labels[:1] == (label,) and len(labels) == 3
    }


def test_each_side_tells_what_it_knows_and_nothing_else(exporter: metrics.Exporter) -> None:
    exporter.start("127.0.0.1:0", lambda: snapshot(WEB, DB))
    found = scraped(exporter)
    assert found["vmferry_up", ()] == 1
    assert found["vmferry_streams", ()] == 2
    assert found["vmferry_build_info", ("source", "site-a", "1.2.3")] == 1
    assert of(found, "web-1") == {
        "epoch": 41, "sent_bytes_total": 123456789012, "missing_bytes": 0, "rate_limit_bytes_per_second": 20 << 20,
        "log_bytes": 4096, "restarts_total": 2,
    }  # fmt: skip
    assert of(found, DB["label"]) == {
        "epoch": 7, "rpo_seconds": 12.5, "lag_seconds": 0, "proved_epoch": 6, "undo_bytes": 1 << 40,
        "clock_difference_seconds": -0.25, "restarts_total": 0,
    }  # fmt: skip


def test_labels_are_the_stream_its_label_and_its_site(exporter: metrics.Exporter) -> None:
    exporter.start("127.0.0.1:0", lambda: snapshot(WEB))
    families = parser.text_string_to_metric_families(text(exporter))
    (epoch,) = next(one for one in families if one.name == "vmferry_stream_epoch").samples
    assert epoch.labels == {"stream": WEB["stream"], "label": "web-1", "site": "site-a"}


def test_the_state_is_one_of_a_set(exporter: metrics.Exporter) -> None:
    exporter.start("127.0.0.1:0", lambda: snapshot(WEB, {**DB, "state": "promoted"}))
    states: dict[str, dict[str, float]] = {}
    for family in parser.text_string_to_metric_families(text(exporter)):
        for one in family.samples if family.name == "vmferry_stream_state" else ():
            states.setdefault(one.labels["label"], {})[one.labels["state"]] = one.value
    assert states["web-1"] == {state: float(state == "running") for state in metrics.STATES}
    assert states[DB["label"]] == {**dict.fromkeys(metrics.STATES, 0.0), "promoted": 1.0}


def test_the_replica_is_named(exporter: metrics.Exporter) -> None:
    exporter.start("127.0.0.1:0", lambda: snapshot(WEB, DB))
    found = scraped(exporter)
    (replica,) = [labels for name, labels in found if name == "vmferry_stream_replica_info"]
    assert "/backup/db.img" in replica


def test_every_number_has_a_metric_and_a_sentence(exporter: metrics.Exporter) -> None:
    numbers = {key: 1 for key in (*WEB, *DB) if key not in {"stream", "label", "site", "state", "replica"}}
    exporter.start("127.0.0.1:0", lambda: snapshot({**DB, **numbers}))
    ours = [one for one in parser.text_string_to_metric_families(text(exporter)) if one.name.startswith("vmferry_")]
    assert len(ours) == len(numbers) + len(("up", "build_info", "streams", "state", "replica_info"))
    assert all(one.documentation.endswith(".") for one in ours)


def test_the_process_itself_is_measured(exporter: metrics.Exporter) -> None:
    exporter.start("127.0.0.1:0", snapshot)
    found = scraped(exporter)
    assert found["process_resident_memory_bytes", ()] > 0
    assert found["process_cpu_seconds_total", ()] > 0
    assert found["vmferry_streams", ()] == 0


def test_a_stream_that_comes_twice_does_not_cost_the_scrape(exporter: metrics.Exporter) -> None:
    exporter.start("127.0.0.1:0", lambda: snapshot(WEB, {**WEB, "epoch": 42}))
    found = scraped(exporter)
    assert found["vmferry_streams", ()] == 1
    assert of(found, "web-1")["epoch"] == 42


def test_a_daemon_that_fails_is_down_and_comes_back(
    exporter: metrics.Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = [RuntimeError("no"), KeyError("no"), {"streams": 7}, snapshot({**WEB, "epoch": "x"})]

    def look() -> metrics.Snapshot:
        answer = answers.pop(0) if answers else snapshot(WEB)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    exporter.start("127.0.0.1:0", look)
    with caplog.at_level(logging.WARNING, "vmferry"):
        for _ in range(4):
            found = scraped(exporter)
            assert found["vmferry_up", ()] == 0
            assert found["process_cpu_seconds_total", ()] > 0
            assert not of(found, "web-1")
    assert [record.getMessage() for record in caplog.records] == ["no numbers for Prometheus: RuntimeError: no"]
    assert scraped(exporter)["vmferry_up", ()] == 1


def test_a_port_in_use_names_the_way_out(exporter: metrics.Exporter) -> None:
    exporter.start("127.0.0.1:0", snapshot)
    other = metrics.Exporter()
    with pytest.raises(errors.InUse, match=f"another process listens at 127.0.0.1:{exporter.port}: `ss -ltnp`"):
        other.start(f"127.0.0.1:{exporter.port}", snapshot)
    other.close()


@pytest.mark.parametrize("address", ["", "here", "127.0.0.1:", "127.0.0.1:70000", "::1:9750", "127.0.0.1:-1"])
def test_what_is_no_address_is_refused(exporter: metrics.Exporter, address: str) -> None:
    with pytest.raises(errors.Usage, match=r"as in 127\.0\.0\.1:9750"):
        exporter.start(address, snapshot)


def test_an_address_of_another_machine_is_refused(exporter: metrics.Exporter) -> None:
    with pytest.raises(errors.Usage, match=r"cannot listen at 192\.0\.2\.1:9750"):
        exporter.start("192.0.2.1:9750", snapshot)


def test_a_port_alone_is_on_loopback(exporter: metrics.Exporter) -> None:
    exporter.start("0", snapshot)
    assert exporter._server is not None
    assert exporter._server.server_address[0] == "127.0.0.1"
    assert "vmferry_up 1.0" in text(exporter)


def test_it_listens_on_version_6_too(exporter: metrics.Exporter) -> None:
    if not socket.has_ipv6 or not _has_loopback_6():
        pytest.skip("this machine has no ::1")
    exporter.start("[::1]:0", snapshot)
    assert "vmferry_up 1.0" in text(exporter, "[::1]")


def _has_loopback_6() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as channel:
        try:
            channel.bind(("::1", 0))
        except OSError:
            return False
        return True


def test_it_ends_and_may_be_started_again(exporter: metrics.Exporter) -> None:
    exporter.start("127.0.0.1:0", snapshot)
    port = exporter.port
    exporter.close()
    exporter.close()
    assert exporter.port == 0
    assert "metrics" not in [thread.name for thread in threading.enumerate()]
    exporter.start(f"127.0.0.1:{port}", snapshot)
    assert "vmferry_up 1.0" in text(exporter)


async def test_a_daemon_is_asked_on_its_own_loop(exporter: metrics.Exporter) -> None:
    threads: list[threading.Thread] = []

    def look() -> metrics.Snapshot:
        threads.append(threading.current_thread())
        return snapshot(WEB)

    exporter.start("127.0.0.1:0", metrics.on_loop(asyncio.get_running_loop(), look))
    found = await asyncio.to_thread(scraped, exporter)
    assert of(found, "web-1")["epoch"] == 41
    assert threads == [threading.current_thread()]


async def test_what_fails_on_the_loop_is_down_and_the_loop_goes_on(exporter: metrics.Exporter) -> None:
    def look() -> metrics.Snapshot:
        raise RuntimeError("no")

    exporter.start("127.0.0.1:0", metrics.on_loop(asyncio.get_running_loop(), look))
    assert (await asyncio.to_thread(scraped, exporter))["vmferry_up", ()] == 0


def test_a_loop_that_hangs_or_ended_is_down(exporter: metrics.Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_PATIENCE", 0.05)
    loop = asyncio.new_event_loop()  # never run, as one that hangs
    exporter.start("127.0.0.1:0", metrics.on_loop(loop, snapshot))
    assert scraped(exporter)["vmferry_up", ()] == 0
    loop.close()
    assert scraped(exporter)["vmferry_up", ()] == 0
