"""One alert, from its source's batches to gauges, ledger and dispatchers; and back to the start of the path after any
fault.

There is one way to begin, whatever ended the stream before: ask for the history since the frontier, take the snapshot
that comes as the state at its as-of, compare it with the firing set, go on.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from tocsin.alert import RowAlert
from tocsin.backoff import Backoff
from tocsin.canonical import Respelling
from tocsin.errors import LedgerError, SourceError, SourceReason
from tocsin.exposition import AlertMetrics, AlertState, Gauges, Page, Rendered
from tocsin.faults import must_end, unexpected
from tocsin.firing import Firing, FiringSet, Outcome, Phase
from tocsin.ledger.base import Commit, Ledger, Stored
from tocsin.model import Batch, Columns, Kind, Notification, Transition
from tocsin.pipeline import binding
from tocsin.pipeline.columns import NamedColumns
from tocsin.pipeline.routing import Router
from tocsin.pipeline.status import AlertStatus, Stall, State
from tocsin.sources.base import Checked, Source

log = structlog.get_logger(__name__)

_LARGE = 1_000
"""Rows from which a batch is worked off in a thread, so that the event loop goes on serving."""
_LARGE_CHANGE = 10_000
_FRONTIER_EVERY = 5.0
"""Seconds between writes of a frontier that nothing else moved."""
_DOUBT_AFTER = 3
"""Failed checks in a row after which the alert counts as not ready."""
_CONSTANT_EVERY = 30.0
"""Seconds between looks at a view that cannot change by itself; it can still be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long to wait for what, in seconds; from the source's settings."""

    backoff: Backoff
    stale_after: float
    exit_on_stall: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """Where the results of a watch go. `ledger` None: no edge channel, so nothing is kept."""

    page: Page
    metrics: AlertMetrics
    ledger: Ledger | None
    router: Router
    offer: Callable[[Sequence[Notification]], None]
    publish: Callable[[Sequence[Transition]], None]
    columns: NamedColumns | None = None
    """What the channels' options name of a row; None where no one asks for what is missing."""
    changed: Callable[[bool], None] = lambda _: None
    """Called after each batch whether anything began or ended to fire, or changed."""


class Watch:
    """Keeps one alert up to date until it is cancelled."""

    def __init__(
        self,
        alert: RowAlert,
        source: Source,
        timing: Timing,
        outlets: Outlets,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`clock`: the wall clock, for what is shown; it may jump. `monotonic`: for how long something takes or
        lasts."""
        self.alert = alert
        self.message = ""
        self.doubt = ""
        """Why it is not known whether the rows are those of the configured relation; empty: it is known."""
        self.note = ""
        """What of the source does not work although it gives rows; see `Batch.note`."""
        self.gaps = 0
        self.frontier: int | None = None
        self.last_progress: float | None = None
        self.gauges: Gauges | None = None
        self._source = source
        self._timing = timing
        self._out = outlets
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._sleep = sleep
        self._definition = binding.definition(alert)
        self._firing: FiringSet | None = None
        self._stored: Stored | None = None
        self._known = False  # the ledger has this alert: what the snapshot brings is no first start
        self._redefined = False  # what the ledger has was stored under another definition or other columns
        self._ended: list[Firing] = []  # firings of another key, which end where the new snapshot begins
        self._ended_columns: Columns = ()
        self._respelling = Respelling(())
        self._shown = False  # the gauges hold what the firing set holds
        self._up = False
        self._may_resume = True
        self._progress_at: float | None = None
        self._failed_checks = 0  # in a row
        self._committed_at = 0.0
        self._committed_frontier: int | None = None
        self._committing = False
        self._applied: int | None = None  # the frontier that is kept: what the next subscription may start from
        outlets.metrics.state = self.measure

    @property
    def state(self) -> State:
        """Where the alert stands now."""
        if self.stale:
            return State.STALE
        if self._up:
            return State.UP
        return State.ERROR if self.message else State.STARTING

    @property
    def stale(self) -> bool:
        """Whether the source has been silent for so long that its rows may no longer be served as current."""
        return self._progress_at is not None and self._monotonic() - self._progress_at > self._timing.stale_after

    def measure(self) -> AlertState:
        """What the alert's own metrics show; called at each scrape, before the series are taken. Those of a source that
        has been silent for too long are withheld until it speaks again."""
        if self.gauges is not None:
            self.gauges.withdrawn = self.stale
        firing = self._firing
        return AlertState(
            up=self._up and not self.stale,
            firing=0 if firing is None else firing.firing,
            pending=0 if firing is None else firing.pending,
            frontier=self.frontier,
            last_progress=self.last_progress,
        )

    def status(self) -> AlertStatus:
        """The status of the alert now."""
        measured = self.measure()
        return AlertStatus(
            name=self.alert.name,
            source=self.alert.source,
            state=self.state,
            message=self.message,
            doubt=self.doubt,
            note=self.note,
            firing=measured.firing,
            pending=measured.pending,
            frontier=self.frontier,
            last_progress=self.last_progress,
            gaps=self.gaps,
            series=self.gauges.series if self.gauges else 0,
            dropped=self.gauges.dropped if self.gauges else 0,
        )

    def firings(self) -> Iterator[Firing]:
        """What is pending, firing or kept firing now, newest first; to be read at once."""
        everything = iter(()) if self._firing is None else self._firing.firings(newest_first=True)
        return (firing for firing in everything if firing.phase is not Phase.ABSENT)

    def current(self) -> list[Transition] | None:
        """What fires now, each as the transition with which it began; None while that is not known."""
        if self.stale or self.last_progress is None or self._firing is None:
            return None
        columns = self.columns
        try:
            firings = list(self.firings())
        except RuntimeError:
            return None  # a thread is working a large batch in; `changed` is told when it is done
        return [
            Transition(
                alert=self.alert.name,
                fingerprint=firing.fingerprint,
                kind=Kind.FIRED,
                started_at=firing.started_at,
                at=firing.started_at,
                columns=columns,
                row=firing.row,
            )
            for firing in reversed(firings)
            if firing.phase is not Phase.PENDING
        ]

    @property
    def columns(self) -> Columns:
        """The columns of the rows in the firing set."""
        return () if self._firing is None else self._firing.rule.columns

    async def run(self) -> None:
        """Follow the source until cancelled. Raises Stall where the configuration asks for it."""
        attempt = 0
        while True:
            wait = None
            try:
                async for _ in self._follow():
                    attempt, wait = 0, _CONSTANT_EVERY
            except SourceError as error:
                self._source_failed(error)
                # The source is well and has another object for the same name: nothing is gained by a pause.
                wait = 0.0 if error.reason is SourceReason.REPLACED and attempt == 0 else None
            except (Exception, asyncio.CancelledError) as error:
                if must_end(error):
                    raise
                self._broken(error)
                wait = self._timing.backoff.delay(attempt, self._chance, at_least=0.5)
            await self._sleep(self._timing.backoff.delay(attempt, self._chance) if wait is None else wait)
            attempt += 1

    async def finish(self) -> None:
        """Write down the frontier at the end of a run, so that the next one resumes as late as it can."""
        # A set under another definition is written with its first batch or not at all: it may be in the middle of it.
        if self._out.ledger is None or self._firing is None or not self._known or self._redefined:
            return
        # Whoever stops a watch may cut it off in the middle of a commit, which still takes place: then that was the
        # last.
        if not self._committing and self._applied not in (None, self._committed_frontier):
            await self._out.ledger.commit(self._commit(Outcome(), self._firing, self._applied))

    def close(self) -> None:
        """Take the alert's series off the page."""
        self._out.page.remove(self.alert.name)

    # One subscription.

    async def _follow(self) -> AsyncIterator[Batch]:
        """Subscribe and take in what comes; gives each batch once it is kept."""
        if self._firing is None:
            await self._restore()
        resume = None
        # Without a ledger nothing is told, so nothing can be missed: the state of now is enough.
        if self._out.ledger is not None and self._may_resume and self._applied is not None:
            resume = self._applied - 1
        async with self._source.open(self.alert.subject, resume=resume) as stream:
            self._bind(stream.columns)
            if isinstance(stream, Checked):
                stream.report_checks(self._checked)
            async for batch in stream.batches():
                await self._absorb(batch)
                yield batch

    async def _restore(self) -> None:
        self._committing = False
        if self._out.ledger is None:
            return
        stored = self._stored = await self._out.ledger.load(self.alert.name)
        self._known = stored is not None
        if stored is not None:
            self.frontier = self._applied = self._committed_frontier = stored.frontier
            self._redefined = stored.definition != self._definition
            self._may_resume = not self._redefined

    def _bind(self, columns: Columns) -> None:
        """Make the firing set and the gauges fit the relation's columns. Raises SourceError if a column is missing."""
        rule = binding.rule(self.alert, columns)
        if self._out.columns is not None and columns != self.columns:
            self._out.columns.report(columns)
        self._respelling = Respelling(columns)
        stored, self._stored = self._stored, None
        if self._firing is not None:
            old = self._firing.rule.columns
            if old != columns:
                self._firing = FiringSet(rule, binding.rebound(list(self._firing.firings()), old, columns))
                self._redefined, self._shown = True, False
        else:
            self._shown = False
            if stored is None:
                self._firing = FiringSet(rule)
            elif binding.same_key(stored.definition, self._definition):
                firings = binding.rebound(stored.firings, stored.columns, columns)
                firings, self._ended = binding.respelled(firings, columns, rule)
                self._ended_columns = columns
                self._firing = FiringSet(rule, firings)
                self._redefined = self._redefined or stored.columns != columns or bool(self._ended)
            else:
                self._firing = FiringSet(rule)
                self._ended = list(stored.firings)
                self._ended_columns = stored.columns
        if self.alert.gauges:
            spec = binding.gauge_spec(self.alert, columns)
            if self.gauges is None or self.gauges.spec != spec:
                self.gauges, self._shown = Gauges(spec), False
                self._out.page.add(self.gauges)

    async def _absorb(self, batch: Batch) -> None:
        firing = self._firing
        assert firing is not None
        oddities = firing.collisions, firing.negatives
        size = len(batch.updates) + (len(firing) if batch.snapshot is not None else 0)
        if size > _LARGE:
            outcome, rendered = await asyncio.to_thread(self._work, firing, batch)
        else:
            outcome, rendered = self._work(firing, batch)
        if self.gauges is not None and rendered is not None:
            self.gauges.install(rendered, self._clock())
            self._shown = True
        # With the gauges, not after the commit: a page names the frontier of the rows that it shows.
        self.frontier = batch.frontier
        metrics = self._out.metrics
        metrics.updates.inc(len(batch.updates))
        metrics.collisions.inc(firing.collisions - oddities[0])
        metrics.negatives.inc(firing.negatives - oddities[1])
        if batch.snapshot is not None:
            self._compare(batch, batch.snapshot, outcome)
        await self._keep(batch, outcome, firing)
        for transition in outcome.transitions:
            metrics.transitioned(transition.kind)
        if not self._up:
            log.info("source up", alert=self.alert.name, firing=firing.firing)
        if batch.note != self.note:
            self.note = batch.note
            log.warning(
                "the source gives rows, and not all of it works" if batch.note else "all of the source works again",
                alert=self.alert.name,
                **({"what": batch.note} if batch.note else {}),
            )
        self._up, self.message, self._may_resume = True, "", True
        self._applied, self.last_progress, self._progress_at = batch.frontier, self._clock(), self._monotonic()
        self._out.publish(outcome.transitions)
        self._out.changed(bool(outcome.transitions))

    def _work(self, firing: FiringSet, batch: Batch) -> tuple[Outcome, Rendered | None]:
        """What takes time in proportion to the rows; touches nothing that the event loop reads."""
        if self._respelling:
            batch = replace(batch, updates=self._respelling.updates(batch.updates))
        outcome = firing.apply(batch, silent=not self._known and self.alert.initial == "silent")
        if self._ended:
            outcome.transitions[:0] = self._endings(batch.snapshot or 0)
        if self.gauges is None:
            return outcome, None
        # A large change is rendered whole, here, since putting it in place line by line would hold the event loop.
        if self._shown and len(outcome.changes) < _LARGE_CHANGE:
            return outcome, self.gauges.render(outcome.changes)
        return outcome, self.gauges.render(firing.rows(), replace=True)

    def _endings(self, at: int) -> list[Transition]:
        return [
            Transition(
                alert=self.alert.name,
                fingerprint=firing.fingerprint,
                kind=Kind.RESOLVED,
                started_at=firing.started_at,
                at=at,
                columns=self._ended_columns,
                row=firing.row,
            )
            for firing in self._ended
            if firing.phase in (Phase.FIRING, Phase.KEEPING)
        ]

    def _compare(self, batch: Batch, as_of: int, outcome: Outcome) -> None:
        """What it means that the snapshot stands where it stands."""
        if not self._known or batch.polled or self._applied is None:
            return
        differences = sum(transition.at == as_of for transition in outcome.transitions)
        if self._redefined:
            log.info("the alert's definition changed; compared afresh", alert=self.alert.name, differences=differences)
        elif as_of != self._applied - 1:
            self.gaps += 1
            self._out.metrics.gaps.inc()
            log.warning(
                "the source's history does not reach back to the frontier; what came and went meanwhile is unknown",
                alert=self.alert.name,
                seconds=round((as_of - self._applied + 1) / 1000, 3),
                differences=differences,
            )
        elif differences:
            log.warning(
                "the view is not what it was at the frontier: it was changed, or the ledger was",
                alert=self.alert.name,
                differences=differences,
            )

    async def _keep(self, batch: Batch, outcome: Outcome, firing: FiringSet) -> None:
        """Write a batch to the ledger and hand over its notifications. Mere progress is written now and then."""
        ledger = self._out.ledger
        if ledger is None:
            return
        began = self._monotonic()
        news = outcome.transitions or outcome.saved or outcome.gone or not self._known or self._redefined
        if not news and began - self._committed_at < _FRONTIER_EVERY:
            return
        self._committing = True
        notifications = await ledger.commit(self._commit(outcome, firing, batch.frontier))
        self._committing = False
        self._out.metrics.commit_seconds.observe(self._monotonic() - began)
        self._known, self._redefined, self._ended = True, False, []
        self._committed_at, self._committed_frontier = began, batch.frontier
        self._out.offer(notifications)

    def _commit(self, outcome: Outcome, firing: FiringSet, frontier: int | None) -> Commit:
        return Commit(
            alert=self.alert.name,
            definition=self._definition,
            columns=firing.rule.columns,
            frontier=frontier,
            saved=list(firing.firings()) if self._redefined else outcome.saved,
            gone=outcome.gone,
            transitions=self._out.router.addressed(outcome.transitions),
            replace=self._redefined,
        )

    # Faults.

    def _source_failed(self, error: SourceError) -> None:
        self._out.metrics.source_failed(error.reason)
        if error.reason is SourceReason.FUTURE and error.resume:
            self._may_resume = not self._redefined  # the attempt without history was no better: a clock is wrong
        else:
            self._may_resume = self._may_resume and error.resume
        self._failed(str(error), reason=error.reason)
        if error.reason is SourceReason.STALLED and self._timing.exit_on_stall:
            raise Stall(f"alert {self.alert.name}: {error}")

    def _checked(self, problem: str) -> None:
        """A check of what the stream reads was made; `problem`: why it failed, if it did."""
        self._failed_checks = self._failed_checks + 1 if problem else 0
        if problem:
            self._out.metrics.identity_check_failures.inc()
        if self._failed_checks >= _DOUBT_AFTER:
            self.doubt = f"cannot check whether the name still refers to the same object: {problem}"
        elif not problem:
            self.doubt = ""

    def _broken(self, error: BaseException) -> None:
        if isinstance(error, LedgerError):
            self._failed(str(error))
        else:
            log.debug("unexpected exception", alert=self.alert.name, exc_info=error)
            self._source_failed(SourceError(unexpected(error), SourceReason.INTERNAL))
        # What is in memory may be ahead of the file, or the half of a batch: begin again from the file.
        self._firing = None

    def _failed(self, message: str, **details: str) -> None:
        # Said once a streak: the same fault again and again is one piece of news.
        if message != self.message:
            log.warning("source down", alert=self.alert.name, error=message, **details)
        self._up, self.message = False, message
