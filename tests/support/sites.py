"""Two daemons with one stream between them, each in a network of its own, and a real broker in a third."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine import errors
from engine.daemon import control
from tests.support import ferry, tools
from tests.support.ferry import MEBI
from tests.support.netns import Place

SIZE, CHANGED = 32 * MEBI, 8 * MEBI
_LOOK = 0.2


class Site:
    """The daemon of one side.  Its control socket is a file, and so reached from outside of its namespace."""

    def __init__(self, side: str, place: Place, home: Path, config: str) -> None:
        self.side, self.place, self.state = side, place, home / f"{side}-state"
        file, self._log = home / f"{side}.toml", home / f"{side}.log"
        file.write_text(config)
        command = [*place.inside, sys.executable, "-m", "engine.cli", side, "run", "-c", str(file)]
        environment = _environment() | {"VMFERRY_STATE": str(self.state)}
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def stream(self) -> dict[str, Any]:
        """What it says of its one stream; nothing before it answers.  It must be alive."""
        assert self._process.poll() is None, f"the {self.side} ended: {self.log()}"
        try:
            streams = control.ask(self.state / f"{self.side}.sock", {"do": "status"})["streams"]
        except (errors.Transient, FileNotFoundError):
            return {}
        return dict(streams[0]) if streams else {}

    def log(self) -> str:
        return self._log.read_text()[-4000:]

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Pair:
    """Both sites.  `sent` counts the bytes of records that the source has sent since the last `change`."""

    def __init__(self, source: Place, target: Place, bus: str, home: Path) -> None:
        home.mkdir()
        self.disk, self.replica = ferry.image(home / "web.img", SIZE), home / "replicas" / "site-a-web-1.img"
        self.replica.parent.mkdir()
        common = f'bus = "{bus}"\nprefix = "vmferry-{home.name}"\n'
        stream = f'[defaults]\nevery = "1s"\n[streams.web-1]\ndisk = "{self.disk}"\n'
        rule = f'[[accept]]\nstreams = "site-a/*"\npath = "{self.replica.parent}/{{site}}-{{name}}.img"\n'
        self.source = Site("source", source, home, f'site = "site-a"\n{common}{stream}')
        self.target = Site("target", target, home, f'site = "site-b"\n{common}{rule}')
        self.sent = self._seen = self._before = 0

    def count(self) -> None:
        """Look at what was sent.  The source counts from its last start on: what it sent before stays counted here."""
        now = self.source.stream().get("sent_bytes", self._seen)
        self.sent += now - self._seen if now >= self._seen else now
        self._seen = now

    def change(self, seed: int) -> None:
        """Write into a quarter of the disk."""
        self._before = self.target.stream()["proved_epoch"]
        self.count()
        self.sent = 0
        ferry.scribble(self.disk, seed * MEBI, CHANGED, seed)

    def equal(self) -> bool:
        """Whether an epoch after the last `change` is proved, and the replica is the disk."""
        proved = self.target.stream().get("proved_epoch") or 0
        return proved > self._before and ferry.same(self.disk, self.replica)

    def end(self) -> None:
        self.source.end()
        self.target.end()


def until(pairs: list[Pair], what: Callable[[Pair], object], patience: float = 120.0) -> None:
    """Wait until `what` was true of every pair once, counting what they send meanwhile."""
    deadline, left = time.monotonic() + patience, list(pairs)
    while left:
        left = [pair for pair in left if not what(pair)]
        for pair in pairs:
            pair.count()
        for pair in left if time.monotonic() > deadline else ():
            said = f"source {pair.source.stream()}\ntarget {pair.target.stream()}"
            raise AssertionError(f"it did not come to pass: {said}\n{pair.source.log()}\n{pair.target.log()}")
        time.sleep(_LOOK)


@contextlib.contextmanager
def broker(place: Place) -> Iterator[str]:
    """The URL of a broker that stands there."""
    command = [*place.inside, sys.executable, "-m", "tests.support.kafka", "1", place.address]
    with subprocess.Popen(
        command, cwd=tools.ROOT, env=_environment(), stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the broker does not start"
            yield url
        finally:
            process.terminate()


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tools.ROOT), "PATH": tools.PATH}
