"""The Python channel: one call of the handler for each notification."""

import asyncio
import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from tocsin import handlers
from tocsin.channels.base import Channel, Delivered, Message, Rejected, Result, Retry
from tocsin.channels.http import MAX_RETRY_AFTER
from tocsin.channels.python.loading import Handler, arguments, describe
from tocsin.channels.python.settings import Config, Options
from tocsin.channels.threads import Threads
from tocsin.errors import Reason
from tocsin.redaction import masked, masker, redacted, redactor
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_CANCEL_TIMEOUT = 1.0
"""Seconds that a cancelled call has to end."""

_SLOT_TIMEOUT = 3.0
"""Seconds that a call waits for a slot at most: with `_CANCEL_TIMEOUT`, less than a dispatcher gives a channel beyond
its timeout."""

_DRAIN = 3.0
"""Seconds for running calls at the end; less than a dispatcher allows for closing."""

_STILL_RUNNING = 5.0
"""Seconds before checking again whether a hanging call has ended."""

_REMEMBERED = 1_000


@dataclass(slots=True)
class _Call:
    """A running call. `awaited`: no longer in a thread, so it can be cancelled. `overdue`: its attempt is over."""

    awaited: bool = False
    overdue: bool = False
    task: asyncio.Task[Result] = field(init=False)


class Python(Channel):
    """Calls the handler, at most `concurrency` times at once and never twice at once for one notification.

    A call that exceeds the timeout counts as failed. One in a thread cannot be cancelled: it keeps its slot until it
    ends, and its result then answers the next attempt.
    """

    may_end_process = True

    def __init__(self, name: str, config: Config, handler: Handler, routes: Mapping[str, Options]) -> None:
        self._name = name
        self._config = config
        self._handler = handler
        self._options = routes
        self._arguments = {alert: arguments(options) for alert, options in routes.items()}
        self._default = arguments(config)
        secrets = [secret for options in (config, *routes.values()) for secret in options.secret_arguments.values()]
        self._redact = redactor(secrets)
        self._mask = masker(secrets)
        self._threads = Threads(f"tocsin-{name}")
        self._slots = asyncio.Semaphore(config.concurrency)
        self._running: dict[str, _Call] = {}
        self._hanging = Repeats(log, "a handler hangs; its call keeps its slot until it ends")
        self._late: dict[str, Result] = {}

    def __repr__(self) -> str:
        return f"Python({self._name!r})"

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await asyncio.gather(*(self._send(message) for message in messages))

    def preview(self, message: Message) -> Mapping[str, Any]:
        options = self._options.get(message.alert, self._config)
        keywords = redacted({**options.arguments, **options.secret_arguments})
        shown = {"handler": self._config.handler, "envelope": masked(message.envelope, self._mask)}
        return {**shown, "arguments": keywords} if keywords else shown

    async def close(self) -> None:
        """Wait a little for running calls, then abandon them."""
        running = [call.task for call in self._running.values()]
        if running:
            await asyncio.wait(running, timeout=_DRAIN)
        self._threads.close()
        left = [task for task in running if not task.done()]
        if left:
            log.warning("handlers still run and are abandoned", channel=self._name, calls=len(left))
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CANCEL_TIMEOUT)

    async def _send(self, message: Message) -> Result:
        if message.id in self._late:
            return self._late.pop(message.id)
        if message.id in self._running:
            why = "the previous call for this notification has not ended"
            return Retry(Reason.TIMEOUT, why, after=_STILL_RUNNING, free=True)
        try:
            async with asyncio.timeout(min(self._config.timeout, _SLOT_TIMEOUT)):
                await self._slots.acquire()
        except TimeoutError:
            hanging, most = self._overdue(), self._config.concurrency
            why = f"{hanging} of {most} calls hang in the handler; no more are started"
            return Retry(Reason.TIMEOUT, why, after=_STILL_RUNNING, free=True)
        call = self._running[message.id] = _Call()
        call.task = asyncio.create_task(self._call(message, call))
        call.task.add_done_callback(functools.partial(self._ended, message.id))
        try:
            await asyncio.wait({call.task}, timeout=self._config.timeout)
        finally:  # also where the attempt itself is cancelled
            call.overdue = not call.task.done()
            if call.overdue and call.awaited:
                call.task.cancel()
        if not call.overdue:
            return call.task.result()
        if call.awaited:
            await asyncio.wait({call.task}, timeout=_CANCEL_TIMEOUT)
        if not call.task.done():
            most = self._config.concurrency
            self._hanging.add(channel=self._name, notification=message.id, hanging=self._overdue(), concurrency=most)
        return Retry(Reason.TIMEOUT, f"the handler did not end within {self._config.timeout:g} s")

    def _overdue(self) -> int:
        return sum(call.overdue for call in self._running.values())

    def _ended(self, id_: str, task: asyncio.Task[Result]) -> None:
        call = self._running.pop(id_)
        self._slots.release()
        if task.cancelled() or not call.overdue:
            return
        result = task.result()
        log.info("a hanging handler has ended", channel=self._name, notification=id_, result=type(result).__name__)
        if isinstance(result, Delivered | Rejected):
            self._late[id_] = result
            while len(self._late) > _REMEMBERED:
                del self._late[next(iter(self._late))]

    async def _call(self, message: Message, call: _Call) -> Result:
        # A copy for each call: a handler may change its arguments.
        message = replace(message, envelope=copy.deepcopy(message.envelope))
        logger = log.bind(channel=self._name, notification=message.id)
        given = {"message": message, "log": logger}
        keywords = {name: given[name] for name in self._handler.given}
        keywords |= copy.deepcopy(self._arguments.get(message.alert, self._default))
        handler = functools.partial(self._handler.call, message.envelope, **keywords)
        called = functools.partial(self._called, handler, logger)
        outcome = called() if self._handler.is_async else await self._threads.run(called)
        if isinstance(outcome, Delivered | Retry | Rejected):
            return outcome
        if call.overdue:
            return _too_late(outcome)
        call.awaited = True
        try:
            return self._result(await outcome)
        except asyncio.CancelledError as error:
            if call.overdue:
                raise
            return self._failure(error, logger)
        except BaseException as error:  # noqa: BLE001 - it must not end the loop
            return self._failure(error, logger)

    def _called(self, handler: Callable[[], Any], logger: structlog.stdlib.BoundLogger) -> Any:
        """Return the result of a call, or its awaitable."""
        try:
            value = handler()
        except BaseException as error:  # noqa: BLE001 - SystemExit too is only a failed call
            return self._failure(error, logger)
        return value if inspect.isawaitable(value) else self._result(value)

    def _result(self, value: object) -> Result:
        if value is False:
            return Retry(Reason.NOT_PROCESSED, "the handler returned False")
        return Delivered(self._redact(value)) if isinstance(value, str) else Delivered()

    def _failure(self, error: BaseException, logger: structlog.stdlib.BoundLogger) -> Result:
        if isinstance(error, handlers.Reject):
            return Rejected(Reason.REJECTED, self._redact(str(error)) or "the handler rejected it")
        if isinstance(error, handlers.Retry):
            after = _seconds(error.after)
            why = self._redact(str(error)) or "the handler asked for a retry"
            return Retry(Reason.NOT_PROCESSED, why, after=after, free=after is not None)
        logger.debug("the handler raised", exc_info=error)
        return Retry(_reason(error), describe(error, self._redact))


def _too_late(returned: object) -> Retry:
    """Close an awaitable that was returned after the timeout, and return the result."""
    if isinstance(returned, asyncio.Future):
        returned.cancel()
    elif inspect.iscoroutine(returned):
        returned.close()
    return Retry(Reason.TIMEOUT, "the handler returned an awaitable after the timeout")


def _seconds(after: object) -> float | None:
    """Return the wait that a handler asked for, if it is valid."""
    if isinstance(after, int | float) and math.isfinite(after) and after >= 0:
        return min(float(after), MAX_RETRY_AFTER)
    return None


def _reason(error: BaseException) -> Reason:
    # These two mean that a service is down, which affects other notifications too. Anything else may be due to this
    # notification and must not delay the rest.
    if isinstance(error, TimeoutError):
        return Reason.TIMEOUT
    return Reason.CONNECTION if isinstance(error, ConnectionError) else Reason.INTERNAL
