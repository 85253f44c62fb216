"""The alerts of one process: a watch for each on rows, an intake for each source of events."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Sequence

import structlog

from tocsin.alert import Alert, EventAlert, RowAlert
from tocsin.app import build
from tocsin.app.outputs import Outputs
from tocsin.app.running import Running, cancelled
from tocsin.config import Config, SourceConfig
from tocsin.errors import LedgerError
from tocsin.exposition import Metrics, Page
from tocsin.ledger.base import Ledger
from tocsin.model import Transition
from tocsin.pipeline.events import EventOutputs, EventPipeline
from tocsin.pipeline.feed import Feed
from tocsin.pipeline.rows import RowOutputs, RowPipeline
from tocsin.pipeline.status import AlertStatus, Stall
from tocsin.sources.base import Source
from tocsin.sources.http import Http

log = structlog.get_logger(__name__)


class Inputs:
    """Starts, changes and stops the ways in. `stalled` is told when a source ends the process, as its settings ask."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        metrics: Metrics,
        page: Page,
        feed: Feed,
        outputs: Outputs,
        stalled: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tasks = tasks
        self._metrics = metrics
        self._page = page
        self._feed = feed
        self._outputs = outputs
        self._stalled = stalled
        self._clock = clock
        self._sources: dict[str, tuple[SourceConfig, Source]] = {}
        self._watches: dict[str, Running[RowPipeline]] = {}
        self._intakes: dict[str, Running[EventPipeline]] = {}

    def watch(self, alert: str) -> RowPipeline | None:
        """The watch of an alert on rows, if it runs."""
        running = self._watches.get(alert)
        return None if running is None else running.what

    def status(self, alert: Alert) -> AlertStatus | None:
        """The status of an alert, if it runs."""
        if isinstance(alert, EventAlert):
            intake = self._intakes.get(alert.source)
            return None if intake is None else intake.what.status(alert)
        watch = self.watch(alert.name)
        return None if watch is None else watch.status()

    @property
    def warnings(self) -> dict[str, str]:
        """The sources whose events may soon be lost, each with what to say of it."""
        return {name: running.what.warning for name, running in self._intakes.items() if running.what.warning}

    def receiver(self, alert: Alert) -> Http | None:
        """The source that takes events for an alert over HTTP, if it does and runs."""
        running = self._intakes.get(alert.source) if isinstance(alert, EventAlert) else None
        source = running.what.source if running else None
        return source if isinstance(source, Http) else None

    def refused_request(self, alert: Alert, status: int, why: str) -> None:
        """A request to the source of an alert was answered with an error."""
        running = self._intakes.get(alert.source)
        if running is not None:
            running.what.refused_request(status, why)

    def current(self, alerts: Sequence[str]) -> dict[str, list[Transition] | None]:
        """What fires now of some alerts; None: not known."""
        return {name: self._watches[name].what.current() if name in self._watches else None for name in alerts}

    def start(self, config: Config, ledger: Ledger | None) -> None:
        """Run what does not run yet."""
        for name, row_alert in config.row_alerts.items():
            if name not in self._watches:
                self._start_watch(config, row_alert, ledger)
        for alert in config.event_alerts.values():
            if alert.source not in self._intakes:
                assert ledger is not None  # such an alert has a channel, and where there are channels there is a ledger
                self._start_intake(config, alert.source, ledger)

    async def stop_outdated(self, config: Config) -> None:
        """Stop what is no longer configured, or otherwise."""
        await self._stop_watches(
            [
                name
                for name, running in self._watches.items()
                if name not in config.row_alerts or running.parts != _watch_parts(config, config.row_alerts[name])
            ]
        )
        await self._stop_intakes(
            [name for name, running in self._intakes.items() if running.parts != _intake_parts(config, name)]
        )

    async def stop(self) -> None:
        """Take nothing in any more."""
        await self._stop_watches(list(self._watches))
        await self._stop_intakes(list(self._intakes))

    def _start_watch(self, config: Config, alert: RowAlert, ledger: Ledger | None) -> None:
        metrics = self._metrics.alert(alert.name)
        outlets = RowOutputs(
            page=self._page,
            metrics=metrics,
            ledger=ledger if alert.edges else None,
            router=build.router(config, alert, metrics),
            offer=self._outputs.offer,
            publish=self._feed.publish,
            changed=functools.partial(self._outputs.changed, alert),
            columns=build.row_columns(config, alert, metrics),
        )
        source = config.sources[alert.source]
        watch = RowPipeline(alert, self._source(source), build.timing(source), outlets, clock=self._clock)
        task = self._tasks.create_task(self._until_stall(watch), name=f"alert {alert.name}")
        self._watches[alert.name] = Running(what=watch, task=task, parts=_watch_parts(config, alert))

    def _source(self, config: SourceConfig) -> Source:
        """The source of rows of a configuration; all its alerts share it."""
        there = self._sources.get(config.name)
        if there is None or there[0] != config:
            there = self._sources[config.name] = config, build.make_source(config)
        return there[1]

    def _start_intake(self, config: Config, name: str, ledger: Ledger) -> None:
        source = config.sources[name]
        takers = []
        for alert in config.event_alerts.values():
            if alert.source == name:
                metrics = self._metrics.alert(alert.name)
                takers.append(build.taker(config, alert, metrics))
        outlets = EventOutputs(
            ledger=ledger,
            metrics=self._metrics.source(name),
            offer=self._outputs.offer,
            publish=self._feed.publish,
            keep=not config.dry_run,
        )
        intake = EventPipeline(
            name,
            build.make_event_source(source),
            takers,
            build.backoff(source),
            outlets,
            give_up_after=source.settings.exit_after,
            clock=self._clock,
        )
        task = self._tasks.create_task(self._until_stall(intake), name=f"source {name}")
        self._intakes[name] = Running(what=intake, task=task, parts=_intake_parts(config, name))

    async def _until_stall(self, follower: RowPipeline | EventPipeline) -> None:
        try:
            await follower.run()
        except Stall as stall:
            log.error("stopping, as the source's settings ask", error=str(stall))
            self._stalled(str(stall))

    async def _stop_watches(self, names: Sequence[str]) -> None:
        stopped = [self._watches.pop(name) for name in names]
        await cancelled(stopped)
        for running in stopped:
            with contextlib.suppress(LedgerError):
                await running.what.finish()
            running.what.close()

    async def _stop_intakes(self, names: Sequence[str]) -> None:
        # What is cut off between commit and acknowledgement is delivered again, and known.
        await cancelled([self._intakes.pop(name) for name in names])


def _watch_parts(config: Config, alert: Alert) -> object:
    return alert, config.sources[alert.source], build.routes(config, alert)


def _intake_parts(config: Config, name: str) -> object:
    alerts = [alert for alert in config.event_alerts.values() if alert.source == name]
    return config.sources.get(name), [(alert, build.routes(config, alert)) for alert in alerts]
