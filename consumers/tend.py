"""What an operator asks of one replica of a running daemon.  Its job rests meanwhile, and goes on with what is then."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from consumers import leave, move, renew, upkeep
from consumers.serve import Replica
from engine import errors
from engine.cli import kept
from engine.daemon.chores import Chore, Chores, Told
from engine.daemon.daemon import Answer, Request, text


class Tended(Protocol):
    """What is needed of the daemon."""

    def find(self, name: str) -> Replica: ...

    def resting(self, one: Replica, words: str) -> contextlib.AbstractAsyncContextManager[None]: ...

    def dropped(self, one: Replica) -> None: ...


Step = Callable[[Replica, Request, Told], Awaitable[Answer]]


class Tend:
    """The requests, by name; each is a chore."""

    def __init__(self, daemon: Tended, chores: Chores) -> None:
        self._daemon, self._chores = daemon, chores

    def requests(self) -> dict[str, Callable[[Request], Awaitable[Answer]]]:
        """For Daemon.doing."""
        steps: dict[str, Step] = {
            "release": _release, "acquire": _acquire, "rewind": _rewind, "unhold": _unhold, "verify": _verify,
            "recover": _recover, "move": _move,
        }  # fmt: skip
        return {name: self._request(name, step) for name, step in steps.items()} | {
            "forget": self._forget, "chore": self._look
        }  # fmt: skip

    def _request(self, name: str, step: Step) -> Callable[[Request], Awaitable[Answer]]:
        async def begin(asked: Request) -> Answer:
            one = self._daemon.find(text(asked, "stream"))

            async def run(told: Told) -> Answer:
                async with self._daemon.resting(one, f"`{name}` by an operator"):
                    return await step(one, asked, told)

            return _begun(self._chores.begin(one.stream.stream, f"{name} {one.stream.label}", _size(one), run))

        return begin

    async def _forget(self, asked: Request) -> Answer:
        one, purge = self._daemon.find(text(asked, "stream")), bool(asked.get("purge"))

        async def run(_told: Told) -> Answer:
            async with self._daemon.resting(one, "`forget` by an operator"):
                found, note = await leave.forget(one.where, one.record, purge)
                self._daemon.dropped(one)
            return kept.forgotten(one.stream, found, note, purge)

        return _begun(self._chores.begin(one.stream.stream, f"forget {one.stream.label}", 0, run))

    async def _look(self, asked: Request) -> Answer:
        found = self._chores[asked.get("chore")]
        return {
            "chore": found.number, "words": found.words, "total": found.total, "done": found.done, "ended": found.ended,
            "said": found.said, "failed": found.error, "message": found.message,
        }  # fmt: skip


def _begun(chore: Chore) -> Answer:
    return {"chore": chore.number, "words": chore.words, "total": chore.total}


def _size(one: Replica) -> int:
    return kept.size(one.where, one.record)


async def _release(one: Replica, _asked: Request, _told: Told) -> Answer:
    return kept.held(one.record, await upkeep.release(one.where, one.record, one.options.secret_file))


async def _acquire(one: Replica, _asked: Request, told: Told) -> Answer:
    done = await renew.acquire(one.where, one.stream, one.record, told, one.options.secret_file)
    return kept.acquired(one.record, done)


async def _rewind(one: Replica, asked: Request, _told: Told) -> Answer:
    epoch = asked.get("to")
    if not isinstance(epoch, int):
        raise errors.Usage('the number of an epoch is wanted in "to"')
    return kept.held(one.record, await upkeep.rewind(one.where, one.record, epoch, one.options.secret_file))


async def _unhold(one: Replica, _asked: Request, _told: Told) -> Answer:
    return kept.held(one.record, await upkeep.resume(one.where, one.record, one.options.secret_file))


async def _recover(one: Replica, _asked: Request, _told: Told) -> Answer:
    return kept.recovered(one.record, await upkeep.recover(one.where, one.record, one.options.secret_file))


async def _verify(one: Replica, asked: Request, told: Told) -> Answer:
    done = await upkeep.verify(
        one.where, one.record, told, sha256=bool(asked.get("sha256")), repair=bool(asked.get("repair")),
        secret_file=one.options.secret_file,
    )  # fmt: skip
    return kept.verified(one.stream, one.record, done)


async def _move(one: Replica, asked: Request, told: Told) -> Answer:
    goal = text(asked, "path")
    done = await move.move(
        one.where, one.record, goal, told, str(asked.get("format") or ""), one.options.secret_file,
        str(asked.get("disk") or ""),
    )  # fmt: skip
    return kept.moved(one.stream, done)
