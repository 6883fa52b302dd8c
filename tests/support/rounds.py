"""Rounds of kill -9 at random moments: of the one process, of either side, of the broker, while the source changes.

    python -m tests.support.rounds --rounds 200 --bus log|kafka --seed 1

After a kill of the target the replica is recovered offline, and must be what its position names (tests/support/
witness.py); every few rounds and at the end all is calm, one pass runs, and both images must be equal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from consumers import offline
from engine import errors, places, registry
from tests.support.changer import MIB, Changer
from tests.support.ferry import ROOT, Ferry
from tests.support.kafka import Cluster, running
from tests.support.sim import oracle
from tests.support.witness import Witness

CALM = 20
"""Rounds between two comparisons of the whole images."""
TOGETHER, SOURCE, TARGET, BROKER = "both sides", "source", "target", "broker"


class Rounds:
    """One stream below `home`, and everything that happens to it."""

    def __init__(self, home: Path, bus: str, cluster: Cluster | None, seed: int = 1, size: int = 12) -> None:
        self.home, self.bus, self.cluster = home, bus, cluster
        self.chance = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.rounds = self.recoveries = self.restored = 0
        self.state, self.replica = home / "state", home / "replica.raw"
        self.changer = Changer(home / "source.raw", size * MIB, seed)
        self.witness: Witness | None = None
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._apart = False

    # -- processes -----------------------------------------------------------------------------------------------

    def _replicate(self, *more: str) -> list[str | Path]:
        return ["replicate", self.changer.path, self.replica, "--state", self.state, "--bus", self.bus, *more]

    def _start(self, role: str) -> None:
        command = ["-m", "tests.support.side", role, self.state, self.changer.path]
        if role == TOGETHER:
            command = ["-m", "engine.cli", *self._replicate("--follow", "--every", "200ms")]
        with open(self.home / f"{role}.out", "ab") as out:
            words = [sys.executable, *map(str, command)]
            self._running[role] = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=out)

    def _alive(self) -> None:
        """Everything of this mode runs.  Nobody may have ended by himself: passing trouble is waited out."""
        for role in (SOURCE, TARGET) if self._apart else (TOGETHER,):
            process = self._running.get(role)
            if process is not None and process.poll() is not None:
                away = self.cluster is not None and process.returncode == errors.Transient.exit_code
                if not away:  # a follower that finds no broker before it ever got going says so, and ends
                    self._say(f"{role} ended with {process.returncode}: {self._tail(role)}")
                del self._running[role]
            if role not in self._running:
                self._start(role)

    def _say(self, what: str) -> None:
        self.wrong.append(f"round {self.rounds}: {what}")
        print(self.wrong[-1], file=sys.stderr, flush=True)

    def _tail(self, role: str) -> str:
        return (self.home / f"{role}.out").read_text(errors="replace")[-600:]

    def _kill(self, role: str) -> None:
        if role == BROKER:
            assert self.cluster is not None
            self.cluster.brokers[0].kill()
            self.kills[role] += 1
        elif (process := self._running.pop(role, None)) is not None:
            process.kill()
            process.wait()
            self.kills[role] += 1

    def _end(self) -> None:
        for role in list(self._running):
            self._kill(role)

    # -- rounds --------------------------------------------------------------------------------------------------

    def run(self, rounds: int) -> None:
        """So many kills.  `wrong` has what was not as promised."""
        try:
            for _ in range(rounds):
                self.changer.start()
                self._round()
                if self.rounds % CALM == 0:
                    self.calm()
            self.calm()
        finally:
            self.changer.stop()
            self._end()
            if self.witness is not None:
                self.witness.stop()

    def _round(self) -> None:
        self.rounds += 1
        if self.chance.random() < 0.25:
            self._end()
            self._apart = self._known() is not None and not self._apart
        self._alive()
        if (found := self._known()) is not None:
            self._watching(*found)
        self._moment()
        broker = self.cluster is not None and self.chance.random() < 0.25
        victim = BROKER if broker else self.chance.choice(list(self._running))
        self._kill(victim)
        if victim == BROKER:
            assert self.cluster is not None
            time.sleep(self.chance.uniform(0, 0.5))
            self.cluster.start()
        elif victim == SOURCE and self.chance.random() < 0.3:
            self._resize()
        elif victim in (TARGET, TOGETHER) and self.chance.random() < 0.6:
            self._recover()

    def _moment(self) -> None:
        """Wait for a random while: mostly from when somebody says something on, else from the start of the round."""
        if self.chance.random() < 0.8:
            before, deadline = self._logged(), time.monotonic() + 4
            while self._logged() == before and time.monotonic() < deadline:
                time.sleep(0.02)
        time.sleep(self.chance.choice((0.0, self.chance.uniform(0, 0.15), self.chance.uniform(0, 1.2))))

    def _logged(self) -> int:
        """Bytes of the stream's log on disk."""
        home, total = self.home / ("kafka" if self.cluster else "log"), 0
        for path in home.rglob("vmferry.*/*"):
            with contextlib.suppress(FileNotFoundError):  # trimmed meanwhile
                total += path.stat().st_size if path.suffix in (".log", ".seg") else 0
        return total

    def _resize(self) -> None:
        self.changer.stop()
        self.changer.resize()

    def _known(self) -> tuple[registry.Stream, registry.Replica] | None:
        known = registry.Registry(places.Places(self.state))
        stream = known.of_source(str(self.changer.path))
        replicas = known.replicas(stream.stream) if stream else []
        return (stream, replicas[0]) if stream and replicas else None

    def _watching(self, stream: registry.Stream, replica: registry.Replica) -> Witness:
        if self.witness is None:
            self.witness = Witness(self.bus, stream.identity, replica.identity)
        return self.witness

    def _recover(self) -> None:
        """Offline: the replica goes back to its position, and is looked at.  The source may run meanwhile."""
        found = self._known()
        if found is not None and found[1].begun:
            asyncio.run(self._recovered(*found))

    async def _recovered(self, stream: registry.Stream, replica: registry.Replica) -> None:
        witness = self._watching(stream, replica)
        await witness.catch_up()
        try:
            async with offline.open_replica(places.Places(self.state), replica, write=True) as opened:
                self.restored += await opened.replay.recover()
                position = opened.store.load().position
                kept = [*(one.position for one in opened.store.kept()), *oracle.applied(opened.store.outbox())]
        except errors.Damaged as why:
            if witness.applied:  # killed before it had a first state, it has nothing to recover
                self._say(f"recovery: {why}")
            return
        self.recoveries += 1
        witness.check(position, kept, self.replica, self.changer.cuts)
        while witness.wrong:
            self._say(witness.wrong.pop(0))

    def calm(self) -> None:
        """Nobody is killed and nothing changes: one pass, and both images are equal."""
        self.changer.stop()
        self._end()
        self._recover()
        ferry = Ferry(self.state)
        done = ferry.run(*self._replicate("--json"))
        if done.code or not done.last["proved"]:
            self._say(f"a calm pass ended with {done.code}: {done.out[-600:]} {done.err[-600:]}")
        if self.replica.read_bytes() != self.changer.path.read_bytes():
            self._say("after a calm pass the replica differs from the source")
        verified = ferry.run("verify", self.changer.path)
        if verified.code:
            self._say(f"verify: {verified.err[-600:]}")
        self._recover()

    def summary(self) -> str:
        """The line for the record."""
        kills = ", ".join(f"{role} {count}" for role, count in sorted(self.kills.items()))
        epochs, sent = (len(self.witness.applied), self.witness.bytes) if self.witness else (0, 0)
        blind = self.witness.blind if self.witness else 0
        return (
            f"rounds {self.rounds}; killed: {kills}; {self.changer.steps} changes, {epochs} epochs applied, "
            f"{sent:,} bytes on the log; {self.recoveries} recoveries ({blind} without the log), "
            f"{self.restored} pre-images put back; wrong: {len(self.wrong)}"
        )


@contextlib.contextmanager
def bus_of(kind: str, home: Path) -> Iterator[tuple[str, Cluster | None]]:
    """The URL of a bus for one run, and its cluster where it has one."""
    if kind == "log":
        yield f"log:{home / 'log'}", None
        return
    with running(home / "kafka") as cluster:
        yield cluster.url, cluster


def main() -> None:
    parser = argparse.ArgumentParser(description="Rounds of kill -9, and what they came to.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--bus", choices=("log", "kafka"), default="log")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="vmferry-rounds-") as home,
        bus_of(chosen.bus, Path(home)) as (url, cluster),
    ):
        began = time.monotonic()
        rounds = Rounds(Path(home), url, cluster, chosen.seed)
        rounds.run(chosen.rounds)
        print(f"{chosen.bus}, seed {chosen.seed}: {rounds.summary()}; {time.monotonic() - began:.0f} s")
    sys.exit(bool(rounds.wrong))


if __name__ == "__main__":
    main()
