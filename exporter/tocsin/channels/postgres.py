"""A channel that writes each notification as a row of a PostgreSQL table, with NOTIFY."""

import asyncio
import json
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
from tocsin.channels.batching import isolate
from tocsin.channels.settings import ChannelConfig, ChannelOptions
from tocsin.errors import Reason
from tocsin.postgres import (
    Name,
    PgConnection,
    RelationName,
    Server,
    about_login,
    connected,
    derived_name,
    failure_text,
    granted,
    milliseconds,
    name_parts,
    relation,
    script,
    still_works,
    within,
)
from tocsin.redaction import masked, masker, redactor

_Failure: TypeAlias = Retry | Rejected | Paused


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    table: RelationName = "notifications"
    """The table to write to, as SQL would write it: `schema.notifications`, `"My Notifications"`."""

    notify: Name | None = None
    """A channel of NOTIFY for the id of each new row."""


class Config(Server, ChannelConfig, Options):
    """A table in PostgreSQL, one row per notification. Its id is the notification's, so a repeat adds nothing. `tocsin
    sql` prints the SQL that creates the table."""

    type: Literal["postgres"]
    """The kind of channel."""

    create: bool = False
    """Create a missing table. The role needs CREATE on its schema."""

    batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Notifications in one transaction at most."""

    def _own_settings(self) -> dict[str, str]:
        return {"statement_timeout": milliseconds(self.timeout)}


def build(name: str, config: Config, routes: Mapping[str, Options]) -> "Postgres":
    """Build the channel; connects to nothing yet."""
    return Postgres(name, config, routes)


def ddl(config: Config, tables: Iterable[str] = ()) -> str:
    """Return SQL that creates the tables of the channel, for an administrator to read and run. It may be run again."""
    tables = sorted({*tables} or {config.table})
    rights = {table: ["INSERT", "SELECT (id)"] for table in tables}
    return script([*map(_table, tables), *granted(config.role, rights)])


class _Target(NamedTuple):
    """A table and a channel of NOTIFY."""

    table: str
    notify: str | None


class Postgres(Channel):
    """Writes the notifications of a call with one statement per table, on pooled connections."""

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options]) -> None:
        self._name = name
        self._config = config
        self._targets = {alert: _Target(options.table, options.notify) for alert, options in routes.items()}
        self._idle: list[PgConnection] = []
        secrets = [secret for secret in (config.password, config.dsn, config.dsn_password) if secret]
        self._redact = redactor(secrets)
        self._mask = masker(secrets)

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
            written = await isolate([rows[place] for place in some], partial(self._write, target))
            for place, result in zip(some, written, strict=True):
                results[place] = result
        return results

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await _close(connection)

    def preview(self, message: Message) -> Mapping[str, Any]:
        target = self._targets.get(message.alert, _Target(self._config.table, self._config.notify))
        notify = {} if target.notify is None else {"notify": target.notify}
        return masked({"table": target.table, **notify, "row": json.loads(_row(message))}, self._mask)

    async def verify(self) -> list[str]:
        """Return problems, without writing anything."""
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

    async def _write(self, target: _Target, rows: Sequence[str]) -> Result:
        return await self._attempt(partial(self._insert, target, rows)) or Delivered()

    async def _insert(self, target: _Target, rows: Sequence[str], connection: PgConnection) -> None:
        try:
            await _run(_INSERT, target, rows, connection)
        except psycopg.errors.UndefinedTable:
            if not self._config.create:
                raise
            await connection.execute(sql.SQL("; ").join([_ONE_AT_A_TIME, _table(target.table)]))
            await _run(_INSERT, target, rows, connection)

    async def _attempt(self, work: Callable[[PgConnection], Awaitable[None]]) -> _Failure | None:
        """Run something on a connection; returns why it failed."""
        config = self._config
        try:
            async with self._connection() as connection:
                try:
                    await within(config.timeout, connection, work(connection))
                except psycopg.errors.ReadOnlySqlTransaction:
                    # The next connection may reach another server, which is the primary now.
                    connection.pgconn.finish()
                    raise
        except TimeoutError:
            return Retry(Reason.TIMEOUT, f"{config.display}: no answer in time")
        except (psycopg.Error, OSError) as error:
            failure = _failure(error)
            printed = f"the SQL that `tocsin sql {self._name}` prints"
            fix = ""
            if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                fix = f"; {_READ_ONLY}"
            elif isinstance(error, psycopg.errors.UndefinedTable):
                fix = f"; run {printed}"
            elif failure.reason is Reason.NOT_FOUND:
                fix = f"; compare the table with {printed}"  # which does not change an existing table
            # The other fields of the error may quote the row.
            text = (error.diag.message_primary if isinstance(error, psycopg.Error) else None) or failure_text(error)
            return replace(failure, detail=self._redact(f"{config.display}: {text}") + fix)
        return None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[PgConnection]:
        """Yield a connection, and keep it unless it is broken or inside a transaction afterwards."""
        connection = await self._working()
        if connection is None:
            async with asyncio.timeout(self._config.connect_timeout):
                connection = await connected(self._config)
        try:
            yield connection
        finally:
            if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                await _close(connection)

    async def _working(self) -> PgConnection | None:
        """An idle connection that the server has not ended meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if still_works(connection):
                return connection
            await _close(connection)
        return None


_INSERT = """\
WITH new AS (
  INSERT INTO {table} (id, alert, status, fingerprint, started_at, at, envelope, exact)
  SELECT id, alert, status, fingerprint, started_at, at, envelope, exact FROM json_to_recordset($1::json) AS rows (
    id text, alert text, status text, fingerprint text,
    started_at timestamptz, at timestamptz, envelope jsonb, exact text
  )
  ON CONFLICT (id) DO NOTHING RETURNING id
)
SELECT {result} FROM new"""
_PLAN = "EXPLAIN " + _INSERT

_READ_ONLY = (
    "the server is a standby, or the session is read-only; connect to the primary (in a dsn of several hosts,"
    " target_session_attrs=read-write), and leave default_transaction_read_only off for the role"
)


async def _writable(connection: PgConnection) -> None:
    """Raise ReadOnlySqlTransaction where nothing can be written. EXPLAIN does not notice it."""
    cursor = await connection.execute("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')")
    match await cursor.fetchone():
        case (True, _):
            raise psycopg.errors.ReadOnlySqlTransaction("cannot write on a standby")
        case (_, "on"):
            raise psycopg.errors.ReadOnlySqlTransaction("cannot write in a read-only session")


async def _try_create(table: str, connection: PgConnection) -> None:
    """Create the table, and roll back."""
    async with connection.transaction(force_rollback=True):
        await connection.execute(_table(table))


_ONE_AT_A_TIME = sql.SQL("SELECT pg_advisory_xact_lock(hashtext('tocsin creates a table'))")
"""Two sessions that create a table at once fail, even with `IF NOT EXISTS`."""


async def _run(statement: str, target: _Target, rows: Sequence[str], connection: PgConnection) -> None:
    result = (
        sql.SQL("count(*)")
        if target.notify is None
        else sql.SQL("pg_notify({}, id)").format(sql.Literal(target.notify))
    )
    composed = sql.SQL(statement).format(table=relation(target.table), result=result)
    # A raw cursor, since names may hold a %. One text instead of an array: psycopg would hold the event loop longer
    # over an array than rendering all rows takes.
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
COMMENT ON TABLE {table} IS 'Notifications from Tocsin, one per row.';
COMMENT ON COLUMN {table}.id IS 'The notification. A repeat has the same id and adds nothing.';
COMMENT ON COLUMN {table}.exact IS
  'The envelope as JSON text, where jsonb cannot hold all of it; envelope has U+FFFD instead.';""")


def _row(message: Message) -> str:
    """Return a row of the table as a JSON object. `exact`: see `_TABLE`."""
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
    """Return a time that PostgreSQL can hold. Beyond the year 9999 the envelope has a number."""
    return text if text.endswith("Z") else None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _storable(value: Any) -> Any:
    """Return the value without what jsonb refuses: NUL characters, and halves of surrogate pairs."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_UNSTORABLE.sub("\ufffd", name): _storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_REFUSED = re.compile(r"\\u0000|[\ud800-\udfff]")
"""The same in JSON text, where a NUL is an escape. It may also match the text of an escape."""


async def _close(connection: PgConnection) -> None:
    connection.pgconn.finish()
    await connection.close()


def _failure(error: psycopg.Error | OSError) -> _Failure:
    """Return the result for an error, without text."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state is None:
        return Paused(Reason.UNAUTHORIZED) if about_login(str(error)) else Retry(Reason.CONNECTION)
    if state in _PAUSES:
        return Paused(_PAUSES[state])
    if state == "57014":
        return Retry(Reason.TIMEOUT)
    if state[:2] in _ROW_ERRORS:
        return Rejected(_ROW_ERRORS[state[:2]])
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
_ROW_ERRORS = {"22": Reason.REJECTED, "23": Reason.REJECTED, "54": Reason.TOO_LARGE}
"""Classes of errors caused by the row: its data, a constraint, a limit of the server."""
