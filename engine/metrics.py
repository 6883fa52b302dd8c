"""Numbers for Prometheus over HTTP, in a thread of its own.  prometheus_client lives here, and nowhere else.

Every scrape asks the daemon anew.  One that fails, or hangs, gives `vmferry_up 0` and the process' own numbers: who
measures a daemon never ends it.  There is no password: keep the address on loopback, or behind a proxy that asks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine import errors

_log = logging.getLogger("vmferry.metrics")

Snapshot = dict[str, Any]
"""daemon, site, version, streams: what a daemon's `status` answers.  A stream's entry has what that side knows."""

LOOPBACK = "127.0.0.1"
STATES = ("running", "waiting", "paused", "held", "trouble", "opening")
_PATIENCE = 5.0
"""Seconds for a daemon to answer one scrape; Prometheus itself waits for ten."""
_IDLE = 10.0
"""Seconds after which a connection that asks for nothing is closed."""
_LABELS = ("stream", "label", "site")

_GAUGES = {
    "epoch": ("epoch", "Number of the last epoch: sealed at a source, applied at a target."),
    "missing_bytes": ("missing_bytes", "Bytes that have still to be read and sent before the replica is whole."),
    "rate": ("rate_limit_bytes_per_second", "How fast it may send; 0: no limit."),
    "rpo_seconds": ("rpo_seconds", "Age of what the replica could be started from now."),
    "lag_seconds": ("lag_seconds", "Seconds of the source's history that are on the bus and not applied."),
    "proved_epoch": ("proved_epoch", "Last epoch whose roots both sides found equal."),
    "usable_epoch": ("usable_epoch", "Last epoch that the replica could be started from."),
    "undo_bytes": ("undo_bytes", "Bytes of pre-images that are kept for rewinding."),
    "log_bytes": ("log_bytes", "Bytes that the embedded log takes."),
    "log_cap_bytes": ("log_cap_bytes", "Most bytes that the embedded log may take."),
    "clock_difference_seconds": ("clock_difference_seconds", "Clock of the other site, less the one here."),
}
_COUNTERS = {
    "sent_bytes": ("sent_bytes", "Bytes sent to the bus."),
    "restarts": ("restarts", "Times that the stream was begun again after trouble."),
}


class _Daemon(Collector):
    """Asks for a snapshot at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._failed = False

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: the daemon is not asked before somebody wants to know."""
        return ()

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("vmferry_up", "Whether the daemon answered this scrape.")
        try:
            found = _families(self._snapshot())
        except Exception as why:  # the daemon's trouble is told by the number, and must not end the scrape
            if not self._failed:
                _log.warning("no numbers for Prometheus: %s: %s", type(why).__name__, why)
            found, self._failed = [], True
            up.add_metric([], 0)
        else:
            self._failed = False
            up.add_metric([], 1)
        return [up, *found]


def _families(said: Snapshot) -> list[Metric]:
    """Every metric of a snapshot.  Raises whatever a snapshot of another shape makes it raise."""
    streams = _once(said["streams"])
    build = GaugeMetricFamily("vmferry_build_info", "Always 1; what is running.", labels=("daemon", "site", "version"))
    build.add_metric([said["daemon"], said["site"], said["version"]], 1)
    count = GaugeMetricFamily("vmferry_streams", "Streams that the daemon is configured to run.", len(streams))
    found: list[Metric] = [build, count, _states(streams), _replicas(streams)]
    for key, (name, words) in _GAUGES.items():
        found.append(_filled(GaugeMetricFamily(f"vmferry_stream_{name}", words, labels=_LABELS), streams, key))
    for key, (name, words) in _COUNTERS.items():
        found.append(_filled(CounterMetricFamily(f"vmferry_stream_{name}", words, labels=_LABELS), streams, key))
    return [one for one in found if one.samples]


def _once(streams: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each stream once: Prometheus refuses the whole scrape when two lines have the same labels."""
    return list({tuple(_named(one)): one for one in streams}.values())


def _named(one: dict[str, Any]) -> list[str]:
    return [str(one.get(label) or "") for label in _LABELS]


def _filled(family: GaugeMetricFamily | CounterMetricFamily, streams: list[dict[str, Any]], key: str) -> Metric:
    for one in streams:
        if one.get(key) is not None:
            family.add_metric(_named(one), float(one[key]))
    return family


def _states(streams: list[dict[str, Any]]) -> GaugeMetricFamily:
    """One line for each state, 1 for the one that it is in; a state that is not known here gets a line of its own."""
    family = GaugeMetricFamily("vmferry_stream_state", "1 for the state that it is in.", labels=(*_LABELS, "state"))
    for one in streams:
        here = one.get("state")
        for state in dict.fromkeys((*STATES, here) if here else ()):
            family.add_metric([*_named(one), state], state == here)
    return family


def _replicas(streams: list[dict[str, Any]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("vmferry_stream_replica_info", "Always 1; the replica.", labels=(*_LABELS, "replica"))
    for one in streams:
        if one.get("replica"):
            family.add_metric([*_named(one), str(one["replica"])], 1)
    return family


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each scrape, none of which keeps the process alive."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or never asked; the next scrape is another connection."""
        _log.debug("a connection from %s came to nothing: %s", client_address, sys.exc_info()[1])


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _IDLE

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for every scrape tells nobody anything."""


class Exporter:
    """The endpoint.  May be started again after `close`."""

    def __init__(self) -> None:
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def start(self, address: str, snapshot: Callable[[], Snapshot]) -> None:
        """Answer at `address` (HOST:PORT, or a PORT on loopback).  Raises Usage, InUse.

        `snapshot` is called in threads of the endpoint, several at a time perhaps: see `on_loop`.  Blocks shortly.
        """
        host, port = _parsed(address)
        registry = prometheus_client.CollectorRegistry()
        registry.register(_Daemon(snapshot))
        prometheus_client.ProcessCollector(registry=registry)
        application = prometheus_client.make_wsgi_app(registry)
        try:
            self._server = make_server(
                host, port, application, _Server6 if ":" in host else _Server, handler_class=_Handler
            )
        except OSError as why:
            raise _refused(address, why) from why
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens, also when 0 was asked for."""
        return self._server.server_port if self._server else 0

    def close(self) -> None:
        """Repeatable.  Waits half a second at most."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()
            server.server_close()


def on_loop(loop: asyncio.AbstractEventLoop, look: Callable[[], Snapshot]) -> Callable[[], Snapshot]:
    """`look`, called on the thread of `loop` from any other; raises TimeoutError when that loop hangs."""

    def called() -> Snapshot:
        answer: concurrent.futures.Future[Snapshot] = concurrent.futures.Future()

        def call() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(look())
            except Exception as why:  # handed to whoever asked
                answer.set_exception(why)

        loop.call_soon_threadsafe(call)
        try:
            return answer.result(_PATIENCE)
        finally:
            answer.cancel()  # nobody waits for it any more

    return called


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise errors.Usage(f"metrics: {address!r} is no address: HOST:PORT, as in {LOOPBACK}:9750 or [::1]:9750")
    return host.strip("[]") or LOOPBACK, int(port)


def _refused(address: str, why: OSError) -> errors.FerryError:
    if why.errno == errno.EADDRINUSE:
        return errors.InUse(
            f"metrics: another process listens at {address}: `ss -ltnp` tells which; give `metrics` another port"
        )
    return errors.Usage(f"metrics: cannot listen at {address}: {why.strerror or why}; give an address of this machine")
