"""What the main loop wants of a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine import ports
from schemas import events
from schemas.extent import Ranges
from schemas.identity import Cut, Volume


class Source(Protocol):
    """One or more disks that can be read at an instant.

    Between `begin` and `end` the content should not change; `cut` says whether that held.
    """

    @property
    def devices(self) -> Sequence[ports.BlockDevice]: ...

    @property
    def machine(self) -> events.Defined | None:
        """The machine that has these disks, as it was at the last `begin`; None where none is known."""

    def step(self) -> events.Stepped | None:
        """How it is captured from now on, where that has changed since it was asked last."""

    async def begin(self, cut: bool = True) -> tuple[Volume, ...]:
        """Start a pass: the volumes as they are now.  Raises InUse when somebody may be writing to them.

        Without `cut` no epoch will come of it: its sizes are wanted, and perhaps digests.
        """

    async def hints(self) -> Sequence[Ranges | None]:
        """Of each volume the bytes that may have changed since the last pass that was `kept`; None: any of them.

        Only within a pass.  What else is written there is never missed: a hint may name too much.
        """

    async def distrust(self, why: str) -> None:
        """A hint was found to name too little: of this pass, and until the next that is kept, none is given."""

    async def cut(self) -> Cut:
        """How consistent all that was read since `begin` is: NONE when something changed meanwhile."""

    async def kept(self) -> None:
        """All that this pass found is sealed and durable on the bus, and so is the map of it: the next hints are
        about what changed since its `begin`."""

    async def end(self) -> None:
        """The pass is over.  Repeatable."""


class Unhinted:
    """The part of a source that cannot tell what changed but by reading all of it."""

    devices: Sequence[ports.BlockDevice]
    machine: events.Defined | None = None

    def step(self) -> events.Stepped | None:
        """It has one way only."""
        return None

    async def hints(self) -> Sequence[Ranges | None]:
        return [None] * len(self.devices)

    async def distrust(self, why: str) -> None:
        raise AssertionError(f"no hint was given: {why}")

    async def kept(self) -> None:
        """Nothing is remembered."""
