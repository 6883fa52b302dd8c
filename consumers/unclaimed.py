"""Streams that other sites have and this one did not take, each with why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schemas.control import Present

log = logging.getLogger("vmferry.daemon")
SILENT = 300.0
"""Seconds after which a stream that its source says nothing of any more is no matter of ours."""


@dataclass(frozen=True, slots=True)
class Stream:
    """`forgotten`: this site had it and gave it up, so that nobody need be told.  `heard` by the clock of Unclaimed."""

    said: Present
    why: str
    forgotten: bool
    heard: float


class Unclaimed:
    """By the UUID of each.  `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._streams: dict[str, Stream] = {}

    def refuse(self, name: str, said: Present, why: str, forgotten: bool = False) -> None:
        """It is not taken.  Said aloud when that is new."""
        before = self._streams.get(name)
        if before is None or before.why != why:
            # What was not looked at is taken a little later, most likely.
            level = logging.WARNING if said.volumes and not forgotten else logging.INFO
            log.log(level, "stream %s/%s (%s) is not taken: %s", said.site, said.label, name, why)
        self._streams[name] = Stream(said, why, forgotten, self._clock())

    def drop(self, name: str) -> None:
        """It was taken, or is gone."""
        self._streams.pop(name, None)

    def named(self, name: str) -> dict[str, Stream]:
        """Those of that label or UUID."""
        return {one: stream for one, stream in self.all().items() if name in (one, stream.said.label)}

    def all(self) -> dict[str, Stream]:
        """Those that were heard of lately."""
        oldest = self._clock() - SILENT
        self._streams = {name: one for name, one in self._streams.items() if one.heard >= oldest}
        return dict(self._streams)

    def told(self) -> list[dict[str, Any]]:
        """What `status` says of them."""
        return [
            {
                "stream": name, "label": one.said.label, "site": one.said.site, "state": "unclaimed", "why": one.why,
                "forgotten": one.forgotten, "path": "", "restarts": 0,
                "disks": [{"name": disk.name, "path": "", "size": disk.size} for disk in one.said.volumes],
            }
            for name, one in self.all().items()
        ]  # fmt: skip
