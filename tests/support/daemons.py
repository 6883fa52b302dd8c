"""A source and a target daemon as processes, over any bus and in any network, and what an operator would do to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine import errors
from engine.daemon import control
from tests.support import tools
from tests.support.ferry import PATIENCE, ROOT, Ferry, same, until

Streams = dict[str, dict[str, Any]]


def toml(values: dict[str, Any]) -> str:
    """Tables of plain values as TOML: JSON's texts and numbers are TOML's, too."""

    def lines(table: dict[str, Any]) -> list[str]:
        return [f"{name} = {json.dumps(value)}" for name, value in table.items() if not isinstance(value, dict | list)]

    def within(place: str, table: dict[str, Any]) -> list[str]:
        found = [f"[{place}]", *lines(table)]
        for name, inner in table.items():
            found += within(f"{place}.{json.dumps(name)}", inner) if isinstance(inner, dict) else []
        return found

    found = lines(values)
    for name, value in values.items():
        if isinstance(value, dict):
            found += within(name, value)
        elif isinstance(value, list):
            for one in value:
                found += [f"[[{name}]]", *lines(one)]
    return "\n".join(found) + "\n"


class Daemon:
    """One side.  `config` may be changed between `write` and `reload`.

    `before` are words that start it elsewhere, as in a network namespace: its control socket is a file, and is reached
    from outside.
    """

    def __init__(self, side: str, home: Path, config: dict[str, Any], before: Sequence[str] = ()) -> None:
        self.side, self.home = side, home
        self.state, self.file, self.log = home / f"{side}-state", home / f"{side}.toml", home / f"{side}.log"
        self.config = {"state": str(self.state), **config}
        self.ferry = Ferry(self.state)
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self) -> None:
        """The config as it is now."""
        self.file.write_text(toml(self.config))

    @property
    def socket(self) -> Path:
        return self.state / f"{self.side}.sock"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def begin(self) -> Daemon:
        """Start it, and wait for nothing."""
        command = [*self._before, sys.executable, "-m", "engine.cli", self.side, "run", "-c", str(self.file)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PATH": tools.PATH}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        return self

    def start(self) -> Daemon:
        """Begin it, and wait until it answers."""
        self.begin()
        until(lambda: self.ended() or control.answers(self.socket))
        assert not self.ended(), self.tail()
        return self

    def ended(self) -> bool:
        """Whether no process of it runs."""
        return self._process is None or self._process.poll() is not None

    def ask(self, do: str, **words: Any) -> dict[str, Any]:
        return control.ask(self.socket, {"do": do, **words})

    def streams(self) -> Streams:
        """What its status says of each stream, by label; nothing before it answers.  It must run."""
        assert not self.ended(), f"the {self.side} ended: {self.tail()}"
        try:
            return {one["label"]: one for one in self.ask("status")["streams"]}
        except errors.Transient:
            return {}

    def stream(self, label: str = "web") -> dict[str, Any]:
        """Of one stream; nothing while there is none."""
        return self.streams().get(label, {})

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def reload(self) -> dict[str, Any]:
        self.write()
        return self.ask("reload")

    def kill(self) -> None:
        """As a power cut of the process."""
        self.send(signal.SIGKILL)
        self._wait()

    def stop(self) -> int:
        """Orderly.  Gives its exit code."""
        if self.ended():
            return 0
        self.send(signal.SIGTERM)
        return self._wait()

    def _wait(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"it did not end: {self.tail()}") from None


class Count:
    """A number of a stream's status that begins anew with every start, as "sent_bytes".  What it was before stays
    counted, as far as `look` saw it."""

    def __init__(self, key: str) -> None:
        self.total = self._seen = 0
        self._key = key

    def look(self, said: dict[str, Any]) -> None:
        """`said` is what a daemon says of the stream; it may say nothing."""
        now = said.get(self._key, self._seen)
        self.total += now - self._seen if now >= self._seen else now
        self._seen = now


class Sites:
    """Two sites over one bus: disks of the first in HOME/disks, replicas in HOME/replicas/SITE-NAME.img.

    `inside` are the words that start the source and the target each in a network of its own.
    """

    def __init__(
        self,
        home: Path,
        bus: str = "",
        every: str = "300ms",
        inside: tuple[Sequence[str], Sequence[str]] = ((), ()),
        **common: Any,
    ) -> None:
        self.home, self.disks, self.replicas = home, home / "disks", home / "replicas"
        for path in (self.disks, self.replicas):
            path.mkdir(parents=True)
        common = {"bus": bus or f"log:{home / 'log'}", **common}
        rule = {"streams": "site-a/*", "path": f"{self.replicas}/{{site}}-{{name}}.img"}
        ours = {"site": "site-a", **common, "defaults": {"every": every}, "streams": {}}
        self.source = Daemon("source", home, ours, inside[0])
        self.target = Daemon("target", home, {"site": "site-b", **common, "accept": [rule]}, inside[1])

    def disk(self, name: str = "web") -> Path:
        return self.disks / f"{name}.img"

    def replica(self, name: str = "web") -> Path:
        return self.replicas / f"site-a-{name}.img"

    def serve(self, name: str, **settings: Any) -> None:
        """Put a stream into the source's config."""
        self.source.config["streams"][name] = {"disk": str(self.disk(name)), **settings}
        self.source.write()

    def start(self) -> Sites:
        self.source.start()
        self.target.start()
        return self

    def same(self, name: str = "web") -> bool:
        """Whether a replica is its disk, byte by byte."""
        return self.replica(name).exists() and same(self.disk(name), self.replica(name))

    def proved(self, name: str = "web") -> Callable[[], bool]:
        """Whether the replica has proved what its source last cut, a cut that was begun after this call."""
        begun = self._cut(name)

        def there() -> bool:
            nonlocal begun
            begun = begun or self._cut(name)
            said, own = self.target.stream(name), self.source.stream(name)
            if not begun or not own.get("epoch") or own["state"] != "running" or own["why"]:
                return False
            return bool(said.get("proved_epoch") == own["epoch"] == own["current_epoch"])

        return there

    def _cut(self, name: str) -> bool:
        try:
            self.source.ask("cut", stream=name)
        except errors.FerryError:
            return False
        return True

    def stop(self) -> None:
        self.source.stop()
        self.target.stop()
