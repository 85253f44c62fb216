"""One connection to a server that speaks PostgreSQL's protocol, used below psycopg's cursors: Describe without running
anything, and COPY of many lines at a time.

psycopg's `AsyncCopy.read()` costs a coroutine per row and, when it is cancelled on a dead connection, waits for the
server. Here a chunk of rows costs one wake-up, and the socket is closed at once.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
from psycopg import pq, sql
from psycopg.errors import error_from_result

from tocsin.errors import SourceError
from tocsin.model import Column, Columns, Row
from tocsin.postgres import PgConnection, Server, close, connected
from tocsin.sources.server_errors import connect_error, translated

_PROBE = sql.Identifier(f"tocsin_{secrets.token_hex(8)}")
"""A channel of NOTIFY that no other process uses."""
_ALLOW_IDLING = sql.SQL(
    "SELECT pg_catalog.set_config(name, '0', false) FROM (VALUES ('idle_session_timeout')) AS wanted (name)"
    " WHERE pg_catalog.current_setting(name, true) IS NOT NULL"
)
"""PostgreSQL 13 has no such limit."""
_HEARD_WITHIN = 2.0
"""Seconds within which a NOTIFY arrives if it does at all."""
_MOST_READS = 1_000
"""Reads of notifications in a row; a server that sends without end must not hold the event loop."""
_SLICE = 2_000
"""Rows before other tasks get a turn. At about 2 us a row this holds the event loop for some milliseconds."""


class Wire:
    """A psycopg connection, used by no one else meanwhile."""

    def __init__(self, connection: PgConnection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._readable = asyncio.Event()
        self._interruption: SourceError | None = None

    def interrupt(self, error: SourceError) -> None:
        """End this and the next wait for the server with this error. The first one counts."""
        self._interruption = self._interruption or error
        self._readable.set()

    async def query(self, statement: sql.Composable) -> list[Row]:
        """The rows of a statement as text. For few rows: all are held in memory."""
        self._pgconn.send_query(statement.as_bytes(self._connection))
        rows: list[Row] = []
        for result in await self._results():
            for number in range(result.ntuples):
                values = (result.get_value(number, column) for column in range(result.nfields))
                rows.append(tuple(None if value is None else bytes(value).decode() for value in values))
        return rows

    async def describe(self, statement: sql.Composable) -> Columns:
        """The columns that a statement would return (Parse and Describe; nothing is run). Fails for a missing relation
        or privilege."""
        self._pgconn.send_prepare(b"", statement.as_bytes(self._connection))
        await self._results()
        self._pgconn.send_describe_prepared(b"")
        results = await self._results()
        result = results[-1]
        return tuple(
            Column(
                name=(result.fname(i) or b"").decode(),
                oid=result.ftype(i),
                typmod=result.fmod(i),
            )
            for i in range(result.nfields)
        )

    async def copy(self, statement: sql.Composable, *, limit: float) -> AsyncIterator[list[bytes]]:
        """Run a `COPY ... TO STDOUT` and yield its lines in chunks, as they come, until the server ends it.

        Raises TimeoutError if the server does not begin to answer within `limit` seconds. After that, reads wait
        without limit: the caller knows how long silence may last.
        """
        pgconn = self._pgconn
        pgconn.send_query(statement.as_bytes(self._connection))
        async with asyncio.timeout(limit):
            await self._flush()
            result = await self._next_result()
        if result is None or result.status != pq.ExecStatus.COPY_OUT:
            await self._results()
            raise psycopg.ProgrammingError("the server did not begin to copy")
        chunk: list[bytes] = []
        while True:
            size, data = pgconn.get_copy_data(1)
            if size > 0:
                chunk.append(bytes(data))
                if len(chunk) >= _SLICE:
                    yield chunk
                    chunk = []
                    await asyncio.sleep(0)
            elif size == 0:
                if chunk:
                    yield chunk
                    chunk = []
                await self._read()
            else:
                break
        if chunk:
            yield chunk
        await self._results()

    async def through_pooler(self) -> bool:
        """Whether a pooler is in between: the process number that it named at the login is not that of the server."""
        return await self.query(sql.SQL("SELECT pg_backend_pid()")) != [(str(self._pgconn.backend_pid),)]

    async def allow_idling(self) -> None:
        """Have the server keep the session, however long it is idle: it sends nothing while it listens."""
        await self.query(_ALLOW_IDLING)

    def notified(self) -> bool:
        """Whether a NOTIFY has arrived since the last call."""
        found = False
        while self._pgconn.notifies() is not None:
            found = True
        return found

    def read_notifications(self) -> None:
        """Read what the server has sent, without waiting, and forget the notifications in it.

        A server whose client reads nothing keeps the notifications of all its clients. Raises psycopg.OperationalError
        if the connection is lost.
        """
        for _ in range(_MOST_READS):
            self._pgconn.consume_input()  # reads some kilobytes
            if not self.notified():
                return

    async def wait_notified(self) -> None:
        """Return once a NOTIFY has arrived."""
        while not self.notified():
            await self._read()

    async def _results(self) -> list[pq.abc.PGresult]:
        await self._flush()
        results: list[pq.abc.PGresult] = []
        while (result := await self._next_result()) is not None:
            results.append(result)
        return results

    async def _next_result(self) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            await self._read()
        result = self._pgconn.get_result()
        if result is not None and result.status in _FAILED:
            error = error_from_result(result)
            while self._pgconn.get_result() is not None:
                pass
            raise error
        return result

    async def _read(self) -> None:
        """Wait until the server has sent something, and read it."""
        loop, descriptor = asyncio.get_running_loop(), self._pgconn.socket
        if self._interruption is None:
            self._readable.clear()
        loop.add_reader(descriptor, self._readable.set)
        try:
            await self._readable.wait()
        finally:
            loop.remove_reader(descriptor)
        if self._interruption is not None:
            raise self._interruption
        self._pgconn.consume_input()

    async def _flush(self) -> None:
        """Write libpq's output to the socket. Statements are short, so this takes one call unless the peer is gone."""
        if self._pgconn.flush():
            await self._read()
            self._pgconn.flush()


_FAILED = frozenset({pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE})


async def connection_to(settings: Server) -> PgConnection:
    """A new connection. Raises SourceError."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(settings.connect_timeout + 1.0):
            return await connected(settings)
    except (TimeoutError, psycopg.Error, OSError) as error:
        raise connect_error(error, settings, time.monotonic() - began) from None


@asynccontextmanager
async def connect(settings: Server) -> AsyncIterator[Wire]:
    """A connection, closed at the end of the block. Raises SourceError."""
    connection = await connection_to(settings)
    try:
        yield Wire(connection)
    finally:
        await close(connection)


@asynccontextmanager
async def asking(settings: Server, seconds: float) -> AsyncIterator[Wire]:
    """A connection for questions that are answered within so many seconds. Raises SourceError."""
    async with connect(settings) as wire:
        with translated(settings.display):
            async with asyncio.timeout(seconds):
                yield wire


async def named_type(wire: Wire, oid: int) -> str:
    """See `tocsin.sources.base.Source`. Raises psycopg.Error."""
    rows = await wire.query(sql.SQL("SELECT pg_catalog.format_type({}, NULL)").format(sql.Literal(oid)))
    return rows[0][0] or f"number {oid}"


async def hears(wire: Wire, settings: Server, second: Callable[[], AbstractAsyncContextManager[Wire]]) -> bool:
    """Whether a NOTIFY reaches this connection: it is sent one. LISTEN succeeds through any pooler, but one that gives
    each transaction whatever session is free passes on nothing of other connections.

    `second`: another connection, for a pooler only, since it passes on what a connection sends to itself. Raises
    psycopg.Error, TimeoutError and SourceError.
    """
    notify = sql.SQL("NOTIFY {}").format(_PROBE)
    async with asyncio.timeout(settings.connect_timeout):
        await wire.query(sql.SQL("LISTEN {}").format(_PROBE))
        if await wire.through_pooler():
            async with second() as other:
                await other.query(notify)
        else:
            await wire.query(notify)
    try:
        async with asyncio.timeout(_HEARD_WITHIN):
            await wire.wait_notified()
    except TimeoutError:
        return False
    async with asyncio.timeout(settings.connect_timeout):
        await wire.query(sql.SQL("UNLISTEN {}").format(_PROBE))
    return True


_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def fields(chunk: list[bytes]) -> list[Row]:
    """Lines of COPY text as rows of text; `\\N` is None.

    Bytes that are not UTF-8 (a server may hold them where its encoding is not checked) become `\\xff` as text, so that
    the row still has an identity.
    """
    data = b"".join(chunk)
    try:
        return _rows(data.decode())
    except UnicodeDecodeError:
        rows = _rows(data.decode("utf-8", "surrogateescape"))
        return [tuple(None if field is None else _shown(field) for field in row) for row in rows]


def _rows(text: str) -> list[Row]:
    lines = text.split("\n")
    lines.pop()
    return [tuple(line.split("\t")) if "\\" not in line else _unescaped(line) for line in lines]


def _unescaped(line: str) -> Row:
    return tuple(
        None if field == "\\N" else _ESCAPE.sub(_unescape, field) if "\\" in field else field
        for field in line.split("\t")
    )


def _unescape(match: "re.Match[str]") -> str:
    return _ESCAPED.get(match[1], match[1])


def _shown(field: str) -> str:
    return field.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
