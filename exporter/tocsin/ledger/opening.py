"""Opening a SQLite file as a ledger: one process, current tables, and errors that say what to do."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.schema import MIGRATIONS
from tocsin.ledger.tables import unfinished


def one(db: sqlite3.Connection, statement: str, *arguments: object) -> Any:
    """The first column of the first row, or None."""
    found = db.execute(statement, arguments).fetchone()
    return None if found is None else found[0]


def connect(path: Path) -> sqlite3.Connection:
    """A connection that may be used in other threads, and whose commits are on disk when they return."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    connection.execute("PRAGMA synchronous = FULL")
    # Fingerprints and ids are hashes, so every batch writes pages all over its tables. With room for the pages of
    # several batches (16 MiB each, against 2 and 4) a page is written back once, not once for each batch.
    connection.execute("PRAGMA cache_size = -16384")
    # Twice what `checkpoints.py` leaves under load. The file keeps its largest size.
    connection.execute("PRAGMA wal_autocheckpoint = 8192")
    return connection


def lock_file(path: Path) -> IO[str]:
    """Hold `<path>.lock` for the life of the process. A file of its own: SQLite's locks on the database are POSIX
    locks, which a process loses when it closes any descriptor of the same file."""
    try:
        lock = path.with_name(path.name + ".lock").open("a+")
    except OSError as error:
        raise LedgerError(
            f"{path}: cannot be written: {error.strerror}; choose another ledger.path or fix the permissions",
            LedgerReason.UNREADABLE,
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise LedgerError(
            f"{path}: in use by another tocsin (process {holder or 'unknown'}); "
            "stop it, or give this one its own ledger.path",
            LedgerReason.LOCKED,
        ) from None
    # Only for the error above. On a full disk it fails, which the database reports.
    with contextlib.suppress(OSError):
        lock.truncate(0)
        os.write(lock.fileno(), f"{os.getpid()}\n".encode())
    return lock


def copied_from(db: sqlite3.Connection) -> str | None:
    """What is being copied into this file, if that has not ended."""
    if one(db, "SELECT 1 FROM sqlite_schema WHERE name = 'copying'") is None:
        return None
    return str(one(db, "SELECT source FROM copying"))


def migrate(connection: sqlite3.Connection, path: Path, *, allowed: bool, copying: bool = False) -> None:
    """Bring the tables up to date if that is `allowed`: an older process may be running on the file. Raises LedgerError
    for a file of another version, for one that is not a ledger, and unless `copying` for an unfinished copy."""
    if not copying and (source := copied_from(connection)) is not None:
        raise LedgerError(f"{path}: {unfinished(source)}", LedgerReason.LOCKED)
    version: int = one(connection, "PRAGMA user_version")
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"{path}: written by a newer version of Tocsin (tables {version}, this one knows {len(MIGRATIONS)}); "
            "run that version, or start with an empty ledger.path",
            LedgerReason.NEWER,
        )
    if version == 0 and one(connection, "SELECT count(*) FROM sqlite_schema"):
        raise LedgerError(f"{path}: a database, but not a ledger; choose another ledger.path", LedgerReason.CORRUPT)
    if version < len(MIGRATIONS) and not allowed:
        raise LedgerError(
            f"{path}: written by an older version of Tocsin; `tocsin run` brings it up to date", LedgerReason.OLDER
        )
    for number in range(version, len(MIGRATIONS)):
        # One transaction for a step and its number: after a crash the file has the version that it names.
        script = f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
        with _rolled_back(connection):
            connection.executescript(script)


@contextlib.contextmanager
def _rolled_back(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


_DAMAGED = "the file is damaged; restore it from a backup, or move it away to start from scratch"
_MEANINGS = {
    "SQLITE_FULL": (LedgerReason.FULL, "the disk is full; free some space, nothing is lost meanwhile"),
    "SQLITE_CORRUPT": (LedgerReason.CORRUPT, _DAMAGED),
    "SQLITE_ERROR": (LedgerReason.CORRUPT, _DAMAGED),  # a table or column is missing: the statements are tested
    "SQLITE_NOTADB": (LedgerReason.CORRUPT, "not a ledger; move the file away or choose another ledger.path"),
    "SQLITE_READONLY": (LedgerReason.UNREADABLE, "the file cannot be written; fix its permissions"),
    "SQLITE_CANTOPEN": (LedgerReason.UNREADABLE, "the file cannot be opened; check that its directory is writable"),
    "SQLITE_IOERR": (LedgerReason.FAILED, "the disk reports an error"),
    "SQLITE_BUSY": (LedgerReason.LOCKED, "another process holds the file; stop it"),
    "SQLITE_LOCKED": (LedgerReason.LOCKED, "another process holds the file; stop it"),
}


def ledger_error(error: Exception, path: Path) -> LedgerError:
    """Describe an error of reading or writing the file.

    SQLite keeps no checksums, so damage to a text shows only when a value is read: an error that is not SQLite's own
    means that a value is not what was written. (SQLite's message may quote it, and then cannot be decoded.)
    """
    name = getattr(error, "sqlite_errorname", None)
    if name is None:
        return LedgerError(f"{path}: {_DAMAGED} (a value cannot be read)", LedgerReason.CORRUPT)
    text = " ".join(str(error).split())  # one line, also where it quotes a statement
    for code, (reason, meaning) in _MEANINGS.items():
        if name == code or name.startswith(f"{code}_"):
            return LedgerError(f"{path}: {meaning} ({text})", reason)
    return LedgerError(f"{path}: {text}", LedgerReason.FAILED)
