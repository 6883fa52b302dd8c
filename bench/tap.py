"""The tap: writes per second that our NBD server answers, alone and with the spool behind it, on each policy."""

from __future__ import annotations

import contextlib
import json
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.measure import GIB, ROOT, load, python, run, spread, tell
from bench.report import Section, Verdict

_SHAPES = {
    "4 KiB, 16 in flight": (16, 4096),
    "4 KiB, one after another": (1, 4096),
    "64 KiB, 16 in flight": (16, 65536),
}
_WRITES = {(16, 4096): 80_000, (1, 4096): 16_000, (16, 65536): 16_000}
_DEEP, _SINGLE, _LARGE = _SHAPES
_POLICIES = ("memory", "spool", "spool-fsync")
_ALONE, _PEER = "**our server alone**, nothing kept", "nbdkit, its null plugin"


def _serve_nothing(path: str) -> None:
    """Answer every request, and keep nothing."""
    from engine.nbd.handshake import Export
    from engine.nbd.server import Connection, Server
    from engine.nbd.server_transmission import Request
    from producers.tap.process import FLAGS

    class Nothing:
        def take(self, connection: Connection, requests: list[Request]) -> None:
            codec = connection.codec
            if codec is not None:
                connection.send(b"".join([codec.done(request.cookie) for request in requests]))

        def gone(self, connection: Connection) -> None:
            """Nothing is kept of it."""

    selector = selectors.DefaultSelector()
    Server(selector, Path(path), {"vda": Export("vda", GIB, FLAGS)}, Nothing())
    while True:
        for key, events in selector.select():
            key.data(events)


def _tap(where: Path, policy: str) -> list[str]:
    order = where / "order.json"
    told = {"version": 1, "spool": str(where / "spool"), "socket": str(where / "nbd.sock"),
            "control": str(where / "control.sock"), "disks": {"vda": GIB}, "ack": policy, "quota": 64 * GIB,
            "limit": 60.0}  # fmt: skip
    order.write_text(json.dumps(told))
    return python("-m", "producers.tap", "run", str(order))


@contextlib.contextmanager
def _serving(where: Path, name: str) -> Iterator[str]:
    """The URL of a fresh server of this name."""
    where.mkdir()
    socket = where / "nbd.sock"
    command: Sequence[str] = {
        _ALONE: python("-m", "bench.tap", str(socket)),
        _PEER: ["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(socket), "null", "1G"],
    }.get(name) or _tap(where, name)
    with open(where / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        while not socket.exists():
            if process.poll() is not None:
                raise RuntimeError((where / "log").read_text()[-2000:])
            time.sleep(0.02)
        yield f"nbd+unix:///{'' if name == _PEER else 'vda'}?socket={socket}"
    finally:
        process.terminate()
        process.wait()
        run(["rm", "-r", str(where)])


def _writes(url: str, share: int) -> dict[str, float]:
    """Writes per second in each shape; qemu-img's own start is counted and small."""
    found: dict[str, float] = {}
    for shape, (depth, size) in _SHAPES.items():
        count = _WRITES[depth, size] // share
        options = ["-w", "-f", "raw", "-d", str(depth), "-s", str(size), "-c", str(count)]
        found[shape] = count / run(["qemu-img", "bench", *options, url]).seconds
    return found


def _rates(where: Path, name: str, share: int) -> tuple[dict[str, float], dict[str, float]]:
    """Straight into the server, and into a disk that QEMU mirrors there."""
    from tests.support.mirror import Host

    if name == "spool-fsync":
        share *= 8  # a medium's own time, and long enough so
    with _serving(where, name) as url:
        straight = _writes(url, share)
    with _serving(where, name):
        host = Host(where / "host", GIB, "vda", null=True)
        try:
            host.mirror(where / "nbd.sock", sync="none", export="" if name == _PEER else "vda")
            return straight, _writes(f"nbd+unix:///vda?socket={host.socket}", 4 * share)
        finally:
            host.close()


def section(directory: Path, quick: bool, count: int) -> Section:
    """Rounds of all in turn, each on a new socket and a new spool."""
    names = (_ALONE, _PEER, *_POLICIES)
    rates: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {name: [] for name in names}
    busy = load()
    for turn in range(count):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run(["sync"])
            rates[name].append(_rates(directory / "tap", name, 10 if quick else 1))
            straight, mirrored = rates[name][-1]
            tell(f"  round {turn + 1}/{count} {name}: {straight[_DEEP]:,.0f} writes/s, mirrored {mirrored[_DEEP]:,.0f}")
    made = Section(
        "8. The tap: writes per second over a UNIX socket",
        "`qemu-img bench -w`, straight to one export; and to a disk that qemu-storage-daemon mirrors there "
        "(`write-blocking`, 4 KiB granularity; the disk itself keeps nothing, so that the mirror is all that costs). "
        "Under `memory` a write is answered before it is in the spool, under `spool` when it is in the page cache, "
        "under `spool-fsync` when it is on the medium.",
        (
            "",
            *(f"{shape}, {how}" for how in ("straight", "mirrored") for shape in _SHAPES),
            "least - most of the first",
        ),
        load=busy,
    )
    middle: dict[str, list[dict[str, float]]] = {}
    for name, turns in rates.items():
        middle[name] = [
            {shape: statistics.median(one[way][shape] for one in turns) for shape in _SHAPES} for way in (0, 1)
        ]
        title = f"the tap, `{name}`" if name in _POLICIES else name
        cells = (f"{middle[name][way][shape]:,.0f}" for way in (0, 1) for shape in _SHAPES)
        made.rows.append((title, *cells, f"{spread([one[0][_DEEP] / 1000 for one in turns])} thousand"))
    made.verdicts = [_alone(middle[_ALONE][0][_DEEP]), *(_share(middle, shape) for shape in _SHAPES)]
    return made


def _alone(rate: float) -> Verdict:
    return Verdict(
        f"the server alone, {_DEEP}", f"{rate:,.0f}/s", ">= 25,000/s", rate >= 25_000,
        "qemu-img and the server share the cores",
    )  # fmt: skip


def _share(middle: dict[str, list[dict[str, float]]], shape: str) -> Verdict:
    value = middle["spool"][1][shape] / middle[_ALONE][1][shape]
    return Verdict(
        f"a mirror into the tap on `spool` against one into a server that keeps nothing, {shape}", f"{value:.0%}",
        ">= 80 %", value >= 0.8, "each write is copied, hashed and given to the kernel once more",
    )  # fmt: skip


if __name__ == "__main__":
    _serve_nothing(sys.argv[1])
