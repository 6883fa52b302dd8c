"""A SQLite file of ours: opened durable, its version and integrity checked first, its troubles named.

WAL and synchronous=FULL: a transaction is on the medium when it returns.  Readers in other processes never block us.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlite_utils

from engine import errors, linux

VERSION = 2
"""Of the stores of both sides, and of the files beside them that have no room for one: maps, digests, and claims
(docs/FORMATS.md).  Whatever changes the meaning of their bytes raises it.  1 had no definitions of machines; a file of
an earlier version is given the tables that it lacks."""
_BUSY_SECONDS = 10.0
_INDEX = 64 << 10
"""Bytes: twice what SQLite's index takes at first.  It grows with every 16 MiB of WAL, which ours never has."""
_SIDES = ("", "-wal", "-shm")
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@contextmanager
def named(path: Path) -> Iterator[None]:
    """What SQLite and the system say inside is raised as ours, naming `path`."""
    try:
        yield
    except sqlite3.Error as why:
        raise _of_sqlite(path, why) from why
    except OSError as why:
        raise linux.failure(why, str(path), "open it", opening=True) from why


def _of_sqlite(path: Path, why: sqlite3.Error) -> errors.FerryError:
    code = getattr(why, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        free = linux.free_bytes(str(path)) or 0
        return errors.Full(f"{path}: no space left ({free:,} bytes free); free some, then start again")
    if code in _HELD:
        return errors.InUse(f"{path}: another process holds it for more than {_BUSY_SECONDS:.0f} s ({why})")
    if code in _DAMAGE:
        return errors.Damaged(f"{path}: {why}")
    return errors.DeviceFailed(f"{path}: {why}")


def open_database(path: Path, schema: str) -> sqlite_utils.Database:
    """The file at `path`, made with `schema` when it is not there, and brought to our version when it is older.

    Raises Newer for a later version's file, which is only read; Damaged when it is not whole; DeviceFailed, Full.
    """
    with named(path):
        if path.exists() and path.stat().st_size:
            _check(path)
        db = sqlite_utils.Database(_connect(path, "rwc"), execute_plugins=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found < VERSION:
                _create(db, schema)
            if not found:
                linux.sync_directory(str(path))
        except BaseException:
            db.close()
            raise
    return db


def open_read_only(path: Path) -> sqlite_utils.Database:
    """The file as it is, for a look that neither disturbs nor waits for whoever writes to it.

    Raises NotFound, Newer, Damaged, DeviceFailed.
    """
    if not path.exists():
        raise errors.NotFound(f"{path} is missing")
    with named(path):
        connection = _look(path)
        try:
            if not _check_version(path, connection):
                raise errors.Damaged(f"{path} holds no state")
        except BaseException:
            connection.close()
            raise
    return sqlite_utils.Database(connection, execute_plugins=False)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    if not mode.endswith("immutable=1"):
        _check_room(path)
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _look(path: Path) -> sqlite3.Connection:
    """Only to read.  Without a WAL nobody has it open: as it lies on the disk, and no file is made beside it."""
    return _connect(path, "ro" if os.path.exists(f"{path}-wal") else "ro&immutable=1")


def _check_room(path: Path) -> None:
    """SQLite maps an index of 32 KiB beside its WAL, and makes sure of a block of each page.  Where blocks are smaller
    than pages, the rest of one may find no room when it is touched, which is a SIGBUS for all of us."""
    found = os.statvfs(path.parent)
    free = found.f_bavail * found.f_frsize
    if found.f_frsize < linux.PAGE and free < _INDEX:
        raise errors.Full(f"{path}: no space left ({free:,} bytes free); free some, then start again")


def _check(path: Path) -> None:
    """Read only: a newer file must stay as it is, and a damaged one is evidence."""
    connection = _look(path)
    try:
        _check_version(path, connection)
        (health,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if health != "ok":
            raise errors.Damaged(f"{path} is not whole: {health}")
    finally:
        connection.close()


def _check_version(path: Path, connection: sqlite3.Connection) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        raise errors.Newer(path, found, VERSION)
    return found


def _create(db: sqlite_utils.Database, schema: str) -> None:
    """All tables that are not there, and the version, or nothing."""
    with db.atomic():
        for statement in filter(None, map(str.strip, schema.split(";"))):
            db.execute(statement.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1))
        db.execute(f"PRAGMA user_version = {VERSION}")


def set_aside(path: Path) -> Path:
    """Move a damaged file, with its WAL, to the first free PATH.damaged-N: never deleted.  Gives the new name."""
    number = next(n for n in range(1, 1 << 20) if not Path(f"{path}.damaged-{n}").exists())
    goal = Path(f"{path}.damaged-{number}")
    for side in reversed(_SIDES):
        if os.path.exists(f"{path}{side}"):
            os.rename(f"{path}{side}", f"{goal}{side}")
    linux.sync_directory(str(path))
    return goal
