"""What sites say of themselves on the control topic: hints, repeated for as long as they hold, and lost at will."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.identity import Volume


@dataclass(frozen=True, slots=True)
class Present:
    """A source has this stream, now.  Who never heard of it may ask for it, and whose replica is at `epoch` knows that
    it was equal to the source `age` milliseconds ago: a duration, so that no two clocks have to agree."""

    site: str
    label: str
    "What the stream is called at its site; the UUID in the header is what it is."
    volumes: tuple[Volume, ...]
    "Its disks; empty while the source has not been looked at."
    epoch: int
    "The last that is sealed; 0: none."
    age: int
    "Milliseconds since the source was last seen to be what `epoch` says."
    sent: int
    "The clock of the source's site in nanoseconds since 1970, to tell by how much clocks differ."
    gone: bool = False
    "The source has forgotten the stream, and will not go on with it."


Control = Present
