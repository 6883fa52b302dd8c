"""The tap of one machine as processes and files, seen from the source daemon's side.  Blocks; all on one thread.

    HOME/order.json     what the tap that runs, or ran last, was told
    HOME/spool/         its spool; tap.json and ended.json in it say who has it, and why the last one ended
    HOME/watchdog.json  which process watches it
    HOME/control.sock   where it is asked
    HOME/tap.log        what both said
    HOME/lock           held by the one daemon that begins and ends it

A daemon that stops, or is killed at any point, leaves a tap that runs, or none: the next one finds either.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from engine import errors, linux, places
from producers.tap import identity, start, watchdog
from producers.tap import order as orders
from producers.tap import spool as spooled
from producers.tap.control import Ask, Line
from producers.tap.identity import Process
from producers.tap.order import Order
from producers.tap.process import CONTROL_VERSION
from producers.tap.spool import Broken, Spool
from producers.tap.writer import STRIDE

PATIENCE = 2.0
"""Seconds for one answer; a tap that is silent for longer is ended by its watchdog."""
BEGINNING = 30.0
"""Seconds until a tap has to answer that was begun: it waits for its medium first."""
ENDING = 15.0
"""Seconds that an orderly end may take: it makes the spool durable, which has 10 s."""
DYING = 2.0
LONGEST_LOG = 1 << 20
"""Bytes from which on a tap that begins has a new log, beside the one before."""

_FATES = {one.exit_code: one for one in (errors.Usage, errors.InUse, errors.Full, errors.Damaged, errors.DeviceFailed)}
_log = logging.getLogger("vmferry.tap")


class Running:
    """`label` names the machine in messages."""

    def __init__(self, home: Path, sockets: Path, label: str) -> None:
        self.home, self.spool = home, home / "spool"
        self.socket, self.control = sockets / "tap.sock", home / "control.sock"
        self._label, self._order, self._said = label, home / "order.json", home / "tap.log"
        self._watched = home / "watchdog.json"
        self._watchdog: Process | None = None
        self._hold: places.Hold | None = None
        self._line: Line | None = None

    def own(self) -> None:
        """Be the one who begins and ends this tap, until `close`.  Raises InUse while another process is."""
        if self._hold is None:
            places.make(self.home)
            self._hold = places.Hold(self.home, f"the tap of {self._label}")

    def begin(self, order: Order, above: int) -> bool:
        """As Keeper.begin."""
        self.own()
        _check(order)
        process = self.alive()
        if process is not None:
            # First: should it hang, its watchdog frees the guest while we wait for an answer.
            self.watch()
        found = process is not None and self._serves(process, order)
        if not found:
            self._end(process)
            self._start(self._prepare(order, above))
        self.watch()
        return found

    def alive(self) -> Process | None:
        """The tap that runs, begun by whomever."""
        start.reap()
        process = identity.load(self.spool)
        return process if process is not None and process.alive() else None

    def _serves(self, process: Process, order: Order) -> bool:
        """Whether it does what `order` says; its quota, and other numbers, may wait for the next one."""
        told = self._heard(process)
        if told is None or told["broken"] or told["ending"]:
            return False
        try:
            socket = orders.load(self._order).socket
        except errors.Usage:  # lost: nobody can tell any more
            return False
        same = told["disks"] == order.disks and told["ordered"] == order.ack.value
        return same and socket == order.socket and socket.is_socket()

    def _heard(self, process: Process) -> Ask | None:
        """Its status; None when it has ended, or hangs.  One that has just begun is waited for.  Raises Newer."""
        until = time.monotonic() + BEGINNING
        while time.monotonic() < until and process.alive():
            with contextlib.suppress(errors.Transient):
                return self.status()
            time.sleep(0.02)
        return None

    # A new one.

    def _prepare(self, order: Order, above: int) -> Order:
        """The order as it is written down, for a spool in which a tap can begin.

        A spool that is broken, or damaged, goes: what it holds ends in a gap, and one that is full would stay so.
        Numbers go on above all that it may have given.
        """
        try:
            earlier = orders.load(self._order).first
        except errors.Usage:
            earlier = 0
        past, why = self._recover()
        order = replace(order, first=max(past, above, earlier) + (STRIDE if why else 0))
        try:
            orders.save(self._order, order)
        except errors.Full:
            if not why:
                raise
            # It is the spool that has the room.  A crash before it is saved: `above` keeps the numbers apart.
            linux.remove_tree(self.spool)
            orders.save(self._order, order)
        if why:
            _log.warning("%s: the spool is begun anew: %s", self._label, why)
            # A crash before this is done: the spool is broken still, or a part of one, and all is done again.
            linux.remove_tree(self.spool)
        return order

    def _recover(self) -> tuple[int, str]:
        """(the number past all that the spool holds, why it cannot be gone on with).  Raises Newer, InUse."""
        if not (self.spool / spooled.TOPIC).is_dir():
            return 0, ""
        try:
            spooled.recover(self.spool)
            reader = Spool(self.spool)
        except errors.Newer:
            raise
        except errors.Damaged as why:
            return 0, str(why)
        try:
            broken = reader.broken()
            return reader.ends()[1], f"{broken.why}, from {broken.number} on" if broken else ""
        finally:
            reader.close()

    def _start(self, order: Order) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._said.stat().st_size > LONGEST_LOG:
                os.replace(self._said, self._said.with_suffix(".log.1"))
        process = self._spawn("run")
        try:
            start.ready(order, process, BEGINNING)
        except errors.Transient as why:
            process.kill()
            fate = _FATES.get(process.wait(), errors.Transient)
            raise fate(f"the tap of {self._label} could not begin: {why}: {_last(self._said)}") from why

    def _spawn(self, what: str) -> subprocess.Popen[bytes]:
        try:
            return start.start(what, self._order, self._said)
        except OSError as why:  # no process to be had, or no room for the log
            raise errors.Transient(f"the tap of {self._label}: `{what}` could not be begun: {why}") from why

    # Its watchdog.

    def watch(self) -> None:
        """Have it watched, unless it is."""
        if self.watcher() is not None:
            return
        self._watchdog = identity.of(self._spawn("watch").pid)
        try:
            identity.write(self._watched, self._watchdog)
        except errors.FerryError as why:
            # It watches all the same; only a later daemon does not know of it, and begins a second one, which is as
            # good.
            _log.warning("%s: which process watches its tap was not written down: %s", self._label, why)

    def watcher(self) -> Process | None:
        """The one that runs."""
        start.reap()
        if self._watchdog is None:
            self._watchdog = identity.read(self._watched)
        return self._watchdog if self._watchdog is not None and self._watchdog.alive() else None

    # Questions.

    def ask(self, do: str, **more: object) -> Ask:
        """Raises Transient when no tap answers, Usage when it refuses."""
        if self._line is None:
            self._line = Line(self.control, PATIENCE)
        try:
            return self._line.ask(do, **more)
        except errors.Transient:
            self._hang_up()
            raise

    def status(self) -> Ask:
        """As it answers.  Raises Transient, Newer."""
        told = self.ask("status")
        if told["version"] > CONTROL_VERSION:
            raise errors.Newer(f"the tap of {self._label}", told["version"], CONTROL_VERSION)
        return told

    def broken(self) -> Broken | None:
        """What the spool says, where there is one."""
        return spooled.broken(self.spool)

    def ended(self) -> watchdog.Ended | None:
        """What the last watchdog wrote down."""
        return watchdog.load(self.spool)

    # The end.

    def end(self) -> None:
        """As Keeper.end."""
        self.own()
        self._end(self.alive())

    def _end(self, process: Process | None) -> None:
        if process is not None:
            with process.held() as held:
                if held is not None and not self._told_to_end(held):
                    self._kill(process, held)
        self._hang_up()
        watching = self.watcher()
        if watching is not None:
            with watching.held() as held:
                # It ends with its tap, having written down why.
                if held is not None and not identity.readable(ENDING, held) and not identity.kill(held, DYING):
                    _log.warning("%s: its watchdog, process %d, hangs in the kernel", self._label, watching.pid)
        start.reap()
        self._watchdog = None
        for path in (self.socket, self.control):
            path.unlink(missing_ok=True)

    def _told_to_end(self, held: int) -> bool:
        """Whether it ended as it was told to."""
        try:
            self.ask("end")
        except errors.Transient as why:
            _log.warning("%s: %s; it is killed", self._label, why)
            return bool(identity.readable(0, held))
        return bool(identity.readable(ENDING, held))

    def _kill(self, process: Process, held: int) -> None:
        try:
            identity.sever(held, process.pid, self.socket)
        except OSError as why:
            _log.info("%s: the connections of its tap stay until it is dead: %s", self._label, why)
        if not identity.kill(held, DYING):
            raise errors.DeviceFailed(
                f"the tap of {self._label}, process {process.pid}, hangs in the kernel: the medium of {self.spool} does"
                " not answer"
            )

    def discard(self) -> None:
        """As Keeper.discard."""
        self.own()
        process = self.alive()
        if process is not None:
            raise errors.InUse(f"the tap of {self._label} runs still, as process {process.pid}: end it first")
        linux.remove_tree(self.home)
        self.close()

    def close(self) -> None:
        """Let go of it.  Repeatable."""
        self._hang_up()
        if self._hold is not None:
            self._hold.close()
            self._hold = None

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


def _check(order: Order) -> None:
    """Raises Usage for what a tap would refuse."""
    try:
        orders.parse({name: getattr(order, name) for name in Order.__slots__})
    except ValueError as why:
        raise errors.Usage(f"no tap can have this order: {why}") from why


def _last(log: Path) -> str:
    """The last line of it."""
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        return (file.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
