"""The numbers of the NBD protocol (proto.md of the NBD project), and its two kinds of fault.  All are big-endian."""

from __future__ import annotations

import enum
import errno

from engine import errors

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OLDSTYLE = 0x00420281861253
OPTION_REPLY = 0x3E889045565A9
REQUEST = 0x25609513
SIMPLE_REPLY = 0x67446698
STRUCTURED_REPLY = 0x668E33EF

LONGEST_STRING = 4096
"""Bytes of a name or a message, by proto.md."""

MOST_DATA = 32 << 20
"""Bytes of one READ or WRITE where the server says nothing else, by proto.md."""

MOST_LENGTH = 0xFFFFFFFF
"""Bytes that one request can name at all (without extended headers)."""

ALLOCATION = "base:allocation"
HOLE, ZERO = 1, 2
DIRTY = "qemu:dirty-bitmap:"
"""What the name of a bitmap follows (QEMU, docs/interop/nbd.rst)."""
IS_DIRTY = 1
"""Flags of an extent in the context base:allocation."""


class Handshake(enum.IntFlag):
    """What the server, and the same bits what the client, sends first."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Transmission(enum.IntFlag):
    """What an export can do."""

    NONE = 0
    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Option(enum.IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class Reply(enum.IntEnum):
    """Types of an option's reply; from ERROR on they refuse it."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERROR = 1 << 31
    UNSUP = ERROR + 1
    POLICY = ERROR + 2
    INVALID = ERROR + 3
    PLATFORM = ERROR + 4
    TLS_REQD = ERROR + 5
    UNKNOWN = ERROR + 6
    SHUTDOWN = ERROR + 7
    BLOCK_SIZE_REQD = ERROR + 8
    TOO_BIG = ERROR + 9


class Info(enum.IntEnum):
    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(enum.IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class Flag(enum.IntFlag):
    """Of a request."""

    NONE = 0
    FUA = 1
    NO_HOLE = 2
    DF = 4
    REQ_ONE = 8
    FAST_ZERO = 16


DONE = 1
"""Flag of a chunk: the last of its reply."""


class Chunk(enum.IntEnum):
    """Types of a structured reply's chunk; with the top bit they are errors, known or not."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = (1 << 15) + 1
    ERROR_OFFSET = (1 << 15) + 2


CHUNK_ERROR = 1 << 15

ERRNO = {
    1: errno.EPERM,
    5: errno.EIO,
    12: errno.ENOMEM,
    22: errno.EINVAL,
    28: errno.ENOSPC,
    75: errno.EOVERFLOW,
    95: errno.ENOTSUP,
    108: errno.ESHUTDOWN,
}
"""Error values on the wire, whose numbers are Linux's whatever this host's are; any other means EINVAL."""


class ProtocolError(errors.DeviceFailed):
    """The peer does not speak NBD as it should: nothing more can be believed, the connection is dropped."""


class RequestError(errors.DeviceFailed):
    """The peer refused or failed one request; the connection lives on.  `errno` is this host's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number
