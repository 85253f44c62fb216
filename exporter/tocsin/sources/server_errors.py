"""Errors of servers that speak PostgreSQL's protocol, as SourceError."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg

from tocsin.errors import SourceError, SourceReason
from tocsin.postgres import Server, about_limit, about_login, failure_fix, failure_text


def connect_error(error: Exception, settings: Server, waited: float) -> SourceError:
    """Why there is no connection, in one line. `waited`: seconds."""
    server = settings.display
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return SourceError(f"no answer within {waited:.0f} s", SourceReason.CONNECT, server=server)
    text = failure_text(error)
    if about_limit(text):
        return SourceError(text, SourceReason.CONNECT, server=server, fix=settings.at_limit)
    reason = SourceReason.AUTH if about_login(text) else SourceReason.CONNECT
    return SourceError(text, reason, server=server, fix=failure_fix(text))


@contextmanager
def translated(server: str, fixes: Mapping[SourceReason, str] = {}) -> Iterator[None]:
    """Raise psycopg's errors, and a server that does not answer in time, as SourceError. `fixes`: see
    `statement_error`."""
    try:
        yield
    except psycopg.Error as error:
        raise statement_error(error, server, fixes=fixes) from None
    except TimeoutError:
        raise SourceError("the server does not answer", SourceReason.STALLED, server=server) from None


_UNDEFINED_OBJECT = "42704"
_SQLSTATES = {
    "28000": SourceReason.AUTH,
    "28P01": SourceReason.AUTH,
    "42501": SourceReason.PERMISSION,
    "42P01": SourceReason.MISSING,
    _UNDEFINED_OBJECT: SourceReason.MISSING,
    "3F000": SourceReason.MISSING,
}
# Materialize reports most things as XX000, so only its text distinguishes them (each pattern is from a live server).
_MESSAGES = (
    (re.compile(r"unknown (catalog item|cluster|schema|database)"), SourceReason.MISSING),
    (re.compile(r"has been terminated because underlying .* was dropped"), SourceReason.DROPPED),
    (re.compile(r"has no replicas available"), SourceReason.STALLED),
    (re.compile(r"^SUBSCRIBE fell behind"), SourceReason.FELL_BEHIND),
    (re.compile(r"^result exceeds max size"), SourceReason.TOO_LARGE),
    (re.compile(r"^(Evaluation|Decode|Source) error"), SourceReason.ROW_ERROR),
)
# An AS OF before the oldest readable time, in the words of v26.39 and v26.8.
_TOO_OLD = re.compile(
    r"^(could not find a valid timestamp for the query|Timestamp \(\d+\) is not valid for all inputs)"
)
_FIXES = {
    SourceReason.PERMISSION: "grant the role what it needs",
    SourceReason.MISSING: "check the name in the configuration",
    SourceReason.DROPPED: "create it again, or change the alert",
    SourceReason.STALLED: "add a replica to the cluster, or name another one",
    SourceReason.TOO_LARGE: "reduce the rows of the view, or raise max_result_size",
    SourceReason.ROW_ERROR: "fix the row or the view's expression",
}
_CLOCK = re.compile(r"cannot materialize call to")
_CLOCK_FIX = "a view may compare mz_now() with a column in its WHERE, and use no other clock"
_BY_THE_CLIENT = (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)
"""Errors that psycopg raises itself, when the server gave no SQLSTATE, over a connection that works."""


def statement_error(
    error: psycopg.Error, server: str, *, running: bool = False, fixes: Mapping[SourceReason, str] = {}
) -> SourceError:
    """What a failed statement or a broken stream means, and whether history may be asked for again.

    A row error forbids that: an AS OF before it fails again, though the view is healthy. So does the answer that the AS
    OF is too old. Any other error, known or not, is like a lost connection: without history, rows that came and went
    are lost.

    `running`: the statement had begun to answer, so an object that the server no longer knows was dropped meanwhile.
    `fixes`: what to do where it differs from the usual.
    """
    if error.sqlstate is None:
        if isinstance(error, _BY_THE_CLIENT):
            return SourceError(failure_text(error), SourceReason.OTHER, server=server)
        return SourceError(f"connection lost: {failure_text(error)}", SourceReason.DISCONNECTED, server=server)
    primary = _line(error.diag.message_primary or "") or failure_text(error)
    # Detail and hint are sentences, of which not everyone writes the full stop.
    extra = ". ".join(_line(part).rstrip(".") for part in (error.diag.message_detail, error.diag.message_hint) if part)
    reason = _reason(error.sqlstate, primary, running=running)
    return SourceError(
        primary + (f" ({extra})" if extra else ""),
        reason,
        server=server,
        fix=_CLOCK_FIX if _CLOCK.search(primary) else {**_FIXES, **fixes}.get(reason, ""),
        history=reason is not SourceReason.ROW_ERROR and not _TOO_OLD.search(primary),
    )


def _line(text: str) -> str:
    """The lines of a text as one."""
    return "; ".join(" ".join(line.split()).rstrip(";") for line in text.splitlines() if line.strip())


def _reason(sqlstate: str, primary: str, *, running: bool) -> SourceReason:
    if running and sqlstate == _UNDEFINED_OBJECT:
        return SourceReason.DROPPED
    if sqlstate in _SQLSTATES:
        return _SQLSTATES[sqlstate]
    return next((reason for pattern, reason in _MESSAGES if pattern.search(primary)), SourceReason.OTHER)
