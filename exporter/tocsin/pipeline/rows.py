"""One alert on rows: each batch of its source goes to the gauge, to the ledger and to the dispatchers.

`run` subscribes and passes each batch to `process`, which has all steps in their order: the firing set makes
transitions of the batch, the gauge shows the changed rows, `store.py` commits the transitions and offers the new
notifications. After any fault `run` subscribes again.

The *baseline* is what the first snapshot of a subscription is compared with: nothing (`FirstStart`), the firing rows at
the frontier (`Resumed`), or those of another definition of the alert (`Redefined`). `resume.py` says what follows.

To follow a row, read on to the end of `process` and `_work`. The rest of the class is faults, metrics and status.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from tocsin.alert import RowAlert
from tocsin.errors import LedgerError, SourceError, SourceReason
from tocsin.exposition import AlertMetrics, AlertStatus, Gauges, Page, Rendered, State
from tocsin.faults import must_end, unexpected
from tocsin.firing import Firing, FiringSet, Outcome, Phase
from tocsin.ledger.base import RETRY, Ledger
from tocsin.model import Batch, Columns, Notification, Transition
from tocsin.pipeline import resume
from tocsin.pipeline.columns import NamedColumns, unfit_type
from tocsin.pipeline.indexes import firing_rule, gauge_spec
from tocsin.pipeline.numbers import ValueColumn
from tocsin.pipeline.reporter import NameChecks, Reporter, Stall
from tocsin.pipeline.restless import Restless
from tocsin.pipeline.resume import FirstStart, Redefined, Resumed
from tocsin.pipeline.routing import Router
from tocsin.pipeline.store import AlertStore
from tocsin.pipeline.tap import Tap
from tocsin.pipeline.timing import Timing
from tocsin.sources.base import Source

log = structlog.get_logger(__name__)

_CHECKED = 100
"""Updates of a batch whose values are checked at most."""
_LARGE = 1_000
"""Rows from which a batch is applied in a thread, so that the event loop goes on."""
_CONSTANT_EVERY = 30.0
"""Seconds between subscriptions to a view that cannot change by itself; it can still be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOutputs:
    """Where the results of a batch go."""

    page: Page
    metrics: AlertMetrics
    ledger: Ledger | None
    """None: no channel receives transitions, so there is nothing to store."""
    router: Router
    offer: Callable[[Sequence[Notification]], None]
    """Passes committed notifications to the dispatchers."""
    publish: Callable[[Sequence[Transition]], None]
    """Passes committed transitions to the page's feed."""
    tap: Tap = field(default_factory=Tap)
    """Where recordings get the batches from."""
    columns: NamedColumns | None = None
    """The columns that the channels' options name."""
    leads: bool = True
    """Whether this process writes the alert's batches and notifies. Another one follows the rows for its gauge only."""
    changed: Callable[[bool], None] = lambda _: None
    """Called after each batch with whether it had transitions, for outputs that are sent what fires now."""


@dataclass(frozen=True, slots=True)
class _Progress:
    """The last progress of the source."""

    wall: float
    """Wall-clock seconds, to show; may jump."""
    monotonic: float


class RowPipeline:
    """Keeps one alert on rows up to date until it is cancelled."""

    def __init__(
        self,
        alert: RowAlert,
        source: Source,
        timing: Timing,
        outputs: RowOutputs,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`clock`: the wall clock, for what is shown. `monotonic`: for durations."""
        self.alert = alert
        self.gauges: Gauges | None = None
        self.frontier: int | None = None
        """The frontier of the rows that the gauge shows."""
        self.gaps = 0
        self.revision = 0  # rises with each batch that changes what is shown of the rows
        self._source = source
        self._timing = timing
        self._out = outputs
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._sleep = sleep
        self._store = AlertStore(
            alert,
            outputs.ledger,
            outputs.router,
            outputs.offer,
            outputs.metrics,
            monotonic=monotonic,
            leads=outputs.leads,
        )
        self._reporter = Reporter(log, down="source down", up="source up", monotonic=monotonic, alert=alert.name)
        self._partly = Reporter(
            log, down="source partly works", up="source fully works again", state=State.UP, alert=alert.name
        )
        self._name_checks = NameChecks(outputs.metrics.identity_check_failures.inc)
        self._restless = Restless(alert.name)
        self._values = ValueColumn(alert.name, alert.value)
        self._firing: FiringSet | None = None
        """None: not known, as at the start and after a fault of the ledger."""
        self._progress: _Progress | None = None
        self._last_error: tuple[float, str] | None = None
        self._next_attempt: float | None = None
        outputs.metrics.status = self.status

    # The path of a row.

    async def run(self) -> None:
        """Follow the source until cancelled. Raises Stall where the configuration asks for it."""
        backoff, attempt = self._timing.backoff, 0
        while True:
            wait: float | None = None
            try:
                async with self._subscribed() as batches:
                    async for batch in batches:
                        await self.process(batch)
                        attempt, wait = 0, _CONSTANT_EVERY  # only a constant view ends without an error
            except SourceError as error:
                self._source_failed(error)
                wait = self._timing.pause(error.reason, attempt, self._chance, down_for=self._reporter.down_for)
            except (Exception, asyncio.CancelledError) as error:
                if must_end(error):
                    raise
                self._broken(error)
                retry = RETRY if isinstance(error, LedgerError) else backoff
                wait = retry.delay(attempt, self._chance, at_least=0.5)
            wait = backoff.delay(attempt, self._chance) if wait is None else wait
            self._next_attempt = self._clock() + wait
            await self._sleep(wait)
            self._next_attempt = None
            attempt += 1

    @asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[AsyncIterator[Batch]]:
        """Subscribe from the frontier, and prepare firing set and gauge for the columns of the relation."""
        if self._firing is None:
            self.frontier = await self._store.load()
        subject, at = self.alert.subject, self._store.as_of()
        async with self._source.open(subject, as_of=at, checked=self._name_checks.checked) as stream:
            await self._check_value(stream.columns)
            self._prepare(stream.columns)
            yield stream.batches()

    async def process(self, batch: Batch) -> None:
        """Bring a batch to the gauge, the ledger and the dispatchers."""
        firing = self._firing
        assert firing is not None
        before = self._out.tap.before(self.alert, firing, self.frontier)
        outcome, rendered = await self._apply(firing, batch)  # the transitions, and the text for the gauge
        if self.gauges is not None and rendered is not None:
            self.gauges.install(rendered, self._clock())
            self._out.page.add(self.gauges)  # only now, in place of those of the pipeline before this one
        self.frontier = batch.frontier
        self.revision += bool(outcome.changes or outcome.transitions)
        self._count(batch, outcome)  # before the commit: it replaces the baseline
        # Routes, one transaction, then offers to the dispatchers.
        await self._store.commit(firing, batch, outcome)
        self._out.tap.rows(self.alert.name, before, batch)
        self._report(batch, firing, outcome)
        if not self._out.leads:
            return
        self._out.publish(outcome.transitions)  # to the status page and `tocsin tail`
        self._out.changed(bool(outcome.transitions))  # to Alertmanagers, which are sent what fires now

    async def _apply(self, firing: FiringSet, batch: Batch) -> tuple[Outcome, Rendered | None]:
        rows = len(batch.updates) + (len(firing) if batch.snapshot is not None else 0)
        if rows > _LARGE:
            return await asyncio.to_thread(self._work, firing, batch)
        return self._work(firing, batch)

    def _work(self, firing: FiringSet, batch: Batch) -> tuple[Outcome, Rendered | None]:
        """Apply the batch, and render the rows that changed. Takes time in proportion to the rows."""
        baseline = self._store.baseline
        silent = self.alert.initial == "silent" and isinstance(baseline, FirstStart)  # the ledger has nothing of it
        outcome = firing.apply(batch, silent=silent)
        # After a change of the alert's key, stored rows of the old key resolve, before all else.
        outcome.transitions[:0] = resume.endings(baseline, self.alert.name, batch.snapshot or 0)
        return outcome, None if self.gauges is None else self.gauges.update(firing, outcome.changes)

    async def finish(self) -> None:
        """Write the frontier at the end of a run, so that the next one resumes as late as it can."""
        await self._store.finish(self._firing)

    def close(self) -> None:
        """Remove the alert's series from the page."""
        self._out.page.remove(self.alert.name)

    async def _check_value(self, columns: Columns) -> None:
        """Raise SourceError if the type of the value column is not a number, as `tocsin check` reports it."""
        if found := await unfit_type(self._source, columns, self.alert.value):
            message = f"{self.alert.value} is of type {found}, which is not a number"
            raise SourceError(message, SourceReason.SHAPE, fix="cast it in the view")

    def _prepare(self, columns: Columns) -> None:
        """Prepare firing set and gauge for the columns. Raises SourceError if the alert names one that is missing."""
        rule = firing_rule(self.alert, columns)
        if self._out.columns is not None and columns != self.columns:
            self._out.columns.report(columns)
        self._firing = self._store.firing_set(rule, self._firing)
        if self.alert.gauges:
            spec = gauge_spec(self.alert, columns)
            if self.gauges is None or self.gauges.spec != spec:
                self.gauges = Gauges(spec, fresh=lambda: not self.stale)

    # Faults.

    def _source_failed(self, error: SourceError) -> None:
        self._last_error = self._clock(), str(error)
        self._out.metrics.source_errors[error.reason].inc()
        self._store.failed(error)
        self._reporter.failed(str(error), reason=error.reason)
        if error.reason is SourceReason.STALLED and self._timing.exit_on_stall:
            raise Stall(f"alert {self.alert.name}: {error}")

    def _broken(self, error: BaseException) -> None:
        if isinstance(error, LedgerError):
            self._reporter.failed(str(error))
        else:
            log.debug("unexpected exception", alert=self.alert.name, exc_info=error)
            self._source_failed(SourceError(unexpected(error), SourceReason.INTERNAL))
        # What is in memory may be ahead of the ledger, or half of a batch: start again from the ledger.
        self._firing = None

    # Metrics and logs of a batch.

    def _count(self, batch: Batch, outcome: Outcome) -> None:
        metrics = self._out.metrics
        metrics.updates.inc(len(batch.updates))
        metrics.collisions.inc(outcome.collisions)
        metrics.negatives.inc(outcome.negatives)
        if batch.replaced:
            self._last_error = self._clock(), batch.replaced
            log.warning(
                "the relation was replaced", alert=self.alert.name, how=batch.replaced, differences=len(outcome.changes)
            )
        if batch.snapshot is not None and self._out.leads:
            self._log_snapshot(batch, sum(one.at == batch.snapshot for one in outcome.transitions))

    def _log_snapshot(self, batch: Batch, differences: int) -> None:
        """Log whether the snapshot follows a changed definition, left a gap, or differs at the very same frontier."""
        baseline = self._store.baseline
        missing = resume.gap(baseline, batch)
        details = {"alert": self.alert.name, "differences": differences}
        if isinstance(baseline, Redefined):  # the ledger has rows of another definition
            log.info("the alert's definition changed; compared with a new snapshot", **details)
        elif missing is not None:
            self.gaps += 1
            self._out.metrics.gaps.inc()
            log.warning(
                "gap: the source's history does not reach back to the frontier; rows that came and went in between "
                "are not notified",
                seconds=round(missing / 1000, 3),
                **details,
            )
        # The snapshot is the relation at the frontier of the ledger's rows, so it should equal them.
        elif isinstance(baseline, Resumed) and baseline.frontier is not None and differences and not batch.polled:
            log.warning(
                "snapshot differs from the ledger at the same frontier: the view definition or the ledger file changed",
                **details,
            )

    def _report(self, batch: Batch, firing: FiringSet, outcome: Outcome) -> None:
        if self._out.leads:
            for kind, count in Counter(one.kind for one in outcome.transitions).items():
                self._out.metrics.transitions[kind].inc(count)
        self._progress = _Progress(self._clock(), self._monotonic())
        self._reporter.recovered(firing=firing.firing)
        self._values.seen(self.columns, (row for _, diff, row in batch.updates[:_CHECKED] if diff > 0))
        if self._out.ledger is not None:
            self._restless.seen(outcome.transitions, firing.firing)
        if batch.note:
            self._partly.failed(batch.note)
        else:
            self._partly.recovered()

    # Status, for the page, the API and the metrics.

    @property
    def state(self) -> State:
        """The state of the alert now."""
        return State.STALE if self.stale else self._reporter.state

    @property
    def stale(self) -> bool:
        """Whether the source has been silent for so long that its rows may not be served as current."""
        return self._progress is not None and self._monotonic() - self._progress.monotonic > self._timing.stale_after

    @property
    def last_progress(self) -> float | None:
        """Wall-clock seconds of the last progress; None before the first batch."""
        return None if self._progress is None else self._progress.wall

    @property
    def columns(self) -> Columns:
        """The columns of the rows in the firing set."""
        return () if self._firing is None else self._firing.rule.columns

    def status(self) -> AlertStatus:
        """The status of the alert now. Called at each scrape."""
        firing, gauges = self._firing, self.gauges
        return AlertStatus(
            name=self.alert.name,
            source=self.alert.source,
            state=self.state,
            message=self._reporter.message,
            doubt=self._name_checks.doubt,
            note=self._partly.message,
            last_error=self._last_error[1] if self._last_error else "",
            last_error_at=self._last_error[0] if self._last_error else None,
            next_attempt=self._next_attempt,
            leads=self._out.leads,
            firing=firing.firing if firing else 0,
            pending=firing.pending if firing else 0,
            frontier=self.frontier,
            last_progress=self.last_progress,
            progress_interval=self._timing.progress_interval,
            gaps=self.gaps,
            series=gauges.series if gauges else None,
            dropped=gauges.dropped if gauges else None,
            duplicates=gauges.duplicates if gauges else None,
        )

    @property
    def next_due(self) -> int | None:
        """See `FiringSet.next_due`."""
        return None if self._firing is None else self._firing.next_due

    def firings(self) -> Iterator[Firing]:
        """The keys that are pending, firing or kept firing, newest first; to be read at once."""
        everything = iter(()) if self._firing is None else self._firing.firings(newest_first=True)
        return (firing for firing in everything if firing.phase is not Phase.ABSENT)

    def current(self) -> list[Transition] | None:
        """Every key that fires, each as the transition with which it began; None while that is not known, and where
        another process leads the alert."""
        if not self._out.leads or self.stale or self._progress is None or self._firing is None:
            return None
        try:
            return self._firing.active()
        except RuntimeError:
            return None  # a thread is applying a large batch; `changed` is called when it is done
