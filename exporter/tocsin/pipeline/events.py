"""One source of events: each batch goes to the ledger, to the dispatchers and back as an acknowledgement, in `process`.

An event is acknowledged once the ledger has it. An event that was not acknowledged is delivered again, with the same
id, and the ledger recognises it.

A fault of the connection ends the stream, and another one is opened. While the ledger or the place for dead letters
fails, the stream stays open and the same batch is tried again: servers count reconnections, and a quorum queue of
RabbitMQ 4 drops a message that was returned to it too often.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from tocsin.alert import EventAlert
from tocsin.backoff import Backoff
from tocsin.errors import DeadLetterError, LedgerError, SourceError, SourceReason
from tocsin.exposition import AlertMetrics, AlertStatus, SourceMetrics, State
from tocsin.faults import must_end, unexpected
from tocsin.ledger.base import RETRY, EventCommit, Ledger, Occurrence
from tocsin.model import Event, Kind, Notification, Transition, fingerprint
from tocsin.pipeline.columns import NamedColumns
from tocsin.pipeline.numbers import ValueColumn
from tocsin.pipeline.reporter import Reporter, Stall
from tocsin.pipeline.routing import Router, values_of
from tocsin.pipeline.tap import Tap
from tocsin.repeats import Repeats
from tocsin.sources.base import EventBatch, EventSource, EventStream

log = structlog.get_logger(__name__)

HOLD_EVERY = 5.0
"""Seconds at most between two calls of `EventStream.hold` while a batch cannot be stored."""
REFUSED_IN_A_ROW = 3
"""Refusals in a row from which on the source counts as refusing."""
_SHORTEST = 0.1
"""Seconds of the shortest pause after a fault."""


class _Returned(Exception):  # noqa: N818 - not an error: the source delivers the batch again
    """The source took back a batch that could not be stored, and the ledger works again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRoute:
    """An alert on events, and where its notifications go."""

    alert: EventAlert
    router: Router
    metrics: AlertMetrics
    columns: NamedColumns | None = None
    """The columns that the alert names."""
    values: ValueColumn | None = None

    def occurrences(self, events: Sequence[Event]) -> list[Occurrence]:
        """The occurrences of the events that go to any channel."""
        alert = self.alert
        if self.columns is not None:
            events = self.columns.whole(events)
        if self.values is not None:
            for event in events:
                self.values.seen(event.columns, (event.row,))
        transitions = [
            Transition(
                alert=alert.name,
                fingerprint=fingerprint(alert.name, (event.id,)),
                kind=Kind.EVENT,
                started_at=event.at,
                at=event.at,
                columns=event.columns,
                row=event.row,
            )
            for event in events
        ]
        occurrences = [Occurrence(routed) for routed in self.router.addressed(transitions) if routed[1]]
        return [self._deduplicated(one) for one in occurrences] if alert.dedupe_by else occurrences

    def _deduplicated(self, occurrence: Occurrence) -> Occurrence:
        """The occurrence with what makes it a duplicate. An event that lacks a column of `dedupe_by` is never one."""
        event, alert = occurrence.routed[0], self.alert
        values = values_of(alert.dedupe_by, event.columns, event.row)
        if values is None:
            return occurrence
        until = event.at + round(alert.dedupe_window * 1000)
        return Occurrence(occurrence.routed, fingerprint(alert.name, values), until)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOutputs:
    """Where the results of a batch go."""

    ledger: Ledger
    metrics: SourceMetrics
    offer: Callable[[Sequence[Notification]], None]
    """Passes committed notifications to the dispatchers."""
    publish: Callable[[Sequence[Transition]], None]
    """Passes committed events to the page's feed."""
    tap: Tap = field(default_factory=Tap)
    """Where recordings get the batches from."""
    keep: bool = True
    """False: every event stays with its source (a dry run)."""


@dataclass(slots=True)
class _Refusals:
    """What was refused since something was last accepted."""

    what: str
    count: int = 0
    latest: str = ""

    def add(self, why: str) -> None:
        self.count += 1
        self.latest = why

    @property
    def complaint(self) -> str:
        """What is wrong, once so many were refused in a row that it is not a matter of single ones."""
        if self.count < REFUSED_IN_A_ROW:
            return ""
        return f"the last {self.count} {self.what}, the latest: {self.latest}"


class EventPipeline:
    """Ingests the events of one source until it is cancelled."""

    def __init__(
        self,
        name: str,
        source: EventSource,
        routes: Sequence[EventRoute],
        backoff: Backoff,
        outputs: EventOutputs,
        *,
        give_up_after: float | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`give_up_after`: seconds that the source may be down before `run` raises Stall; None: forever. `clock`: the
        wall clock, for what is shown. `monotonic`: for durations."""
        self.name = name
        self.source = source
        self.warning = ""
        """Which messages the server may drop soon; empty while none are in danger."""
        self.last_batch: float | None = None
        """Wall-clock seconds; None before the first batch."""
        self.received: Counter[str] = Counter()
        """Events per alert since the start."""
        self._routes: dict[str, list[EventRoute]] = {}
        for route in routes:
            self._routes.setdefault(route.alert.event_name, []).append(route)
            route.metrics.status = partial(self.status, route.alert)
        self._by_alert = {route.alert.name: route for route in routes}
        self._backoff = backoff
        self._out = outputs
        self._give_up_after = give_up_after
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._sleep = sleep
        self._next_attempt: float | None = None
        self._reporter = Reporter(log, down="source down", up="source up", monotonic=monotonic, source=name)
        self._events = _Refusals("messages are not valid events")
        self._requests = _Refusals("requests were refused")
        self._refused_lines = Repeats(log, "not a valid event", monotonic=monotonic)
        self._unmatched_lines = Repeats(log, "no alert takes these events", monotonic=monotonic)
        self._request_lines = Repeats(log, "request refused", monotonic=monotonic)

    # The path of an event.

    async def run(self) -> None:
        """Follow the source until cancelled. Raises Stall where the configuration asks for it."""
        attempt = 0
        while True:
            backoff, wait = self._backoff, _SHORTEST
            try:
                position = await self._out.ledger.position(self.name)
                async with self.source.open(sorted(self._routes), position=position) as stream:
                    self._recovered()
                    async for batch in stream.batches():
                        await self.process(batch, stream)
                        attempt = 0
            except SourceError as error:
                self._source_failed(error)
                wait = max(wait, error.wait)
            except LedgerError as error:
                self._reporter.failed(str(error), reason=error.reason)
                backoff = RETRY
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, Stall) or must_end(error):
                    raise
                log.debug("unexpected exception", source=self.name, exc_info=error)
                self._source_failed(SourceError(unexpected(error), SourceReason.INTERNAL))
            seconds = backoff.delay(attempt, self._chance, at_least=wait)
            self._next_attempt = self._clock() + seconds
            await self._sleep(seconds)
            self._next_attempt = None
            attempt += 1

    async def process(self, batch: EventBatch, stream: EventStream) -> None:
        """Bring a batch to the ledger and the dispatchers, and acknowledge it."""
        self._count(batch)
        occurrences, unmatched = self._match(batch.events)
        try:
            if self._out.keep:
                await self._until_done(partial(stream.prepare, batch), stream)
            if occurrences or batch.position:
                await self._until_done(partial(self._commit, occurrences, batch), stream)
        except _Returned:
            return
        self._out.tap.events(self.name, batch)
        self.last_batch = self._clock()
        self._recovered()
        if self._out.keep:
            await self._until_done(partial(stream.acknowledge, batch, unmatched), stream)
            self._warn(0, "")
            self._recovered()

    def _match(self, events: Sequence[Event]) -> tuple[list[Occurrence], list[Event]]:
        """The occurrences that the events are for the alerts, and the events that no alert takes."""
        occurrences: list[Occurrence] = []
        unmatched: list[Event] = []
        by_name: dict[str, list[Event]] = {}
        for event in events:
            by_name.setdefault(event.name, []).append(event)
        for name, named in by_name.items():
            if name not in self._routes:
                unmatched += named
            for route in self._routes.get(name, ()):
                route.metrics.updates.inc(len(named))
                self.received[route.alert.name] += len(named)
                occurrences += route.occurrences(named)
        if unmatched:
            self._out.metrics.unmatched.inc(len(unmatched))
            names = sorted({event.name for event in unmatched})
            self._unmatched_lines.add(source=self.name, names=names[:10], events=len(unmatched))
        return occurrences, unmatched

    async def _commit(self, occurrences: Sequence[Occurrence], batch: EventBatch) -> None:
        began = self._monotonic()
        position = batch.position if self._out.keep else {}
        commit = EventCommit(source=self.name, occurrences=occurrences, position=position)
        notifications, new = await self._out.ledger.commit_events(commit)
        seconds = self._monotonic() - began
        received, notified = (Counter(one.routed[0].alert for one in some) for some in (occurrences, new))
        for alert, count in received.items():
            metrics = self._by_alert[alert].metrics
            metrics.transitions[Kind.EVENT].inc(notified[alert])
            metrics.repeated.inc(count - notified[alert])
            metrics.commit_seconds.observe(seconds)
        self._out.offer(notifications)
        self._out.publish([one.routed[0] for one in new])

    async def _until_done(self, step: Callable[[], Awaitable[None]], stream: EventStream) -> None:
        """Do one step of a batch, again and again while the ledger or the place for dead letters fails.

        Raises _Returned if the source took the batch back meanwhile and the ledger works again, and SourceError if the
        subscription is over.
        """
        held, attempt = True, 0
        while True:
            backoff = self._backoff
            try:
                if held:
                    await step()
                    return
                # An empty commit: otherwise only the next event, maybe in days, would show whether the ledger works.
                await self._out.ledger.commit_events(EventCommit(source=self.name, occurrences=[]))
                self._recovered()
                raise _Returned
            except DeadLetterError as error:
                self._source_failed(error)
            except LedgerError as error:
                self._reporter.failed(str(error), reason=error.reason)
                backoff = RETRY
            held = await self._hold(stream, backoff.delay(attempt, self._chance, at_least=_SHORTEST))
            attempt += 1

    async def _hold(self, stream: EventStream, seconds: float) -> bool:
        """Pause, with the subscription kept alive. Returns whether the source still holds the batch."""
        self._next_attempt = self._clock() + seconds
        while True:
            held = await stream.hold()
            part = min(seconds, HOLD_EVERY)
            await self._sleep(part)
            seconds -= part
            if seconds <= 0:
                self._next_attempt = None
                return held

    # Counting and reporting.

    def _count(self, batch: EventBatch) -> None:
        metrics = self._out.metrics
        metrics.events.inc(len(batch.events))
        metrics.near_limit.inc(batch.near_limit)
        self._warn(batch.returns, batch.warning)
        for refused in batch.refused:
            metrics.refused[refused.reason].inc()
            self._events.add(f"{refused.reason}: {refused.detail}")
            self._refused_lines.add(
                refused.reason, source=self.name, at=refused.id, reason=refused.reason, detail=refused.detail
            )
        if batch.events:
            self._events.count = self._requests.count = 0

    def refused_request(self, status: int, why: str) -> None:
        """A request over HTTP was answered with an error. Anyone can send one, so it does not change the state."""
        self._out.metrics.refused_request(status)
        self._requests.add(f"{status}: {why}")
        self._request_lines.add(str(status), source=self.name, status=status, error=why)

    def _recovered(self) -> None:
        self._reporter.recovered(events=sorted(self._routes))

    def _warn(self, returns: int, warning: str) -> None:
        self._out.metrics.returns.set(returns)
        # Logged once until it is over, however the numbers in it change.
        if warning and not self.warning:
            log.warning("messages may be dropped by the server", source=self.name, warning=warning)
        self.warning = warning

    def _source_failed(self, error: SourceError) -> None:
        for route in self._by_alert.values():
            route.metrics.source_errors[error.reason].inc()
        self._reporter.failed(str(error), reason=error.reason)
        if self._give_up_after is not None and self._reporter.down_for >= self._give_up_after:
            raise Stall(f"source {self.name}: {error}") from None

    # What others read.

    @property
    def state(self) -> State:
        """The state of the source now."""
        return State.REFUSING if self._reporter.up and self._events.complaint else self._reporter.state

    @property
    def message(self) -> str:
        """Why the source is down; empty while it is not."""
        return self._reporter.message

    @property
    def complaint(self) -> str:
        """What is wrong with what is delivered, while the source itself works; empty while nothing is."""
        return self._events.complaint or self._requests.complaint

    def status(self, alert: EventAlert) -> AlertStatus:
        """The status of one of its alerts now."""
        return AlertStatus(
            name=alert.name,
            source=self.name,
            state=self.state,
            message=self.message or self.complaint,
            next_attempt=self._next_attempt,
            last_progress=self.last_batch,
            events=self.received[alert.name],
        )
