"""A connection to the ledger's database, and its errors as LedgerErrors."""

from typing import ClassVar

import psycopg
from psycopg import errors, sql

from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.postgres.values import Text
from tocsin.postgres import Name, PgConnection, Positive, Server, SettingsMade, connected, failure_text
from tocsin.redaction import redactor


class LedgerServer(Server):
    """The PostgreSQL that holds the ledger."""

    settings_made: ClassVar[SettingsMade] = "in transactions"

    namespace: Name = "tocsin"
    """The schema of its tables, which belongs to Tocsin alone."""
    lease: Positive = 2.0
    """How long a process that no longer reaches the database keeps others from taking over."""
    timeout: Positive = 60.0
    """How long one transaction may take. After that the connection is closed, and the transaction is tried again."""

    def _own_settings(self) -> dict[str, str]:
        return {
            "search_path": sql.SQL("{}, pg_temp").format(sql.Identifier(self.namespace)).as_string(None),
            "idle_in_transaction_session_timeout": f"{round(self.timeout * 1000)}ms",
            "statement_timeout": f"{round(self.timeout * 1000)}ms",
            # Every statement finds its rows by an index. Tables that have just grown look small to the planner, which
            # would read the whole of them.
            **dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"), "off"),
        }


def begin(server: LedgerServer) -> list[str]:
    """The statements that begin a transaction."""
    return [statement.as_string(None) for statement in server.beginning()]


class Link:
    """One connection, opened again after it was lost."""

    def __init__(self, server: LedgerServer) -> None:
        self._server = server
        self._connection: PgConnection | None = None

    @property
    def lost(self) -> bool:
        """Whether there is no connection."""
        return self._connection is None or self._connection.closed

    async def get(self) -> PgConnection:
        """The connection. Raises psycopg.Error, TimeoutError, OSError."""
        if self._connection is None or self._connection.closed:
            self._connection = None
            self._connection = await connected(self._server)
            self._connection.adapters.register_loader("text", Text)
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


FENCED = "TCFEN"
"""The SQLSTATE of `renew` where another process has taken over."""

_MEANINGS: tuple[tuple[type[psycopg.Error], LedgerReason, str], ...] = (
    (errors.DiskFull, LedgerReason.FULL, "the server's disk is full; free some space, nothing is lost meanwhile"),
    (errors.TooManyConnections, LedgerReason.FAILED, "the server takes no more connections"),
    (
        errors.InsufficientPrivilege,
        LedgerReason.UNREADABLE,
        "the role may not do that; run the SQL of `tocsin sql ledger`",
    ),
    (errors.ReadOnlySqlTransaction, LedgerReason.UNREADABLE, "the server is a standby or read-only"),
    (errors.UndefinedTable, LedgerReason.CORRUPT, "a table is missing; restore it, or start with an empty schema"),
    (errors.UndefinedColumn, LedgerReason.CORRUPT, "a column is missing; restore it, or start with an empty schema"),
)


def ledger_error(error: Exception, server: LedgerServer) -> LedgerError:
    """Describe an error of reading or writing the ledger."""
    hidden = redactor([secret for secret in (server.password, server.dsn, server.dsn_password) if secret])
    if isinstance(error, psycopg.Error) and error.sqlstate == FENCED:
        text = "another process has taken over; this one writes nothing any more"
        return LedgerError(f"{server.display}: {text}", LedgerReason.FENCED)
    if isinstance(error, TimeoutError):
        return LedgerError(f"{server.display}: no answer in time", LedgerReason.FAILED)
    text = hidden(failure_text(error))
    for kind, reason, meaning in _MEANINGS:
        if isinstance(error, kind):
            return LedgerError(f"{server.display}: {meaning} ({text})", reason)
    return LedgerError(f"{server.display}: {text}", LedgerReason.FAILED)
