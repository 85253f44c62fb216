"""Connections to servers that speak PostgreSQL's protocol, and the settings of a session after the login."""

import asyncio
import contextlib
import functools
import traceback
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    from tocsin.postgres import Server

T = TypeVar("T")
log = structlog.get_logger(__name__)

OUTPUT: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",  # without an order of day and month: how the session reads dates stays as it is
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
}
"""Session settings that decide how PostgreSQL writes a value as text, at their defaults. A row is identified by its
text, so a source sets them itself, whatever the defaults of the role, the database or the server are."""


def set_config(required: Mapping[str, str], known: Mapping[str, str]) -> "list[sql.Composed]":
    """One statement that sets session settings, or none. A name that the server does not know is an error in
    `required`, and ignored in `known`."""
    from psycopg import sql

    if not required and not known:
        return []
    set_ = sql.SQL("pg_catalog.set_config({}, {}, false)")
    if_known = sql.SQL("CASE WHEN pg_catalog.current_setting({}, true) IS NOT NULL THEN {} END")
    calls = [set_.format(sql.Literal(name), sql.Literal(value)) for name, value in required.items()]
    for name, value in known.items():
        call = set_.format(sql.Literal(name), sql.Literal(value))
        calls.append(if_known.format(sql.Literal(name), call))
    return [sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls))]


async def connected(server: "Server") -> "psycopg.AsyncConnection[tuple[Any, ...]]":
    """A connection that commits every statement, prepares none, and has the settings of `server`.

    Raises psycopg.Error without an SQLSTATE, and TimeoutError if the server does not answer within `connect_timeout`.
    """
    import psycopg

    try:
        connection = await psycopg.AsyncConnection.connect(server.conninfo(), autocommit=True, prepare_threshold=None)
    except BaseException as error:
        # psycopg closes a half-open connection only when its frames are freed; an error or a cancelled task that is
        # still referenced would keep the socket open.
        traceback.clear_frames(error.__traceback__)
        raise
    try:
        await within(server.connect_timeout, connection, _set_up(connection, server))
    except BaseException:
        connection.pgconn.finish()
        await connection.close()
        raise
    return connection


async def _set_up(connection: "psycopg.AsyncConnection[tuple[Any, ...]]", server: "Server") -> None:
    import psycopg

    reported = connection.info.parameter_status
    zone = reported("TimeZone")
    if "TimeZone" in server.asked_output() and zone not in (None, *_UTC):
        _inform_of_zone(server.display, zone)
    try:
        for statement in server.settings():
            await connection.execute(statement)
    except psycopg.Error as error:
        # An error of the login, not of a statement: the statement of the caller is not at fault.
        raise psycopg.OperationalError(f"the session settings are refused: {error}") from None
    for statement in server.preferred(reported):
        with contextlib.suppress(psycopg.DatabaseError):
            await connection.execute(statement)
    for name, value in server.asked_output().items():
        now = reported(name)
        if now is not None and now.split(",")[0] != value:
            log.warning("the server does not accept a setting", server=server.display, setting=name, value=now)


_UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Universal", "UCT")


@functools.cache
def _inform_of_zone(server: str, zone: str | None) -> None:
    """Once for each server, since every alert has its own connection."""
    log.info(
        "queries run in UTC, not in the time zone of the role; set `options: {TimeZone: ...}` for another",
        server=server,
        role=zone,
    )


async def within(seconds: float, connection: "psycopg.AsyncConnection[tuple[Any, ...]]", work: Awaitable[T]) -> T:
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
