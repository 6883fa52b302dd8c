"""How the mirrors of a machine are."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Phase(enum.Enum):
    NONE = "none"
    """No mirror of ours."""
    ARMING = "arming"
    """They run, and not all that was written is at the tap."""
    READY = "ready"
    """All that was written is at the tap, and every write is there before the guest hears that it is done."""
    STOPPED = "stopped"
    """The tap went away, and writes pass it by; `resume` heals it.  Each of them is an event of QEMU's, which libvirt
    reads: where no tap comes back within seconds, disarm."""
    BROKEN = "broken"
    """A mirror is not there: disarm, arm."""


@dataclass(frozen=True, slots=True)
class State:
    """`why` is for people."""

    phase: Phase
    why: str = ""


def lost(disks: list[str]) -> State:
    return State(Phase.BROKEN, f"the mirror of {', '.join(disks)} is not there any more")
