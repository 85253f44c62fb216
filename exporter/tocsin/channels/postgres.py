"""A channel that writes each notification as a row of a PostgreSQL table and tells of it by NOTIFY."""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import psycopg
from psycopg import AsyncRawCursor, pq, sql
from pydantic import Field

from tocsin.channels.base import Channel, Delivered, Message, Paused, Rejected, Result, Retry
from tocsin.channels.settings import ChannelConfig, ChannelOptions
from tocsin.errors import Reason
from tocsin.postgres import (
    Name,
    RelationName,
    Server,
    about_login,
    derived_name,
    granted,
    name_parts,
    relation,
    script,
)
from tocsin.postgres_session import connected, within
from tocsin.redaction import redactor

_Connection: TypeAlias = "psycopg.AsyncConnection[tuple[Any, ...]]"
_Failure: TypeAlias = Retry | Rejected | Paused


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    table: RelationName = "notifications"
    """The table to write to, as SQL would write it: `schema.notifications`, `"My Notifications"`."""

    notify: Name | None = None
    """A channel of NOTIFY on which each new row's id is told."""


class Config(Server, ChannelConfig, Options):
    """A table in PostgreSQL, one row for each notification, whose id is the notification's: a repeat adds nothing.
    `tocsin sql` prints the SQL that makes the table."""

    type: Literal["postgres"]
    """The kind of channel."""

    create: bool = False
    """Whether a table that is missing is created. The role needs CREATE on its schema for that."""

    batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    """At most so many notifications are written in one transaction."""

    def _session(self) -> dict[str, str]:
        return {"statement_timeout": f"{math.ceil(self.timeout * 1000)}ms", **self.options}


def build(name: str, config: Config, routes: Mapping[str, Options]) -> "Postgres":
    """Make the channel; connects to nothing yet."""
    return Postgres(name, config, routes)


def ddl(config: Config, tables: Iterable[str] = ()) -> str:
    """SQL that makes the tables the channel writes to, its own if none is named, for their administrator to read and
    run. It may be run again."""
    tables = sorted({*tables} or {config.table})
    rights = {table: ["INSERT", "SELECT (id)"] for table in tables}
    return script([*map(_table, tables), *granted(config.role, rights)])


class _Target(NamedTuple):
    """Where a notification goes: the table, and the channel of NOTIFY."""

    table: str
    notify: str | None


class Postgres(Channel):
    """Writes what it is given in one call with one statement for each table, on kept connections."""

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options]) -> None:
        self._name = name
        self._config = config
        self._targets = {alert: _Target(options.table, options.notify) for alert, options in routes.items()}
        self._idle: list[_Connection] = []
        self._redact = redactor([secret for secret in (config.password, config.dsn, config.dsn_password) if secret])

    def __repr__(self) -> str:
        return f"Postgres({self._name!r})"

    def batch_size(self, pending: int) -> int:
        return min(pending, self._config.batch)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        rows = await asyncio.to_thread(lambda: [_row(message) for message in messages])
        results: list[Result] = [Delivered()] * len(messages)
        places: dict[_Target, list[int]] = {}
        own = _Target(self._config.table, self._config.notify)
        for place, message in enumerate(messages):
            places.setdefault(self._targets.get(message.alert, own), []).append(place)
        for target, some in places.items():
            written = await self._written(target, [rows[place] for place in some])
            for place, result in zip(some, written, strict=True):
                results[place] = result
        return results

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await _dropped(connection)

    async def verify(self) -> list[str]:
        """Problems found by asking the server, without writing anything."""
        if self._targets and (failure := await self._attempt(_writable)):
            return [failure.detail]
        found = []
        for target in {*self._targets.values()}:
            failure = await self._attempt(partial(_run, _PLAN, target, []))
            if failure is not None and failure.reason is Reason.NOT_FOUND and self._config.create:
                failure = await self._attempt(partial(_try_create, target.table))
            if failure is not None:
                found.append(failure.detail)
        return found

    async def _written(self, target: _Target, rows: Sequence[str]) -> list[Result]:
        failure = await self._attempt(partial(self._insert, target, rows))
        if failure is None:
            return [Delivered()] * len(rows)
        if isinstance(failure, Rejected) and len(rows) > 1:
            # One row spoils the statement: halved until it is clear which, so that the others arrive.
            half = len(rows) // 2
            first = await self._written(target, rows[:half])
            if isinstance(first[-1], Retry | Paused):
                return [*first, *[first[-1]] * (len(rows) - half)]
            return [*first, *await self._written(target, rows[half:])]
        return [failure] * len(rows)

    async def _insert(self, target: _Target, rows: Sequence[str], connection: _Connection) -> None:
        try:
            await _run(_INSERT, target, rows, connection)
        except psycopg.errors.UndefinedTable:
            if not self._config.create:
                raise
            await connection.execute(sql.SQL("; ").join([_ONE_AT_A_TIME, _table(target.table)]))
            await _run(_INSERT, target, rows, connection)

    async def _attempt(self, work: Callable[[_Connection], Awaitable[None]]) -> _Failure | None:
        """Do some work on a connection; why it failed, None if it did not."""
        config = self._config
        try:
            async with self._connection() as connection:
                try:
                    await within(config.timeout, connection, work(connection))
                except psycopg.errors.ReadOnlySqlTransaction:
                    # The next connection may be to another server, which has become the primary meanwhile.
                    connection.pgconn.finish()
                    raise
        except TimeoutError:
            return Retry(Reason.TIMEOUT, f"{config.display}: no answer in time")
        except (psycopg.Error, OSError) as error:
            failure = _failure(error)
            printed = f"the SQL that `tocsin sql {self._name}` prints"
            remedy = ""
            if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                remedy = f"; {_READ_ONLY}"
            elif isinstance(error, psycopg.errors.UndefinedTable):
                remedy = f"; run {printed}"
            elif failure.reason is Reason.NOT_FOUND:
                remedy = f"; compare the table with {printed}"  # which leaves one that is there as it is
            # What the server says beside its message may quote the row.
            words = (error.diag.message_primary if isinstance(error, psycopg.Error) else None) or str(error)
            return replace(failure, detail=self._redact(f"{config.display}: {words}") + remedy)
        return None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """A connection that is kept, unless it broke or is in the middle of something afterwards."""
        if self._idle:
            connection = self._idle.pop()
        else:
            async with asyncio.timeout(self._config.connect_timeout):
                connection = await connected(self._config)
        try:
            yield connection
        finally:
            if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                await _dropped(connection)


_INSERT = """\
WITH new AS (
  INSERT INTO {table} (id, alert, status, fingerprint, started_at, at, envelope, exact)
  SELECT id, alert, status, fingerprint, started_at, at, envelope, exact FROM json_to_recordset($1::json) AS rows (
    id text, alert text, status text, fingerprint text,
    started_at timestamptz, at timestamptz, envelope jsonb, exact text
  )
  ON CONFLICT (id) DO NOTHING RETURNING id
)
SELECT {told} FROM new"""
_PLAN = "EXPLAIN " + _INSERT

_READ_ONLY = (
    "the server is a standby, or the session is read-only; connect to the primary (in a dsn of several hosts,"
    " target_session_attrs=read-write), and leave default_transaction_read_only off for the role"
)


async def _writable(connection: _Connection) -> None:
    """Raises ReadOnlySqlTransaction where nothing can be written. EXPLAIN does not notice that."""
    cursor = await connection.execute("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')")
    match await cursor.fetchone():
        case (True, _):
            raise psycopg.errors.ReadOnlySqlTransaction("cannot write on a standby")
        case (_, "on"):
            raise psycopg.errors.ReadOnlySqlTransaction("cannot write in a read-only session")


async def _try_create(table: str, connection: _Connection) -> None:
    """Create the table, and take that back."""
    async with connection.transaction(force_rollback=True):
        await connection.execute(_table(table))


_ONE_AT_A_TIME = sql.SQL("SELECT pg_advisory_xact_lock(hashtext('tocsin creates a table'))")
"""Two that create a table at once stumble over each other, `IF NOT EXISTS` or not."""


async def _run(statement: str, target: _Target, rows: Sequence[str], connection: _Connection) -> None:
    told = (
        sql.SQL("count(*)")
        if target.notify is None
        else sql.SQL("pg_notify({}, id)").format(sql.Literal(target.notify))
    )
    composed = sql.SQL(statement).format(table=relation(target.table), told=told)
    # A raw cursor: the only one whose placeholders are no % that a name may hold. One text: psycopg would take longer
    # over an array than it takes to make all rows, and hold the event loop meanwhile.
    async with AsyncRawCursor(connection) as cursor:
        await cursor.execute(composed, [f"[{','.join(rows)}]"])


def _table(name: str) -> sql.Composed:
    index = sql.Identifier(derived_name(name_parts(name), "_written_at"))
    return _TABLE.format(table=relation(name), index=index)


_TABLE = sql.SQL("""\
CREATE TABLE IF NOT EXISTS {table} (
  id text PRIMARY KEY,
  alert text NOT NULL,
  status text NOT NULL,
  fingerprint text NOT NULL,
  started_at timestamptz,
  at timestamptz,
  envelope jsonb NOT NULL,
  exact text,
  written_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS {index} ON {table} (written_at);
COMMENT ON TABLE {table} IS 'Notifications that Tocsin wrote, one a row.';
COMMENT ON COLUMN {table}.id IS 'The notification: what is sent again has the same id and adds nothing.';
COMMENT ON COLUMN {table}.exact IS
  'The envelope as JSON text, where jsonb cannot hold all of it: U+FFFD stands in envelope for what it cannot.';""")


def _row(message: Message) -> str:
    """A row of the table as a JSON object. `exact`: see `_TABLE`."""
    envelope = message.envelope
    row = {
        "id": message.id,
        "alert": message.alert,
        "status": message.kind.value,
        "fingerprint": envelope["fingerprint"],
        "started_at": _moment(envelope["started_at"]),
        "at": _moment(envelope["at"]),
        "envelope": envelope,
    }
    text = _json(row)
    if _REFUSED.search(text) and (storable := _storable(envelope)) != envelope:
        exact = json.dumps(envelope, separators=(",", ":"))
        text = _json({**row, "envelope": storable, "exact": exact})
    return text


def _moment(text: str) -> str | None:
    """A time as PostgreSQL can hold it. One beyond the year 9999 is a mere number in the envelope."""
    return text if text.endswith("Z") else None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _storable(value: Any) -> Any:
    """The value without what jsonb refuses: NUL characters, and halves of surrogate pairs."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_UNSTORABLE.sub("\ufffd", name): _storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_REFUSED = re.compile(r"\\u0000|[\ud800-\udfff]")
"""The same in JSON text, where a NUL is an escape. It may find the text of an escape, too."""


async def _dropped(connection: _Connection) -> None:
    connection.pgconn.finish()
    await connection.close()


def _failure(error: psycopg.Error | OSError) -> _Failure:
    """What an error means for a notification, without words."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state is None:
        return Paused(Reason.UNAUTHORIZED) if about_login(str(error)) else Retry(Reason.CONNECTION)
    if state in _PAUSES:
        return Paused(_PAUSES[state])
    if state == "57014":
        return Retry(Reason.TIMEOUT)
    if state[:2] in _OF_THE_ROW:
        return Rejected(_OF_THE_ROW[state[:2]])
    return Retry(Reason.CONNECTION if state[:2] in ("08", "57") else Reason.SERVER_ERROR)


_PAUSES = {
    "28000": Reason.UNAUTHORIZED,
    "28P01": Reason.UNAUTHORIZED,
    "42501": Reason.UNAUTHORIZED,
    "3D000": Reason.NOT_FOUND,  # no such database
    "3F000": Reason.NOT_FOUND,  # schema
    "42P01": Reason.NOT_FOUND,  # table
    "42703": Reason.NOT_FOUND,  # column
    "42P10": Reason.NOT_FOUND,  # id is not unique
    "42804": Reason.NOT_FOUND,  # a column of another type
}
_OF_THE_ROW = {"22": Reason.REJECTED, "23": Reason.REJECTED, "54": Reason.TOO_LARGE}
"""Classes of errors that are the row's own fault: its data, a constraint, a limit of the server."""
