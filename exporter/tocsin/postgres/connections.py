"""Connections to servers that speak PostgreSQL's protocol, and the text of their errors."""

import asyncio
import contextlib
import functools
import re
import traceback
from collections.abc import Awaitable
from typing import Any, TypeAlias, TypeVar

import psycopg
import structlog
from psycopg import sql

from tocsin.postgres.settings import Server

T = TypeVar("T")
PgConnection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]
log = structlog.get_logger(__name__)


async def connected(server: Server) -> PgConnection:
    """A connection that commits every statement, prepares none, and has the settings of `server`.

    Raises psycopg.Error without an SQLSTATE, and TimeoutError if the server does not answer within `connect_timeout`.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(server.conninfo(), autocommit=True, prepare_threshold=None)
    except BaseException as error:
        # psycopg closes a half-open connection only when its frames are freed, which a kept error prevents.
        traceback.clear_frames(error.__traceback__)
        raise
    try:
        await within(server.connect_timeout, connection, _set_up(connection, server))
    except BaseException:
        await close(connection)
        raise
    return connection


async def close(connection: PgConnection) -> None:
    """Close a connection at once, also in a statement: closing the socket ends it on the server, and a request to
    cancel it could wait for a server that is gone."""
    connection.pgconn.finish()
    await connection.close()


async def _set_up(connection: PgConnection, server: Server) -> None:
    """Set the configured settings, and those of `output` that the server does not report to be right already."""
    reported, output = connection.info.parameter_status, server.asked_output()
    zone = reported("TimeZone")
    if "TimeZone" in output and zone not in (None, *_UTC):
        _inform_of_zone(server.display, zone)
    if server.settings_made == "in transactions":
        return
    try:
        for statement in server.configured():
            await connection.execute(statement)
    except psycopg.Error as error:
        # An error of the login, not of a statement: the statement of the caller is not at fault.
        raise psycopg.OperationalError(f"the session settings are refused: {error}") from None
    for name, value in output.items():
        if (reported(name) or "").split(",")[0] != value:
            with contextlib.suppress(psycopg.DatabaseError):  # a server may not know it
                await connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        now = reported(name)
        if now is not None and now.split(",")[0] != value:
            log.warning("the server does not accept a setting", server=server.display, setting=name, value=now)


_UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Universal", "UCT")


@functools.cache
def _inform_of_zone(server: str, zone: str | None) -> None:
    """Once for each server, however many connections there are."""
    log.info(
        "queries run in UTC, not in the time zone of the role; set `options: {TimeZone: ...}` for another",
        server=server,
        role=zone,
    )


async def within(seconds: float, connection: PgConnection, work: Awaitable[T]) -> T:
    """Wait for some work on a connection. Raises TimeoutError.

    After a timeout or a cancellation the connection is closed first: psycopg would ask the server to cancel and wait
    seconds for its answer, and the server may be gone.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            connection.pgconn.finish()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        elif not task.cancelled():
            task.exception()  # the cancellation counts; asyncio logs an exception that no one has asked for


_ATTEMPT = re.compile(r"^- host: .*?, port: .*?, hostaddr: .*?: ", re.MULTILINE)
"""What psycopg writes before the failure of each of several addresses."""
_PREFIX = re.compile(r"^connection (failed|is bad): (?=connection to )|fe_sendauth: |\[Errno -?\d+\] ")
"""Words of psycopg, libpq and Python that say nothing."""
_FIXES = (
    (r"no password supplied", "set its password (password_file, or in the connection string)"),
    (r"role .* does not exist|authentication failed", "check the user and the password"),
    (r"not permitted to log in", "use a role that has LOGIN"),
    (r"no pg_hba\.conf entry .*no encryption", "set sslmode to require, or allow the user in the server's pg_hba.conf"),
    (r"no pg_hba\.conf entry", "allow the user in the server's pg_hba.conf"),
    (r"database .* does not exist", "check the name of the database"),
    (r"does not support SSL", "turn on TLS at the server, or set sslmode to disable"),
    (r"certificate verify failed", "set sslrootcert to the certificate of its authority"),
    (r"failed to resolve host", "check the name of the host"),
    (r"Connection refused|No such file", "check host and port, and that the server runs"),
    (r"timeout expired", "check host, port and firewalls"),
)
"""What is usually wrong, by the text of a failed connection."""


def failure_text(error: BaseException) -> str:
    """Return the text of an error of psycopg in one line: each failure once, without the hints of libpq, which are
    lines that begin with a tab."""
    summary, *attempts = _ATTEMPT.split(str(error))
    lines = [line for part in attempts or [summary] for line in part.splitlines() if not line.startswith("\t")]
    texts = dict.fromkeys(" ".join(_PREFIX.sub("", line).split()) for line in lines)
    return "; ".join(text for text in texts if text) or type(error).__name__


def failure_fix(text: str) -> str:
    """What to do about a failed connection, by its text; empty where that is not known."""
    return next((fix for pattern, fix in _FIXES if re.search(pattern, text)), "")


def about_login(text: str) -> bool:
    """Whether the server's message about a failed connection says that the role or its password is wrong.

    libpq passes no SQLSTATE of a failed login, so only the text of the server distinguishes the causes.
    """
    return (
        re.search(
            r"authentication|password|no pg_hba|login blocked|not permitted to log in|role .* does not exist", text
        )
        is not None
    )


def about_limit(text: str) -> bool:
    """Whether the message about a failed connection says that there are too many connections already. The texts are
    those of PostgreSQL, PgBouncer and Materialize."""
    return (
        re.search(
            r"too many (clients|connections)|connection slots are reserved|no more connections allowed|"
            r"violate max_connections",
            text,
        )
        is not None
    )
