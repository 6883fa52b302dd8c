"""Where a fault ends: passing trouble is tried again, a wrong request is told to its user, divergence stops a stream.

`exit_code` is what the command line ends with; docs/EXIT-CODES.md is made of these.
"""


class FerryError(Exception):
    """Everything vmferry says on purpose.  The message names the object, the numbers and the way out."""

    exit_code = 1


class Usage(FerryError):
    """The request cannot be carried out as it was put."""

    exit_code = 2


class NotFound(FerryError):
    """No such stream, image, device or file."""

    exit_code = 3


class InUse(FerryError):
    """Another process holds the image, the replica or the stream."""

    exit_code = 4


class Full(FerryError):
    """A disk or a quota has no room; nothing that was acknowledged is lost."""

    exit_code = 5


class Transient(FerryError):
    """Passing trouble: a broker that is away, a lost connection.  Worth trying again."""

    exit_code = 6


class Divergence(FerryError):
    """Source and replica, or a replica and what it should hold, are provably not equal."""

    exit_code = 7


class Damaged(FerryError):
    """A store of ours does not read as it was written; it is left as it is, for `vmferry` to rebuild by digests."""

    exit_code = 8


class Newer(Damaged):
    """A file that a newer vmferry wrote.  It is left untouched, and never set aside."""

    def __init__(self, path: object, found: int, known: int) -> None:
        super().__init__(
            f"{path} is of version {found}, and this vmferry knows {known}: upgrade it. Nothing was touched"
        )


class Unsafe(FerryError):
    """A setting under which data could be lost.  Names the setting and the value to use."""

    exit_code = 9


class DeviceFailed(FerryError):
    """The medium failed a read, a write or a flush.  A failed flush is never retried: the process ends and recovers."""

    exit_code = 10


class Fenced(FerryError):
    """A newer producer owns the stream; this one has stopped."""

    exit_code = 11


class OffsetGone(FerryError):
    """The bus no longer holds this offset, or not yet.  `begin` and `end` say what it holds."""

    exit_code = 12

    def __init__(self, topic: str, offset: int, begin: int, end: int) -> None:
        super().__init__(f"{topic}: offset {offset} is not on the bus, which holds {begin} to {end}")
        self.offset, self.begin, self.end = offset, begin, end
