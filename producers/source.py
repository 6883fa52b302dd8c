"""What the main loop wants of a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine import ports
from schemas.identity import Cut, Volume


class Source(Protocol):
    """One or more disks that can be read at an instant.

    Between `begin` and `end` the content should not change; `cut` says whether that held.
    """

    @property
    def devices(self) -> Sequence[ports.BlockDevice]: ...

    async def begin(self) -> tuple[Volume, ...]:
        """Start a pass: the volumes as they are now.  Raises InUse when somebody may be writing to them."""

    async def cut(self) -> Cut:
        """How consistent all that was read since `begin` is: NONE when something changed meanwhile."""

    async def end(self) -> None:
        """The pass is over.  Repeatable."""
