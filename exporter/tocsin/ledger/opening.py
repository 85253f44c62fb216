"""Opening a SQLite file as a ledger: one process, the right tables, and errors that say what to do."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.schema import MIGRATIONS


def one(db: sqlite3.Connection, statement: str, *arguments: object) -> Any:
    """The first column of the first row, or None."""
    found = db.execute(statement, arguments).fetchone()
    return None if found is None else found[0]


def connect(path: Path) -> sqlite3.Connection:
    """A connection that may be handed from thread to thread, and whose commits are on disk when they return."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    connection.execute("PRAGMA synchronous = FULL")
    # Fingerprints and ids are hashes, so every batch writes all over its tables. With room for the pages of several
    # batches (16 MiB each, against 2 and 4) they go back to the file once, and not once for each batch.
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA wal_autocheckpoint = 4096")
    return connection


def lock_file(path: Path) -> IO[str]:
    """Hold `<path>.lock` for the life of the process. A file of its own: SQLite's locks on the database are POSIX
    locks, which a process loses when it closes any descriptor of the same file."""
    try:
        lock = path.with_name(path.name + ".lock").open("a+")
    except OSError as error:
        raise LedgerError(
            f"{path}: cannot be written: {error.strerror}; choose another ledger.path or mend the permissions",
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
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def migrate(connection: sqlite3.Connection, path: Path, *, allowed: bool) -> None:
    """Bring the tables up to this version's, if that is `allowed`: only the process that runs alerts may, since an
    older one may be running on the file. Raises LedgerError for a file of another version, or one that is no ledger."""
    version: int = one(connection, "PRAGMA user_version")
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"{path}: written by a newer version of Tocsin (tables {version}, this one knows {len(MIGRATIONS)}); "
            "run that version, or start with an empty ledger.path",
            LedgerReason.NEWER,
        )
    if version == 0 and one(connection, "SELECT count(*) FROM sqlite_schema"):
        raise LedgerError(
            f"{path}: a database, but not a ledger of Tocsin's; choose another ledger.path", LedgerReason.CORRUPT
        )
    if version < len(MIGRATIONS) and not allowed:
        raise LedgerError(
            f"{path}: written by an older version of Tocsin; `tocsin run` brings it up to date", LedgerReason.OLDER
        )
    for number in range(version, len(MIGRATIONS)):
        # One transaction for a step and its number: a crash between statements leaves the file at the version it says.
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


_DAMAGED = "the file is damaged; restore it from a backup, or move it away to start afresh"
_MEANINGS: tuple[tuple[str, LedgerReason, str], ...] = (
    ("full", LedgerReason.FULL, "the disk is full; make room, nothing is lost meanwhile"),
    ("malformed", LedgerReason.CORRUPT, _DAMAGED),
    ("no such", LedgerReason.CORRUPT, _DAMAGED),  # a table or column: our statements are right, so the schema is not
    ("not a database", LedgerReason.CORRUPT, "the file is no ledger; move it away or choose another ledger.path"),
    ("readonly", LedgerReason.UNREADABLE, "the file cannot be written; mend its permissions"),
    (
        "unable to open",
        LedgerReason.UNREADABLE,
        "the file cannot be opened; does its directory exist, and may we write there?",
    ),
    ("disk I/O error", LedgerReason.FAILED, "the disk reports an error"),
    ("locked", LedgerReason.LOCKED, "another process holds the file; stop it"),
)


def ledger_error(error: Exception, path: Path) -> LedgerError:
    """What an error on the way to or from the file means to the person who runs Tocsin.

    Whatever is not SQLite's own error is a value that is not what was written. SQLite keeps no checksums, so damage to
    a text shows only when somebody reads it (SQLite's message too can quote garbage, which then cannot be decoded).
    """
    text = " ".join(str(error).split())  # one line, also where it quotes a statement
    if not isinstance(error, sqlite3.Error) or text.startswith("Could not decode"):
        return LedgerError(f"{path}: {_DAMAGED} (a value cannot be read)", LedgerReason.CORRUPT)
    for mark, reason, meaning in _MEANINGS:
        if mark in text:
            return LedgerError(f"{path}: {meaning} ({text})", reason)
    return LedgerError(f"{path}: {text}", LedgerReason.FAILED)
