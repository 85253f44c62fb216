"""One connection, used below psycopg's cursors: Describe without running anything, and COPY out many lines at a time.

psycopg's `AsyncCopy.read()` costs a coroutine a row and, when it is cancelled on a dead connection, waits for the
server. Here a chunk of rows costs one wake-up, and giving up is closing the socket.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
from psycopg import pq, sql
from psycopg.errors import error_from_result

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Column, Columns, Row
from tocsin.postgres import Server, about_login
from tocsin.postgres_session import connected

_SLICE = 2_000
"""Rows handed out before other tasks get a turn; at about 2 us a row this holds the loop for some milliseconds."""


class Wire:
    """A psycopg connection of which nobody else makes use while this object does."""

    def __init__(self, connection: "psycopg.AsyncConnection[tuple[object, ...]]") -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._readable = asyncio.Event()

    async def query(self, statement: sql.Composable) -> list[Row]:
        """Run a statement and give its rows as text. For few rows: all of them are held."""
        self._pgconn.send_query(statement.as_bytes(self._connection))
        rows: list[Row] = []
        for result in await self._results():
            for number in range(result.ntuples):
                values = (result.get_value(number, column) for column in range(result.nfields))
                rows.append(tuple(None if value is None else bytes(value).decode() for value in values))
        return rows

    async def describe(self, statement: sql.Composable) -> Columns:
        """The columns a statement would give (Parse and Describe; nothing is run). A missing relation or privilege
        fails here."""
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
        """Run a `COPY ... TO STDOUT` and give its lines in chunks, as they come, until the server ends it.

        Raises TimeoutError if `limit` seconds pass before the server begins to answer, psycopg.Error for the rest.
        Reads of a chunk wait without limit: the caller knows how long silence may last.
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
        self._pgconn.consume_input()
        self.notified()

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
        """Wait until the server has sent something and take it in."""
        loop, descriptor = asyncio.get_running_loop(), self._pgconn.socket
        self._readable.clear()
        loop.add_reader(descriptor, self._readable.set)
        try:
            await self._readable.wait()
        finally:
            loop.remove_reader(descriptor)
        self._pgconn.consume_input()

    async def _flush(self) -> None:
        """Hand libpq's output to the socket. Statements are short, so this takes one call unless the peer is gone."""
        if self._pgconn.flush():
            await self._read()
            self._pgconn.flush()


_FAILED = frozenset({pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE})


@asynccontextmanager
async def connect(settings: Server) -> AsyncIterator[Wire]:
    """A connection that is closed on the way out, whatever happened. Raises SourceError."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(settings.connect_timeout + 1.0):
            connection = await connected(settings)
    except (TimeoutError, psycopg.Error, OSError) as error:
        raise connect_error(error, settings.display, time.monotonic() - began) from None
    try:
        yield Wire(connection)
    finally:
        # Closing the socket ends the statement on the server; a polite cancel could wait for a server that is gone.
        connection.pgconn.finish()
        await connection.close()


def connect_error(error: Exception, display: str, waited: float) -> SourceError:
    """Why there is no connection, in one line."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return SourceError(f"{display}: no answer within {waited:.0f} s", SourceReason.CONNECT)
    text = _one_line(error)
    if about_login(text):
        return SourceError(f"{display}: {text}", SourceReason.AUTH)
    return SourceError(f"{display}: {text}", SourceReason.CONNECT)


@contextmanager
def translated(display: str, running: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """psycopg's errors, and a server that does not answer in time, as SourceError. `running`: see `statement_error`."""
    try:
        yield
    except psycopg.Error as error:
        raise statement_error(error, display, running=running()) from None
    except TimeoutError:
        raise SourceError(f"{display}: the server does not answer", SourceReason.STALLED) from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_UNDEFINED_OBJECT = "42704"
_SQLSTATES = {
    "28000": SourceReason.AUTH,
    "28P01": SourceReason.AUTH,
    "42501": SourceReason.PERMISSION,
    "42P01": SourceReason.MISSING,
    _UNDEFINED_OBJECT: SourceReason.MISSING,
    "3F000": SourceReason.MISSING,
}
# Materialize reports most things as XX000; the text tells them apart (every pattern from a live server's messages).
_MESSAGES = (
    (re.compile(r"unknown (catalog item|cluster|schema|database)"), SourceReason.MISSING),
    (re.compile(r"has been terminated because underlying .* was dropped"), SourceReason.DROPPED),
    (re.compile(r"has no replicas available"), SourceReason.STALLED),
    (re.compile(r"^SUBSCRIBE fell behind"), SourceReason.FELL_BEHIND),
    (re.compile(r"^result exceeds max size"), SourceReason.TOO_LARGE),
    (re.compile(r"^(Evaluation|Decode|Source) error"), SourceReason.ROW_ERROR),
)


_BY_THE_CLIENT = (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)
"""Errors that, without a code of the server, were raised on this side, over a connection that stands."""


def statement_error(error: psycopg.Error, display: str, *, running: bool = False) -> SourceError:
    """What a failed statement or a broken stream means, and whether the history may be asked for again.

    Only a row error forbids that: a resume whose span touches it fails again, though the view is healthy. Any other
    error, known or not, is like a lost connection: without the history, rows that came and went are lost.

    `running`: the statement had begun to answer, so an object that the server no longer knows was dropped meanwhile.
    """
    if error.sqlstate is None:
        if isinstance(error, _BY_THE_CLIENT):
            return SourceError(f"{display}: {_one_line(error)}", SourceReason.OTHER)
        return SourceError(f"{display}: connection lost: {_one_line(error)}", SourceReason.DISCONNECTED)
    primary = error.diag.message_primary or _one_line(error)
    extra = " ".join(part for part in (error.diag.message_detail, error.diag.message_hint) if part)
    text = f"{display}: {primary}" + (f" ({' '.join(extra.split())})" if extra else "")
    reason = _reason(error.sqlstate, primary, running=running)
    return SourceError(text, reason, resume=reason is not SourceReason.ROW_ERROR)


def _reason(sqlstate: str, primary: str, *, running: bool) -> SourceReason:
    if running and sqlstate == _UNDEFINED_OBJECT:
        return SourceReason.DROPPED
    if sqlstate in _SQLSTATES:
        return _SQLSTATES[sqlstate]
    return next((reason for pattern, reason in _MESSAGES if pattern.search(primary)), SourceReason.OTHER)


_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPE_BYTES = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def fields(chunk: list[bytes]) -> list[Row]:
    """Lines of COPY text as rows of text; `\\N` is None.

    Bytes that are not UTF-8 (a server may hold them where its encoding is not checked) become `\\xff` as text, so that
    the row still has an identity.
    """
    try:
        lines = b"".join(chunk).decode().split("\n")
    except UnicodeDecodeError:
        return [_bytes_fields(line) for line in chunk]
    lines.pop()
    return [tuple(line.split("\t")) if "\\" not in line else _escaped_fields(line) for line in lines]


def _escaped_fields(line: str) -> Row:
    return tuple(
        None if field == "\\N" else _ESCAPE.sub(_unescape, field) if "\\" in field else field
        for field in line.split("\t")
    )


def _unescape(match: "re.Match[str]") -> str:
    return _ESCAPED.get(match[1], match[1])


def _bytes_fields(line: bytes) -> Row:
    def unescape(match: "re.Match[bytes]") -> bytes:
        return _ESCAPED.get(match[1].decode("latin-1"), match[1].decode("latin-1")).encode("latin-1")

    return tuple(
        None if field == b"\\N" else _ESCAPE_BYTES.sub(unescape, field).decode("utf-8", "backslashreplace")
        for field in line.removesuffix(b"\n").split(b"\t")
    )
