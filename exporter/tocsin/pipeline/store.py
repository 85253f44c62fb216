"""What the ledger has of one alert on rows: where to resume from it, and how a batch is written to it."""

from collections.abc import Callable, Sequence

from tocsin.alert import RowAlert
from tocsin.errors import SourceError
from tocsin.exposition import AlertMetrics
from tocsin.faults import shielded
from tocsin.firing import Firing, FiringSet, Outcome, Rule
from tocsin.ledger.base import Commit, Ledger, Stored
from tocsin.model import Batch, Notification
from tocsin.pipeline import resume
from tocsin.pipeline.resume import Baseline, FirstStart, Redefined, Resumed
from tocsin.pipeline.routing import Router

_FRONTIER_EVERY = 5.0
"""Seconds between writes of a frontier when nothing else changed."""


class AlertStore:
    """One alert in the ledger. Without a ledger (no channel receives transitions) it stores nothing."""

    def __init__(
        self,
        alert: RowAlert,
        ledger: Ledger | None,
        router: Router,
        offer: Callable[[Sequence[Notification]], None],
        metrics: AlertMetrics,
        monotonic: Callable[[], float],
        *,
        leads: bool,
    ) -> None:
        """`leads`: whether this process writes the alert's batches; otherwise it only begins with what is stored."""
        self.baseline: Baseline = FirstStart()
        """What the next snapshot is compared with."""
        self._alert = alert
        self._definition = resume.definition(alert)
        self._ledger = ledger
        self._leads = leads
        self._router = router
        self._offer = offer
        self._metrics = metrics
        self._monotonic = monotonic
        self._stored: Stored | None = None
        """What the ledger holds, until the columns are known."""
        self._committed: int | None = None
        """The frontier of the last commit."""
        self._committed_at = 0.0
        """When it was written, in monotonic seconds."""

    async def load(self) -> int | None:
        """Read the stored state. Returns its frontier. Raises LedgerError."""
        if self._ledger is None or self._stored is not None:
            return self._committed
        self._stored = await self._ledger.load(self._alert.name)
        self.baseline = resume.loaded(self._stored, self._definition)
        self._committed = self._stored.frontier if self._stored else None
        return self._committed

    def as_of(self) -> int | None:
        """The as-of to subscribe from; None: the server's own time."""
        # Without a ledger nothing is notified, so nothing can be missed: the state of now is enough.
        return None if self._ledger is None else resume.as_of(self.baseline)

    def firing_set(self, rule: Rule, current: FiringSet | None) -> FiringSet:
        """The firing set for the columns of a subscription: `current` if it has them, else one made of the stored rows
        or of those of `current`."""
        if current is None:
            firings: list[Firing] = []
            if self._stored is not None:
                firings, self.baseline = resume.restored(self._stored, self._definition, rule)
                self._stored = None
            return FiringSet(rule, firings)
        if current.rule.columns == rule.columns:
            return current
        self.baseline = resume.redefined(self.baseline)
        return FiringSet(rule, resume.with_columns(current.firings(), current.rule.columns, rule.columns))

    def failed(self, error: SourceError) -> None:
        """A subscription ended with this error."""
        self.baseline = resume.failed(self.baseline, error)

    async def commit(self, firing: FiringSet, batch: Batch, outcome: Outcome) -> None:
        """Write firing set, outbox and frontier in one transaction, and offer the notifications.

        A frontier that moved alone is written only now and then. A commit that is cancelled is finished first, so that
        it is known afterwards what has been committed. Raises LedgerError.
        """
        if self._ledger is None:
            return
        now = self._monotonic()
        changed = outcome.transitions or outcome.saved or outcome.gone or not isinstance(self.baseline, Resumed)
        if self._leads and (changed or now - self._committed_at >= _FRONTIER_EVERY):
            await shielded(self._write(self._ledger, firing, outcome, batch.frontier))
        self.baseline = Resumed(batch.frontier)

    async def finish(self, firing: FiringSet | None) -> None:
        """Write the frontier at the end of a run, so that the next one resumes as late as it can."""
        # With another baseline the ledger has none of the firing set yet, and the set may be in the middle of a batch.
        if self._ledger is None or not self._leads or firing is None or not isinstance(self.baseline, Resumed):
            return
        if self.baseline.frontier not in (None, self._committed):
            await self._ledger.commit(self._transaction(firing, Outcome(), self.baseline.frontier))

    async def _write(self, ledger: Ledger, firing: FiringSet, outcome: Outcome, frontier: int | None) -> None:
        began = self._monotonic()
        notifications = await ledger.commit(self._transaction(firing, outcome, frontier))
        self._metrics.commit_seconds.observe(self._monotonic() - began)
        self._committed, self._committed_at, self.baseline = frontier, began, Resumed(frontier)
        self._offer(notifications)

    def _transaction(self, firing: FiringSet, outcome: Outcome, frontier: int | None) -> Commit:
        replace = isinstance(self.baseline, Redefined)
        return Commit(
            alert=self._alert.name,
            definition=self._definition,
            columns=firing.rule.columns,
            frontier=frontier,
            saved=list(firing.firings()) if replace else outcome.saved,
            gone=outcome.gone,
            transitions=self._router.addressed(outcome.transitions),
            replace=replace,
        )
