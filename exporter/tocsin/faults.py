"""Exceptions that no code expected, failed connections and cancellations: how they are described, and which of them end
a task."""

import asyncio
import errno
import os
import ssl
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def unexpected(error: BaseException) -> str:
    """Describe an exception by its type and by the last place in Tocsin that it passed.

    Without the text of the exception, which may hold anything, a password too.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    where = "an unknown place"
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.partition(".")[0] == "tocsin":
            where = f"{name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"unexpected {type(error).__name__} in {where}"


def why_unreachable(error: BaseException) -> str:
    """Describe why a connection could not be made, as the operating system does: by the first error of those that led
    to `error`. Libraries have texts of their own for it ("All connection attempts failed")."""
    first = error
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause
        first = error if isinstance(error, OSError) else first
    if isinstance(first, ssl.SSLCertVerificationError):
        return f"the server's certificate is not valid: {first.verify_message}"
    if isinstance(first, ssl.SSLError) and first.reason:
        return f"TLS failed: {first.reason.replace('_', ' ').lower()}"
    if not isinstance(first, OSError):
        return str(first) or type(first).__name__
    # asyncio has texts of its own. Numbers that are not of the system are those of the resolver.
    number = first.errno or 0
    if number in errno.errorcode and not isinstance(first, ssl.SSLError):
        return os.strerror(number)
    return first.strerror or str(first) or type(first).__name__


def must_end(error: BaseException) -> bool:
    """Whether `error` cancels the current task because its owner asked for that.

    A library may cancel tasks that wait on a lost connection. Such a cancellation is a fault like any other.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Do some work to its end, even when the caller is cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # the cancellation counts
        raise
