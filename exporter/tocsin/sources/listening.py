"""One connection that listens to NOTIFY for all alerts of a source."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import structlog
from psycopg import sql

from tocsin.backoff import Backoff
from tocsin.errors import SourceError, SourceReason
from tocsin.sources.settings import PostgresConfig
from tocsin.sources.wire import Wire, hears

log = structlog.get_logger(__name__)

Connections = Callable[[], AbstractAsyncContextManager[Wire]]
"""A connection of the source's pool, for the length of a block. Raises SourceError."""

_STANDBY = sql.SQL("SELECT pg_is_in_recovery()")
"""Asked first: a LISTEN would leave an error in the log of a standby."""


async def listen(wire: Wire, config: PostgresConfig, second: Connections) -> None:
    """Listen to the channels. Raises SourceError if nothing would be received, and psycopg.Error and TimeoutError."""
    async with asyncio.timeout(config.connect_timeout):
        standby = await wire.query(_STANDBY) == [("t",)]
    if standby:
        raise _deaf(config, "a standby accepts no LISTEN")
    if not await hears(wire, config, second):
        raise _deaf(config, "LISTEN receives nothing; a pooler passes on NOTIFY only in pool mode session")
    async with asyncio.timeout(config.connect_timeout):
        await wire.allow_idling()
        for channel in config.notify:
            await wire.query(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))


def _deaf(config: PostgresConfig, why: str) -> SourceError:
    fix = "connect to the primary itself, or remove notify"
    return SourceError(why, SourceReason.OTHER, server=config.display, fix=fix)


def note(config: PostgresConfig, error: SourceError) -> str:
    """What it means that the connection does not listen."""
    consequence = f"NOTIFY on {', '.join(config.notify)} is not received and rows are read every {config.interval:g} s"
    return f"{config.display}: {error.message}, so {consequence}" + (f"; {error.fix}" if error.fix else "")


class Listener:
    """Wakes the alerts of one source on NOTIFY, while there are any."""

    def __init__(self, source: str, config: PostgresConfig, connections: Connections) -> None:
        self.note = ""
        """Why nothing that is notified is received; empty if it is, or if there are no channels."""
        self._source = source
        self._config = config
        self._connections = connections
        self._alerts: set[asyncio.Event] = set()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def waking(self, alert: asyncio.Event) -> AsyncIterator[None]:
        """Set the event on each NOTIFY, for the length of the block, and when NOTIFY begins or stops being received:
        one may have been missed. Begins when it has been tried to listen."""
        if not self._config.notify:
            yield
            return
        self._alerts.add(alert)
        if self._task is None:
            self._tried.clear()
            self._task = asyncio.create_task(self._run(), name=f"LISTEN of {self._source}")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.progress_timeout):
                    await self._tried.wait()
            yield
        finally:
            self._alerts.discard(alert)
            if not self._alerts and self._task is not None:
                task, self._task = self._task, None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        backoff = Backoff(initial=self._config.backoff_initial, maximum=self._config.backoff_max)
        attempt = 0
        while True:
            try:
                async with self._connections() as wire:
                    await listen(wire, self._config, self._connections)
                    attempt = 0
                    self._changed("")
                    while True:
                        await wire.wait_notified()
                        self._wake()
            except SourceError as error:
                self._changed(note(self._config, error))
            except Exception as error:  # a defect must not end it in silence
                log.exception("defect in LISTEN", source=self._source)
                self._changed(f"NOTIFY is not received: {error!r}")
            await asyncio.sleep(backoff.delay(attempt, random.random))
            attempt += 1

    def _changed(self, note: str) -> None:
        received = not note or not self.note
        self.note = note
        self._tried.set()
        if received:  # now or until now; else rows are read on the interval, however often it is tried to listen
            self._wake()

    def _wake(self) -> None:
        for alert in self._alerts:
            alert.set()
