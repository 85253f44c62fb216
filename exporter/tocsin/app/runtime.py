"""What runs: the ways in, the ledger, the ways out, and the housekeeping between them; started, changed and stopped
whole."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from tocsin import repeats
from tocsin.app import build
from tocsin.app.inputs import Inputs
from tocsin.app.outputs import Outputs, channel_state
from tocsin.config import Config
from tocsin.errors import LedgerError, LedgerReason
from tocsin.exposition import ChannelState, Metrics, Page
from tocsin.faults import unexpected
from tocsin.ledger.base import Backlog, Ledger
from tocsin.ledger.sqlite import open_ledger
from tocsin.pipeline.feed import Feed
from tocsin.pipeline.rows import RowPipeline
from tocsin.pipeline.status import AlertStatus
from tocsin.sources.http import Http

log = structlog.get_logger(__name__)

_HOUSEKEEPING = 1.0
_PRUNE_EVERY = 60.0
_PRUNE_STEP = 500


class Runtime:
    """The objects of one process. `apply` makes them those of a configuration and leaves alone what did not change."""

    def __init__(self, tasks: asyncio.TaskGroup, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> None:
        self.page = Page(metrics)
        self.feed = Feed()
        self.metrics = metrics
        self.outputs = Outputs(tasks, metrics, clock=clock)
        self.config: Config | None = None
        self.ledger: Ledger | None = None
        self.ledger_path = ""
        self.ledger_fault = ""
        self.ending = asyncio.Event()
        self.stall = ""
        self._inputs = Inputs(tasks, metrics, self.page, self.feed, self.outputs, self._stalled, clock=clock)
        self._clock = clock
        self._pruned_at = 0.0
        metrics.show_removed_channels(self._removed_states)

    @property
    def alerts(self) -> list[AlertStatus]:
        """The status of every running alert, in the order of the configuration."""
        alerts = self.config.alerts.values() if self.config else ()
        return [status for alert in alerts if (status := self._inputs.status(alert)) is not None]

    def watch(self, alert: str) -> RowPipeline | None:
        """The watch of an alert on rows, if it runs."""
        return self._inputs.watch(alert)

    @property
    def removed(self) -> dict[str, Backlog]:
        """What the outbox still holds for channels that are no longer configured, by name."""
        if self.config is None:
            return {}
        return {name: left for name, left in sorted(self.outputs.backlog.items()) if name not in self.config.channels}

    @property
    def warnings(self) -> dict[str, str]:
        """See `Inputs.warnings`."""
        return self._inputs.warnings

    def receiver(self, alert: str) -> Http | None:
        """The source that takes events for an alert over HTTP, if there is one."""
        configured = self.config.alerts.get(alert) if self.config else None
        return self._inputs.receiver(configured) if configured else None

    def refused_request(self, alert: str, status: int, why: str) -> None:
        """A request for an alert over HTTP was answered with an error."""
        configured = self.config.alerts.get(alert) if self.config else None
        if configured is not None:
            self._inputs.refused_request(configured, status, why)

    async def apply(self, config: Config) -> None:
        """Run this configuration. Raises LedgerError if it needs a ledger and there is none to be had."""
        if self.ledger is None and any(not build.is_level(channel) for channel in config.channels.values()):
            observe = self.metrics.ledger_commit_seconds.observe
            path = Path(config.ledger.path)
            self.ledger = await asyncio.to_thread(open_ledger, path, clock=self._clock, observe=observe)
            self.ledger_path = config.ledger.path
        since = self._clock()
        if self.config is None:
            self._begin(config)
            # Channels may take a second to import; the alerts need not wait for that. What is committed meanwhile is
            # in the ledger, where a dispatcher begins.
            new = await self.outputs.built(config)
        else:
            # Channels are made before anything is stopped: a defect in one leaves everything as it was.
            new = await self.outputs.built(config)
            await self._inputs.stop_outdated(config)
            await self.outputs.stop_outdated(config, new)
            # A watch that was stopped between its commit and its offer has left notifications in the ledger only.
            self.outputs.rescan()
            self._forget_metrics(self.config, config)
            self._begin(config)
        self.outputs.start_levels(config, new, self._inputs.current)
        if self.ledger is not None:
            await self._park_unrouted(self.ledger, config)
            self.outputs.start_channels(config, new, self.ledger, since)

    def _begin(self, config: Config) -> None:
        self.config = config
        self._inputs.start(config, self.ledger)

    def _forget_metrics(self, before: Config, now: Config) -> None:
        # Those that stay keep their counters.
        for name in before.alerts.keys() - now.alerts.keys():
            self.metrics.forget_alert(name)
        for name in before.sources.keys() - now.sources.keys():
            self.metrics.forget_source(name)
        for name in before.channels.keys() - now.channels.keys():
            self.metrics.forget_channel(name)

    def _removed_states(self) -> Mapping[str, ChannelState]:
        return {name: channel_state(left) for name, left in self.removed.items()}

    async def _park_unrouted(self, ledger: Ledger, config: Config) -> None:
        try:
            # A level output has no outbox: what waits under its name is of a channel that it took the place of.
            edges = [name for name, channel in config.channels.items() if not build.is_level(channel)]
            parked = await ledger.dead_letter_unrouted(edges)
        except LedgerError as error:
            # It can wait for the next start; the channels cannot.
            self._ledger_failed(error)
            return
        if parked:
            log.warning("notifications of channels no longer configured were parked", notifications=parked)

    def _stalled(self, why: str) -> None:
        self.stall = why
        self.ending.set()

    async def stop(self) -> None:
        """The end in order: take nothing in any more, send what is ready, let go of everything."""
        await self.outputs.settle_levels()
        await self._inputs.stop()
        self.feed.close()
        await self.outputs.drain()
        if self.ledger is not None:
            await self.ledger.close()
        repeats.flush()

    async def run_maintenance(self) -> None:
        """Until cancelled: what has to be looked at every second."""
        while True:
            if self.ledger is None:
                self.metrics.ledger_up.set(1)  # none is needed, so none is down
            else:
                try:
                    await self._look_after(self.ledger)
                except LedgerError as error:
                    self._ledger_failed(error)
                except Exception as error:
                    log.debug("unexpected exception", exc_info=error)
                    self._ledger_failed(LedgerError(unexpected(error), LedgerReason.FAILED))
                else:
                    self._ledger_works()
            repeats.report()
            await asyncio.sleep(_HOUSEKEEPING)

    async def _look_after(self, ledger: Ledger) -> None:
        self.outputs.backlog = await ledger.backlog()
        if await ledger.changed_elsewhere():
            log.info("the outbox was changed by another process; reading it again")
            self.outputs.rescan()
        if self.config is not None and self._clock() - self._pruned_at > _PRUNE_EVERY:
            before = self._clock() - self.config.ledger.history
            # Small steps, so that no batch waits long for one.
            more = True
            while more:
                more = await ledger.prune(before, _PRUNE_STEP) == _PRUNE_STEP
            self._pruned_at = self._clock()
        if ledger.fault is not None:
            raise ledger.fault

    def _ledger_failed(self, error: LedgerError) -> None:
        if self.ledger_fault != str(error):
            log.error("the ledger cannot be used", error=str(error), reason=error.reason)
        self.ledger_fault = str(error)
        self.metrics.ledger_up.set(0)

    def _ledger_works(self) -> None:
        if self.ledger_fault:
            log.info("the ledger works again")
        self.ledger_fault = ""
        self.metrics.ledger_up.set(1)
