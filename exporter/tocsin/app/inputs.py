"""The alerts of one process: a pipeline for each alert on rows, and one for each source of events.

Where several processes share a ledger, each takes events. Of the alerts on rows it leads its share, and follows the
others for their gauges, so that these do not end with the process that leads them (`ledger.follow`).
"""

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import structlog

from tocsin.alert import Alert, EventAlert, RowAlert
from tocsin.app import build
from tocsin.app.fleet import Fleet
from tocsin.app.outputs import Outputs
from tocsin.config import Config, SourceConfig
from tocsin.errors import LedgerError
from tocsin.exposition import AlertStatus, Metrics, Page
from tocsin.ledger.base import Ledger
from tocsin.model import Transition
from tocsin.pipeline.events import EventOutputs, EventPipeline
from tocsin.pipeline.feed import Feed
from tocsin.pipeline.reporter import Stall
from tocsin.pipeline.rows import RowOutputs, RowPipeline
from tocsin.pipeline.tap import Tap
from tocsin.sources.base import EventSource, Source

log = structlog.get_logger(__name__)


class Inputs:
    """Starts, replaces and stops pipelines. `stalled` is called when a source ends the process, by its settings."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        metrics: Metrics,
        page: Page,
        feed: Feed,
        outputs: Outputs,
        stalled: Callable[[str], None],
        *,
        tap: Tap | None = None,
        make_source: Callable[[SourceConfig], Source | EventSource] = build.make_source,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._metrics = metrics
        self._page = page
        self._feed = feed
        self._outputs = outputs
        self._stalled = stalled
        self._tap = tap or Tap()
        self._make_source = make_source
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self.leads: AbstractSet[str] = frozenset()
        """The alerts on rows that this process leads."""
        self._sources: dict[str, tuple[SourceConfig, Source]] = {}
        self._rows: Fleet[RowPipeline] = Fleet(tasks)  # by alert
        self._events: Fleet[EventPipeline] = Fleet(tasks)  # by source

    def rows(self, alert: str) -> RowPipeline | None:
        """Return the pipeline of an alert on rows, if it runs."""
        return self._rows.get(alert)

    def events(self, source: str) -> EventPipeline | None:
        """Return the pipeline of a source of events, if it runs."""
        return self._events.get(source)

    def status(self, alert: Alert) -> AlertStatus | None:
        """Return the status of an alert, if it runs."""
        if isinstance(alert, EventAlert):
            events = self.events(alert.source)
            return None if events is None else events.status(alert)
        rows = self.rows(alert.name)
        return None if rows is None else rows.status()

    @property
    def warnings(self) -> dict[str, str]:
        """The sources whose events may soon be lost, each with a warning."""
        return {name: pipeline.warning for name, pipeline in self._events.all().items() if pipeline.warning}

    def current(self, alerts: Sequence[str]) -> dict[str, list[Transition] | None]:
        """Return what fires now, by alert; None where it is unknown."""
        pipelines = {name: self.rows(name) for name in alerts}
        return {name: None if pipeline is None else pipeline.current() for name, pipeline in pipelines.items()}

    async def update(self, config: Config, ledger: Ledger | None, leads: AbstractSet[str]) -> None:
        """Stop what is outdated, and start what does not run yet."""
        await self.stop_outdated(config, leads)
        self.leads = leads
        for name, alert in _to_run(config, leads).items():
            if self.rows(name) is None:
                self._start_rows(config, alert, ledger)
        for source in {alert.source: None for alert in config.event_alerts.values()}:
            if self.events(source) is None:
                assert ledger is not None  # such an alert has a channel, and a channel needs a ledger
                self._start_events(config, source, ledger)

    async def stop_outdated(self, config: Config, leads: AbstractSet[str]) -> None:
        """Stop what is no longer configured, or configured otherwise, or led otherwise."""
        stay = _to_run(config, leads)
        rows = {name: _row_spec(config, alert, leads) for name, alert in stay.items()}
        await self._stop_rows(self._rows.outdated(rows), stay)
        await self._stop_events(self._events.outdated({name: _event_spec(config, name) for name in config.sources}))

    async def stop(self) -> None:
        """Stop all pipelines."""
        await self._stop_rows(list(self._rows.all()))
        await self._stop_events(list(self._events.all()))

    def _start_rows(self, config: Config, alert: RowAlert, ledger: Ledger | None) -> None:
        metrics = self._metrics.alert(alert.name)
        outputs = RowOutputs(
            page=self._page,
            metrics=metrics,
            ledger=ledger if alert.transition_channels or _counts_for_levels(alert) else None,
            router=build.router(config, alert, metrics),
            offer=self._outputs.offer,
            publish=self._feed.publish,
            changed=functools.partial(self._outputs.changed, alert),
            columns=build.row_columns(config, alert, metrics),
            leads=alert.name in self.leads,
            tap=self._tap,
        )
        source = config.sources[alert.source]
        pipeline = RowPipeline(
            alert,
            self._source(source),
            build.timing(source),
            outputs,
            clock=self._clock,
            monotonic=self._monotonic,
            chance=self._chance,
        )
        work = self._until_stall(pipeline)
        self._rows.start(alert.name, _row_spec(config, alert, self.leads), pipeline, work, f"alert {alert.name}")

    def _source(self, config: SourceConfig) -> Source:
        """Return the source of a configuration, which all its alerts share."""
        known = self._sources.get(config.name)
        if known is None or known[0] != config:
            source = self._make_source(config)
            assert isinstance(source, Source)  # an alert on rows has a source whose settings deliver rows
            known = self._sources[config.name] = config, source
        return known[1]

    def _start_events(self, config: Config, name: str, ledger: Ledger) -> None:
        configured = config.sources[name]
        alerts = [alert for alert in config.event_alerts.values() if alert.source == name]
        outputs = EventOutputs(
            ledger=ledger,
            metrics=self._metrics.source(name),
            offer=self._outputs.offer,
            publish=self._feed.publish,
            tap=self._tap,
            keep=not config.dry_run,
        )
        source = self._make_source(configured)
        assert isinstance(source, EventSource)
        pipeline = EventPipeline(
            name,
            source,
            [build.event_route(config, alert, self._metrics.alert(alert.name)) for alert in alerts],
            build.backoff(configured.settings),
            outputs,
            give_up_after=configured.settings.exit_after,
            clock=self._clock,
            monotonic=self._monotonic,
            chance=self._chance,
        )
        self._events.start(name, _event_spec(config, name), pipeline, self._until_stall(pipeline), f"source {name}")

    async def _until_stall(self, pipeline: RowPipeline | EventPipeline) -> None:
        try:
            await pipeline.run()
        except Stall as stall:
            log.error("stopping, as the source's settings ask", error=str(stall))
            self._stalled(str(stall))

    async def _stop_rows(self, names: Sequence[str], stay: Mapping[str, RowAlert] = MappingProxyType({})) -> None:
        """`stay`: alerts whose series are shown until the next pipeline has its own, where nothing of them changed."""
        for pipeline in await self._rows.stop(names):
            with contextlib.suppress(LedgerError):
                await pipeline.finish()
            name = pipeline.alert.name
            if stay.get(name) != pipeline.alert:
                pipeline.close()
            if name not in stay:
                self._metrics.forget("alert", name)

    async def _stop_events(self, names: Sequence[str]) -> None:
        # A batch between commit and acknowledgement is read again; its ids are known then.
        await self._events.stop(names)


def _counts_for_levels(alert: RowAlert) -> bool:
    """Whether level outputs depend on since when rows have been there, which the next leader has to know."""
    return bool(alert.levels) and (alert.hold > 0 or alert.keep_firing_for > 0)


def _to_run(config: Config, leads: AbstractSet[str]) -> dict[str, RowAlert]:
    alerts = config.row_alerts
    return alerts if config.ledger.follow else {name: alert for name, alert in alerts.items() if name in leads}


def _row_spec(config: Config, alert: RowAlert, leads: AbstractSet[str]) -> object:
    return alert, config.sources[alert.source], build.routes(config, alert), alert.name in leads


def _event_spec(config: Config, source: str) -> object:
    alerts = [alert for alert in config.event_alerts.values() if alert.source == source]
    return config.sources.get(source), [(alert, build.routes(config, alert)) for alert in alerts]
