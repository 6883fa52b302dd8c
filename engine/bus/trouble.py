"""What the operating system and SQLite say, as the errors of engine/errors.py."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from engine import errors

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


@contextmanager
def named(what: str) -> Iterator[None]:
    """Errors of the system that arise inside are raised as ours, saying that `what` failed."""
    try:
        yield
    except OSError as why:
        raise _of_system(what, why) from why
    except sqlite3.Error as why:
        raise _of_sqlite(what, why) from why


def _of_system(what: str, why: OSError) -> errors.FerryError:
    if why.errno in _NO_ROOM:
        return errors.Full(
            f"{what}: the disk has no room ({why.strerror}); free some or trim the log, then start again: "
            "all that was synced before is still there"
        )
    return errors.DeviceFailed(f"{what}: {why.strerror} (errno {why.errno})")


def _of_sqlite(what: str, why: sqlite3.Error) -> errors.FerryError:
    code = getattr(why, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _of_system(what, OSError(errno.ENOSPC, "No space left on device"))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return errors.Transient(f"{what}: another process holds it too long ({why})")
    if code in _DAMAGE:
        return errors.Damaged(
            f"{what}: {why}; it is only an index: stop all users of the log, delete it and start again"
        )
    return errors.DeviceFailed(f"{what}: {why}")
