"""A connection to the ledger's database, and its errors as LedgerErrors."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psycopg
from psycopg import errors, sql
from pydantic import SecretStr
from pydantic_core import PydanticCustomError

from tocsin.errors import LedgerError, LedgerReason
from tocsin.faults import must_end
from tocsin.ledger.postgres.clock import ServerClock
from tocsin.ledger.postgres.values import Text
from tocsin.postgres import (
    Name,
    PgConnection,
    Positive,
    Server,
    SettingsMade,
    about_limit,
    about_login,
    close,
    connected,
    failure_fix,
    failure_text,
    still_works,
    within,
    without_password,
)
from tocsin.redaction import redactor
from tocsin.settings import secret_file

T = TypeVar("T")


_FORGOTTEN = 10.0
"""Seconds after which each side ends a connection that a firewall has forgotten: the server one in the middle of a
transaction, whose locks others wait for, and the client one without an answer of the other machine."""


class LedgerServer(Server):
    """The PostgreSQL that holds the ledger."""

    settings_made: ClassVar[SettingsMade] = "in transactions"

    namespace: Name = "tocsin"
    """The schema of its tables, which belongs to Tocsin alone."""
    lease: Positive = 2.0
    """How long a process that no longer reaches the database keeps others from taking over."""
    timeout: Positive = 60.0
    """How long one transaction may take. After that the connection is closed, and the transaction is tried again."""
    connect_timeout: Positive = 3.0
    """How long one attempt to connect, or a short query, may take."""
    password_from: Path | None = None
    """The file with the `dsn`, of which the password may change while the process runs."""

    def _own_settings(self) -> dict[str, str]:
        return {
            "search_path": sql.SQL("{}, pg_temp").format(sql.Identifier(self.namespace)).as_string(None),
            "idle_in_transaction_session_timeout": f"{round(min(self.timeout, _FORGOTTEN) * 1000)}ms",
            "statement_timeout": f"{round(self.timeout * 1000)}ms",
            "lock_timeout": "0",  # the time of the statement is limited
            "extra_float_digits": "1",  # otherwise times are read without their last digits
            # Every statement finds its rows by an index. Tables that have just grown look small to the planner, which
            # would read the whole of them.
            **dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"), "off"),
        }

    def _target(self) -> dict[str, str]:
        target = {"tcp_user_timeout": f"{round(_FORGOTTEN * 1000)}", **super()._target()}
        several = "," in target.get("host", "") + target.get("hostaddr", "")
        return {"target_session_attrs": "read-write", **target} if several else target

    def with_renewed_password(self) -> "LedgerServer":
        """The server with the password that `password_from` has now. Whatever else has changed in it is for the next
        start: another database is another ledger."""
        if self.password_from is None or self.dsn is None:
            return self
        try:
            renewed = SecretStr(secret_file(self.password_from))
            same = without_password(renewed) == without_password(self.dsn)
        except (PydanticCustomError, ValueError):
            return self
        return self.model_copy(update={"dsn": renewed}) if same else self


def begin(server: LedgerServer, sessions: str = "") -> list[str]:
    """The statements that begin a transaction. `sessions`: the name by which others find what was left open."""
    if sessions:
        server = server.model_copy(update={"options": {**server.options, "application_name": sessions}})
    return [statement.as_string(None) for statement in server.beginning()]


@asynccontextmanager
async def in_settings(connection: PgConnection, server: LedgerServer) -> AsyncIterator[None]:
    """A transaction with the settings of the ledger, whatever the defaults of the role or the database are."""
    async with connection.transaction():
        await connection.execute(sql.SQL("; ").join(server.beginning()[1:]))
        yield


def sessions_of(server: LedgerServer, epoch: int, role: str) -> str:
    """The `application_name` of transactions of a process: those of one role have one connection at a time."""
    name = server.namespace
    if not _SHOWN.fullmatch(name):  # the server shortens long names, and replaces other characters
        name = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"tocsin {epoch} {role} {name}"


def sessions_of_any(server: LedgerServer) -> tuple[str, ...]:
    """As `sessions_of` for all roles, with `%s` for the epoch."""
    names = [sessions_of(server, 0, role).replace("%", "%%") for role in ("writer", "meeting")]
    return tuple(name.replace(" 0 ", " %s ", 1) for name in names)


_SHOWN = re.compile(r"[ -~]{1,30}")


class Link:
    """One connection, opened again after it was lost."""

    def __init__(self, server: LedgerServer, clock: ServerClock | None = None, sessions: str = "") -> None:
        """`clock`: measured over this connection, when it is new and now and then. `sessions`: see `begin`."""
        self.sessions = sessions
        self._server = server
        self._clock = clock
        self._connection: PgConnection | None = None
        self._running: asyncio.Task[Any] | None = None

    @property
    def lost(self) -> bool:
        """Whether there is no connection."""
        return self._connection is None or self._connection.closed

    async def get(self) -> PgConnection:
        """The connection. Raises psycopg.Error, TimeoutError, OSError."""
        if self._connection is not None and not self.lost and not still_works(self._connection):
            await close(self._connection)  # ended while it was idle
        if new := self.lost:
            self._server = self._server.with_renewed_password()
            self._connection = await connected(self._server)
            await self._connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            self._connection.adapters.register_loader("text", Text)
        connection = self._connection
        assert connection is not None
        if new and self.sessions:
            await within(self._server.connect_timeout, connection, _end_former(connection, self.sessions))
        if self._clock is not None and (new or self._clock.due):
            await within(self._server.connect_timeout, connection, self._clock.measure(lambda: _time_of(connection)))
        return connection

    async def run(self, seconds: float, work: Callable[[PgConnection], Awaitable[T]]) -> T:
        """Do some work on the connection, within some seconds once there is one. Raises what `get` and `work` raise,
        and TimeoutError."""
        connection = await self.get()

        async def timed() -> T:
            return await within(seconds, connection, work(connection))

        self._running = running = asyncio.create_task(timed())  # which may be cancelled before it begins
        try:
            return await running
        except errors.ReadOnlySqlTransaction:
            await close(connection)  # it has become a standby; the next connection may reach the server that writes
            raise
        except asyncio.CancelledError as error:
            if must_end(error):
                raise
            connection.pgconn.finish()  # given up, maybe before it began
            raise TimeoutError from None
        finally:
            self._running = None

    def give_up(self) -> None:
        """End the connection and what is being done on it: the server is silent."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()  # first: the library may be about to go on with an answer, and must find its connection
        elif self._connection is not None:
            self._connection.pgconn.finish()

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


async def _end_former(connection: PgConnection, sessions: str) -> None:
    """End what a lost connection left on the server: until that notices, it may hold locks that others wait for."""
    await connection.execute(_END_FORMER, (sessions,))


_END_FORMER = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = %s AND pid <> pg_backend_pid() AND usename = current_user AND datname = current_database()
"""


async def _time_of(connection: PgConnection) -> float:
    cursor = await connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0]) / 1_000_000


ENDED = {
    "TCFEN": "another process has taken over; this one writes nothing any more",
    "TCLST": "the database has lost what was committed last: it was restored from a backup, or a standby was promoted"
    " that did not have it yet; starting again from what is there",
}
"""The SQLSTATEs of `renew` after which this process must end, and what they mean."""

LATE = "TCLAT"
"""The SQLSTATE of `progress` where the ledger is not what it was."""
_LATE = "a commit that was given up has arrived after all; reading the ledger again"

_MISSING = (
    "the tables are not found: they were dropped, or the role may not use their schema any more; run the SQL of"
    " `tocsin sql ledger`, or restore the schema"
)
_MEANINGS: tuple[tuple[tuple[type[psycopg.Error], ...], LedgerReason, str], ...] = (
    ((errors.DiskFull,), LedgerReason.FULL, "the server's disk is full; free some space, nothing is lost meanwhile"),
    (
        (errors.InsufficientPrivilege,),
        LedgerReason.UNREADABLE,
        "the role may not do that; run the SQL of `tocsin sql ledger`",
    ),
    ((errors.ReadOnlySqlTransaction,), LedgerReason.UNREADABLE, "the server is a standby or read-only"),
    (
        (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction, errors.InvalidSchemaName),
        LedgerReason.CORRUPT,
        _MISSING,
    ),
    (
        (errors.UntranslatableCharacter,),
        LedgerReason.FAILED,
        "the encoding of the database lacks a character; `tocsin ledger copy` to a database with ENCODING 'UTF8'",
    ),
    (
        (errors.DataCorrupted, errors.IndexCorrupted),
        LedgerReason.CORRUPT,
        "the server's data is damaged; restore it from a backup",
    ),
)
_FULL = "the server takes no more connections; allow this role more of them, there or in the pooler"
_LOGIN = "correct the role or its password, here or on the server"
_NO_DATABASE = "there is no such database; create it, or correct the URL"
_STANDBY = "no server of the URL accepts writes"


def ledger_error(error: Exception, server: LedgerServer) -> LedgerError:
    """Describe an error of reading or writing the ledger."""
    if isinstance(error, psycopg.Error) and (ended := ENDED.get(error.sqlstate or "")):
        return LedgerError(f"{server.display}: {ended}", LedgerReason.FENCED)
    if isinstance(error, psycopg.Error) and error.sqlstate == LATE:
        return LedgerError(f"{server.display}: {_LATE}", LedgerReason.FAILED)
    if isinstance(error, (TimeoutError, errors.ConnectionTimeout)):
        return LedgerError(f"{server.display}: no answer in time", LedgerReason.SILENT)
    hidden = redactor([secret for secret in (server.password, server.dsn, server.dsn_password) if secret])
    reason, meaning = _meaning(error, failure_text(error))
    text = hidden(failure_text(error))
    return LedgerError(f"{server.display}: " + (f"{meaning} ({text})" if meaning else text), reason)


def _meaning(error: Exception, text: str) -> tuple[LedgerReason, str]:
    for kinds, reason, meaning in _MEANINGS:
        if isinstance(error, kinds):
            return reason, meaning
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:  # libpq passes none of a failed login
        if about_limit(text):
            return LedgerReason.FAILED, _FULL
        if about_login(text):
            return LedgerReason.UNREADABLE, f"the login is refused; {failure_fix(text) or _LOGIN}"
        if re.search(r'database ".*" does not exist', text):
            return LedgerReason.UNREADABLE, _NO_DATABASE
        if "session is read-only" in text:
            return LedgerReason.FAILED, _STANDBY
        return LedgerReason.FAILED, failure_fix(text)
    return LedgerReason.FAILED, ""
