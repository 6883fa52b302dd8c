"""A real Kafka cluster of one or three brokers on loopback, each a JVM of its own that tests may kill.

As a script it runs one until it is interrupted, for benches and for trying things out:

    python -m tests.support.kafka [BROKERS [HOST]]
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from engine import ports
from tests.support import tools

JARS = tools.HOME / "kafka-libs"
_HERE = Path(__file__).parent / "kafka"
_START_SECONDS = 60.0
_JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseG1GC", "-XX:TieredStopAtLevel=4", "-Djava.awt.headless=true")
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)


def java(home: Path, *arguments: str) -> list[str]:
    """The command line of one JVM with the broker's jars; its own log files go below `home`."""
    logging = f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}"
    return ["java", *_JVM, f"-Dkafka.logs.dir={home}", logging, "-cp", f"{JARS}/*", *arguments]


def fetch() -> None:
    """The jars are there when this returns; a test that cannot have them is skipped, or fails in CI."""
    tools.need("java", *([] if (JARS / ".complete").exists() else ["mvn"]))
    script = tools.ROOT / "tools" / "install-test-tools.sh"
    done = subprocess.run(["sh", str(script), "fetch_kafka"], capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().replace("\n", "; ")[-300:]
        tools.lack(
            f"no Kafka: 'sh tools/install-test-tools.sh fetch_kafka' fetches its jars with Maven, and says: {why}"
        )


_GIVEN: set[int] = set()


def free_port() -> int:
    """One that was never given before, and that no outgoing connection gets (those are from 32768 on).

    Tests that run beside each other, in processes of their own, have ranges of their own.
    """
    first = 15_000 + 4_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4)
    while True:
        port = random.SystemRandom().randrange(first, first + 4_000)
        if port in _GIVEN:
            continue
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _GIVEN.add(port)
            return port


class Broker:
    """One JVM that is broker and controller.  It keeps its directory and ports over restarts.  Clients find it at
    `host`, an address of this machine or network namespace."""

    def __init__(self, home: Path, node: int, host: str = "127.0.0.1") -> None:
        self.home, self.node, self.host = home, node, host
        self.port, self.controller_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True)

    @property
    def server(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        return self.home / "broker.log"

    def format(self, settings: Mapping[str, str], cluster: str, scram: Sequence[str]) -> subprocess.Popen[bytes]:
        """Write its settings, and begin to write its empty storage, in which the users `scram` are known."""
        properties = self.home / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        users = [word for user in scram for word in ("--add-scram", user)]
        tool = ("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties), *users)
        command = java(self.home, *tool)
        with open(self.log, "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def start(self) -> None:
        """Begin to start; `wait_ready` says when it answers."""
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                java(self.home, "kafka.Kafka", str(self.home / "server.properties")), stdout=log, stderr=log
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"broker {self.node} does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it answers an ApiVersions request: that is when a broker is unfenced and serves clients."""
        try:
            with socket.create_connection((self.host, self.port), 1) as client:
                client.sendall(_API_VERSIONS)
                return len(client.recv(10)) == 10
        except OSError:
            return False

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """As a power cut of the process: kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Orderly, handing over what it leads."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Stop answering without closing a connection: a network that swallows everything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


Settings = Mapping[str, str] | Callable[[Broker], Mapping[str, str]]


class Cluster:
    """`count` brokers below `home`.  `settings` are added to, or replace, those of every broker, or are made for each;
    `scram` are users, as `format --add-scram` takes them."""

    def __init__(
        self,
        home: Path,
        count: int = 1,
        settings: Settings | None = None,
        scram: Sequence[str] = (),
        host: str = "127.0.0.1",
    ) -> None:
        fetch()
        self.home = home
        self.brokers = [Broker(home / f"n{node}", node, host) for node in range(1, count + 1)]
        voters = ",".join(f"{broker.node}@127.0.0.1:{broker.controller_port}" for broker in self.brokers)
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode().replace("-", "a")
        tools_running = []
        for broker in self.brokers:
            changed = settings(broker) if callable(settings) else settings or {}
            tools_running.append((broker, broker.format(_settings(broker, voters, count, changed), name, scram)))
        for broker, tool in tools_running:
            if tool.wait():
                raise RuntimeError(f"broker {broker.node} cannot be formatted: {broker.log.read_text()[-2000:]}")

    @property
    def servers(self) -> str:
        return ",".join(broker.server for broker in self.brokers)

    @property
    def url(self) -> str:
        return f"kafka://{self.servers}"

    def start(self) -> None:
        for broker in self.brokers:
            broker.start()
        for broker in self.brokers:
            broker.wait_ready()

    def kill(self) -> None:
        for broker in self.brokers:
            broker.kill()


async def everything(log: ports.Log) -> list[bytes]:
    """All records of a log, read until its end: one answer of a broker may stop anywhere before it."""
    offset, end = await log.ends()
    found: list[bytes] = []
    while offset < end:
        entries = await log.read(offset, 1 << 20, 5)
        found += [entry.data for entry in entries]
        offset = entries[-1].offset + 1 if entries else offset
    return found


@contextlib.contextmanager
def running(
    home: Path,
    count: int = 1,
    settings: Settings | None = None,
    scram: Sequence[str] = (),
    host: str = "127.0.0.1",
) -> Iterator[Cluster]:
    """A cluster that is started, and killed at the end: nothing of it is to be kept."""
    cluster = Cluster(home, count, settings, scram, host)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@contextlib.contextmanager
def elsewhere(inside: Sequence[str], host: str) -> Iterator[str]:
    """The URL of a broker at `host`, begun by the words `inside`: in a network of its own."""
    command = [*inside, sys.executable, "-m", "tests.support.kafka", "1", host]
    environment = os.environ | {"PYTHONPATH": str(tools.ROOT), "PATH": tools.PATH}
    with subprocess.Popen(command, cwd=tools.ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the broker does not start"
            yield url
        finally:
            process.terminate()


def _settings(broker: Broker, voters: str, count: int, changed: Mapping[str, str]) -> dict[str, str]:
    """Of one broker.  Lists of listeners in `changed` come after our own."""
    copies = str(min(3, count))
    ours = {
        "process.roles": "broker,controller",
        "node.id": str(broker.node),
        "controller.quorum.voters": voters,
        "listeners": f"PLAINTEXT://{broker.server},CONTROLLER://127.0.0.1:{broker.controller_port}",
        "advertised.listeners": f"PLAINTEXT://{broker.server}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(broker.home / "data"),
        "default.replication.factor": copies,
        "min.insync.replicas": str(min(2, count)),
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": copies,
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "log.cleaner.dedupe.buffer.size": "2097152",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "replica.fetch.max.bytes": "8388608",
    }
    lists = ("listeners", "advertised.listeners", "listener.security.protocol.map")
    return ours | {name: f"{ours[name]},{value}" if name in lists else value for name, value in changed.items()}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    ends = {signal.SIGINT, signal.SIGTERM}
    with tempfile.TemporaryDirectory(prefix="vmferry-kafka-") as home, running(Path(home), count, host=host) as cluster:
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # only now: the brokers would inherit it
        print(cluster.url, flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
