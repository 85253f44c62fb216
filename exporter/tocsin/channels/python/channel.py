"""The Python channel: one call of the handler for each notification."""

import asyncio
import copy
import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from tocsin import handlers
from tocsin.channels.base import Channel, Delivered, Message, Rejected, Result, Retry
from tocsin.channels.http import MAX_RETRY_AFTER
from tocsin.channels.python.loading import Handler, arguments, told
from tocsin.channels.python.settings import Config, Options
from tocsin.channels.threads import Threads
from tocsin.errors import Reason
from tocsin.redaction import redactor
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_CANCELLED = 1.0
"""Seconds that what is awaited has to end once it has been cancelled."""

_ROOM = 3.0
"""Seconds that a call waits for room at most: with `_CANCELLED`, less than a dispatcher gives a channel beyond its
timeout."""

_DRAIN = 3.0
"""Seconds that calls under way have at the end; less than a dispatcher gives a channel to close."""

_STILL_RUNNING = 5.0
"""Seconds until it is looked again whether a call that hangs has ended."""

_REMEMBERED = 1_000


@dataclass(slots=True)
class _Call:
    """A call that has begun and not ended. `awaited`: it is in no thread, so it can be cancelled. `overdue`: nobody
    waits for it any more."""

    awaited: bool
    overdue: bool = False
    task: asyncio.Task[Result] = field(init=False)


class Python(Channel):
    """Calls the handler, at most `concurrency` times at once and never twice at once for one notification.

    A call that exceeds the timeout counts as failed for its notification. One in a thread cannot be ended: it goes on
    to count among those that run. What such a call says in the end is remembered as the answer to the next attempt.
    """

    def __init__(self, name: str, config: Config, handler: Handler, routes: Mapping[str, Options]) -> None:
        self._name = name
        self._config = config
        self._handler = handler
        self._arguments = {alert: arguments(options) for alert, options in routes.items()}
        self._otherwise = arguments(config)
        self._redact = redactor(
            [secret for options in (config, *routes.values()) for secret in options.secret_arguments.values()]
        )
        self._threads = Threads(f"tocsin-{name}")
        self._running: dict[str, _Call] = {}
        self._hanging = Repeats(log, "a handler hangs; its call keeps its place until it ends")
        self._late: dict[str, Result] = {}

    def __repr__(self) -> str:
        return f"Python({self._name!r})"

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await asyncio.gather(*(self._send(message) for message in messages))

    async def close(self) -> None:
        """Wait a little for the calls under way, then let them go."""
        running = [call.task for call in self._running.values()]
        if running:
            await asyncio.wait(running, timeout=_DRAIN)
        self._threads.close()
        left = [task for task in running if not task.done()]
        if left:
            log.warning("handlers still run and are left behind", channel=self._name, calls=len(left))
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CANCELLED)

    # Calls and their time.

    async def _send(self, message: Message) -> Result:
        if message.id in self._late:
            return self._late.pop(message.id)
        refusal = await self._room(message.id)
        if refusal is not None:
            return refusal
        call = self._running[message.id] = _Call(awaited=self._handler.is_async)
        call.task = asyncio.create_task(self._call(message, call))
        call.task.add_done_callback(functools.partial(self._ended, message.id))
        try:
            await asyncio.wait({call.task}, timeout=self._config.timeout)
            if not call.task.done() and call.awaited:
                call.task.cancel()
                await asyncio.wait({call.task}, timeout=_CANCELLED)
        finally:
            call.overdue = not call.task.done()
            if call.overdue and call.awaited and not call.task.cancelling():  # the attempt itself is given up
                call.task.cancel()
        if call.overdue:
            self._warn(message)
        if call.overdue or call.task.cancelled():
            return Retry(Reason.TIMEOUT, f"the handler did not end within {self._config.timeout:g} s")
        return call.task.result()

    async def _room(self, id_: str) -> Retry | None:
        """Wait until one more call may begin, or say why it may not."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + min(self._config.timeout, _ROOM)
        while True:
            if id_ in self._running:
                why = "the call before, for the same notification, has not ended"
                return Retry(Reason.TIMEOUT, why, after=_STILL_RUNNING, free=True)
            if len(self._running) < self._config.concurrency:
                return None
            lively = [call.task for call in self._running.values() if not call.overdue]
            if not lively or loop.time() >= limit:
                hanging = len(self._running) - len(lively)
                why = f"{hanging} of {self._config.concurrency} calls hang in the handler; no more are begun"
                return Retry(Reason.TIMEOUT, why, after=_STILL_RUNNING, free=True)
            await asyncio.wait(lively, timeout=limit - loop.time(), return_when=asyncio.FIRST_COMPLETED)

    def _warn(self, message: Message) -> None:
        self._hanging.add(
            channel=self._name,
            notification=message.id,
            hanging=sum(call.overdue for call in self._running.values()),
            concurrency=self._config.concurrency,
        )

    def _ended(self, id_: str, task: asyncio.Task[Result]) -> None:
        call = self._running.pop(id_)
        if task.cancelled() or not call.overdue:
            return
        result = task.result()
        log.info("a handler that hung has ended", channel=self._name, notification=id_, result=type(result).__name__)
        if isinstance(result, Delivered | Rejected):
            self._late[id_] = result
            while len(self._late) > _REMEMBERED:
                del self._late[next(iter(self._late))]

    # One call.

    async def _call(self, message: Message, call: _Call) -> Result:
        # Each call has everything to itself: a handler may change what it is given.
        message = replace(message, envelope=copy.deepcopy(message.envelope))
        logger = log.bind(channel=self._name, notification=message.id)
        given = {"message": message, "log": logger}
        keywords = {name: given[name] for name in self._handler.given}
        keywords |= copy.deepcopy(self._arguments.get(message.alert, self._otherwise))
        handler = functools.partial(self._handler.call, message.envelope, **keywords)
        if call.awaited:
            return await self._awaited(handler, logger)
        outcome = await self._threads.run(functools.partial(self._called, handler, logger))
        if isinstance(outcome, Delivered | Retry | Rejected):
            return outcome
        if call.overdue:
            return _too_late(outcome)
        call.awaited = True
        return await self._awaited(lambda: outcome, logger)

    def _called(self, handler: Callable[[], Any], logger: structlog.stdlib.BoundLogger) -> Any:
        """The result of a call in a thread; or what it returned, if that is to be awaited."""
        try:
            value = handler()
        except BaseException as error:  # noqa: BLE001 - SystemExit too is only a failed call
            return self._failure(error, logger)
        return value if inspect.isawaitable(value) else self._result(value)

    async def _awaited(self, handler: Callable[[], Any], logger: structlog.stdlib.BoundLogger) -> Result:
        try:
            value = handler()
            return self._result(await value if isinstance(value, Awaitable) else value)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failure(error, logger)
        except BaseException as error:  # noqa: BLE001 - the same; it must not end the loop
            return self._failure(error, logger)

    def _result(self, value: object) -> Result:
        if value is False:
            return Retry(Reason.NOT_PROCESSED, "the handler returned False")
        return Delivered(self._redact(value)) if isinstance(value, str) else Delivered()

    def _failure(self, error: BaseException, logger: structlog.stdlib.BoundLogger) -> Result:
        if isinstance(error, handlers.Reject):
            return Rejected(Reason.REJECTED, self._redact(str(error)) or "the handler rejects it")
        if isinstance(error, handlers.Retry):
            after = _seconds(error.after)
            why = self._redact(str(error)) or "the handler asks to be called again"
            return Retry(Reason.NOT_PROCESSED, why, after=after, free=after is not None)
        logger.debug("the handler raised", exc_info=error)
        return Retry(_reason(error), told(error, self._redact))


def _too_late(returned: object) -> Retry:
    """The result of a call that returned something to be awaited when its time was up: nothing awaits that."""
    if isinstance(returned, asyncio.Future):
        returned.cancel()
    elif inspect.iscoroutine(returned):
        returned.close()
    return Retry(Reason.TIMEOUT, "the handler returned something to be awaited when its time was up")


def _seconds(after: object) -> float | None:
    """What a handler asks to wait, where that is a time."""
    if isinstance(after, int | float) and math.isfinite(after) and after >= 0:
        return min(float(after), MAX_RETRY_AFTER)
    return None


def _reason(error: BaseException) -> Reason:
    # Two kinds say that whom the handler calls is down, which holds for other notifications too. Anything else may be
    # due to this one alone and must not hold up the rest.
    if isinstance(error, TimeoutError):
        return Reason.TIMEOUT
    return Reason.CONNECTION if isinstance(error, ConnectionError) else Reason.INTERNAL
