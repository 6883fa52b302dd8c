"""The tap's process: one thread that answers NBD and its control socket, one that makes the spool durable.

SIGTERM lets it end once no client is attached, so that a daemon, or a manager, that is stopped never touches a
mirror; a second one, or `end` by the control socket, lets it end at once.  Either way the spool is made durable.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import socket
import time
from dataclasses import asdict
from types import FrameType
from typing import Any

from engine import errors
from engine.nbd.constants import Transmission
from engine.nbd.handshake import Export
from engine.nbd.server import Server
from producers.tap import identity
from producers.tap.control import Ask, Control
from producers.tap.order import Ack, Order
from producers.tap.sequencer import Sequencer
from producers.tap.writer import Writer

FLAGS = (
    Transmission.HAS_FLAGS
    | Transmission.SEND_FLUSH
    | Transmission.SEND_FUA
    | Transmission.SEND_TRIM
    | Transmission.SEND_WRITE_ZEROES
    | Transmission.SEND_FAST_ZERO
)
"""All of it is true: zeros are a record of 16 bytes.  Not CAN_MULTI_CONN: one connection per disk keeps its order."""

CONTROL_VERSION = 1
"""Of what the control socket is asked and says: a tap outlives the upgrade of the daemon that began it."""

PATIENCE = 10.0
"""Seconds that an orderly end waits for the medium."""

_log = logging.getLogger("vmferry.tap")


class Tap:
    """Made by its order, run once.  Raises InUse when another has the spool or the sockets, Full, Usage, Damaged."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._selector = selectors.DefaultSelector()
        self._asked_to_end = 0
        self._wake, self._waked = socket.socketpair()
        for one in (self._wake, self._waked):
            one.setblocking(False)
        self._selector.register(self._waked, selectors.EVENT_READ, self._awake)
        # On the way to the bus nothing waits longer than it has to.
        commit_every = 0.0 if order.ack is Ack.BUS else order.sync_every
        self._writer = Writer(order.spool, order.quota, commit_every, self._tell, order.first)
        self._sequencer = Sequencer(order, self._writer)

    def run(self) -> None:
        """Until it is told to end."""
        self._begin()
        exports = {name: Export(name, size, FLAGS) for name, size in self._order.disks.items()}
        control = self._control = Control(self._selector, self._order.control, self._commands())
        try:
            self._server = self._serve(exports)
            _log.info("a tap for %s", ", ".join(exports))
            gc.freeze()
            while not self._ended():
                self._turn()
            _log.info("the tap ends")
            self._server.close()
        finally:
            control.close()
        self._settle()
        self._writer.close(PATIENCE)

    def _serve(self, exports: dict[str, Export]) -> Server:
        order = self._order
        return Server(self._selector, order.socket, exports, self._sequencer, order.mode, order.group)

    def _begin(self) -> None:
        """Have it durable that this incarnation began, before anybody can attach: no number of it is ever used again,
        and who finds writes knows which disks they are of."""
        self._sequencer.begin()
        self._settle()
        if self._sequencer.broken or self._writer.durable < self._writer.number:
            why = self._sequencer.broken.why if self._sequencer.broken else f"not durable after {PATIENCE:g} s"
            raise errors.DeviceFailed(f"{self._order.spool}: a tap cannot begin here: {why}")
        identity.save(self._order.spool, identity.me(), self._sequencer.nonce)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._terminated)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _turn(self) -> None:
        """Everything that has come, then one append and the replies."""
        for key, events in self._selector.select(self._sequencer.tick()):
            key.data(events)
        self._sequencer.commit()

    def _ended(self) -> bool:
        return self._asked_to_end > 1 or (self._asked_to_end == 1 and not self._server.attached)

    def _settle(self) -> None:
        """Make all durable that was appended, within PATIENCE."""
        until = time.monotonic() + PATIENCE
        while not self._writer.spent and self._writer.durable < self._writer.number:
            if time.monotonic() > until:
                _log.error("%s: what was appended last is not durable after %g s", self._order.spool, PATIENCE)
                return
            if self._writer.unsynced:
                self._writer.sync()
            self._selector_wait()

    def _selector_wait(self) -> None:
        for key, events in self._selector.select(0.1):
            if key.fileobj is self._waked:
                key.data(events)
        self._sequencer.synced()

    def _terminated(self, _number: int, _frame: FrameType | None) -> None:
        self._asked_to_end += 1

    def _tell(self) -> None:
        """From the other thread: something was made durable."""
        try:
            self._wake.send(b"\0")
        except BlockingIOError:
            _log.debug("woken already")

    def _awake(self, _events: int) -> None:
        self._waked.recv(4096)
        self._sequencer.synced()

    # What the control socket is asked.

    def _commands(self) -> dict[str, Any]:
        return {
            "ping": self._ping,
            "status": self._status,
            "bus": self._bus,
            "mark": self._mark,
            "end": self._end,
        }

    def _ping(self, _asked: Ask) -> Ask:
        return {"attached": len(self._server.attached), "number": self._writer.number}

    def _status(self, _asked: Ask) -> Ask:
        sequencer, writer, replies = self._sequencer, self._writer, self._sequencer.replies
        clients = [one.codec.export.name for one in self._server.connections if one.codec is not None]
        return {
            "version": CONTROL_VERSION,
            "pid": os.getpid(),
            "incarnation": sequencer.nonce.hex(),
            "disks": self._order.disks,
            "attached": {name: clients.count(name) for name in self._order.disks},
            "callers": self._control.callers,
            "number": writer.number,
            "durable": writer.durable,
            "on_bus": replies.on_bus,
            "fill": writer.fill(),
            "quota": self._order.quota,
            "ordered": self._order.ack.value,
            "policy": replies.policy.value,
            "why": replies.fallen,
            "held": replies.held,
            "slowest_ms": round(replies.slowest * 1000, 3),
            "broken": asdict(sequencer.broken) if sequencer.broken else None,
            "ending": bool(self._asked_to_end),
        }

    def _bus(self, asked: Ask) -> Ask:
        """All below "number" is on the bus."""
        self._sequencer.replies.bus(int(asked["number"]))
        return {}

    def _mark(self, asked: Ask) -> Ask:
        return {"number": self._sequencer.mark(str(asked["words"]))}

    def _end(self, _asked: Ask) -> Ask:
        self._asked_to_end = 2
        return {}
