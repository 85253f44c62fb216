"""Restarts the loop of a channel after an unexpected exception."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tocsin.backoff import Backoff
from tocsin.errors import Reason
from tocsin.exposition import ChannelMetrics
from tocsin.faults import must_end, unexpected

log = structlog.get_logger(__name__)

_SHORTEST = 0.5
"""The shortest pause before a restart, in seconds."""


class Supervisor:
    """Runs the loop of a channel, so that a defect stops neither the process nor other channels."""

    def __init__(self, name: str, metrics: ChannelMetrics, backoff: Backoff, chance: Callable[[], float]) -> None:
        self.message = ""
        """The exception that stopped the loop, by type and place; empty while the loop works."""
        self._name = name
        self._metrics = metrics
        self._backoff = backoff
        self._chance = chance
        self._stops = 0

    async def run(self, loop: Callable[[], Awaitable[None]], forget: Callable[[], Awaitable[None]]) -> None:
        """Run `loop` until cancelled. `forget`: called after an exception, before the loop starts again."""
        while True:
            try:
                await loop()
            except (Exception, asyncio.CancelledError) as error:
                if must_end(error):
                    raise
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # a task group hides that behind an exception
                    raise asyncio.CancelledError from error
                self._stopped(error)
            await forget()
            await asyncio.sleep(self._backoff.delay(self._stops, self._chance, at_least=_SHORTEST))
            self._stops += 1

    def works(self) -> None:
        """The loop did something without an exception."""
        self.message, self._stops = "", 0

    def _stopped(self, error: BaseException) -> None:
        self._metrics.failures[Reason.INTERNAL].inc()
        message = unexpected(error)
        # Logged once a streak.
        if message != self.message:
            log.error("channel stopped, starting again", channel=self._name, error=message)
        log.debug("unexpected exception", channel=self._name, exc_info=error)
        self.message = message
