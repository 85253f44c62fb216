"""One source of events, from its stream to ledger and dispatchers; and back to the start of the path after any fault.

An event is acknowledged only once the ledger has it. What was not is delivered again, with the same id, and the ledger
knows it.

A fault of the connection ends the stream, and another one is opened. A fault on this side of it does not: while the
ledger or the place for dead letters fails, the stream stays open and the same batch is tried again. Servers count
reconnections against a client: a quorum queue of RabbitMQ 4 drops a message that was returned to it too often.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from tocsin.alert import EventAlert
from tocsin.backoff import Backoff
from tocsin.errors import DeadLetterError, LedgerError, SourceError, SourceReason
from tocsin.exposition import AlertMetrics, AlertState, SourceMetrics
from tocsin.faults import must_end, unexpected
from tocsin.ledger.base import EventCommit, Ledger, Occurrence
from tocsin.model import Address, Event, Kind, Notification, Transition, fingerprint
from tocsin.pipeline.columns import NamedColumns
from tocsin.pipeline.routing import Router, values_of
from tocsin.pipeline.status import AlertStatus, Stall, State
from tocsin.repeats import Repeats
from tocsin.sources.base import EventBatch, EventSource, EventStream

log = structlog.get_logger(__name__)

T = TypeVar("T")

HOLD_EVERY = 5.0
"""Seconds at most between two calls of `EventStream.hold` while a batch cannot be made safe."""


REFUSED_IN_A_ROW = 3
"""Refusals in a row after which the source counts as refusing."""

_SHORTEST = 0.1
"""Seconds of the shortest pause after a fault."""


class _GivenBack(Exception):  # noqa: N818 - not an error: the source delivers the batch again
    """The source took a batch back that could not be made safe, and it can be now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRoute:
    """An alert on events: what it takes, and where that goes."""

    alert: EventAlert
    router: Router
    metrics: AlertMetrics
    columns: NamedColumns | None = None
    """What the alert names of an event; None where no one asks for what is missing."""

    def occurrences(self, events: Sequence[Event]) -> list[Occurrence]:
        """What events come to; those that go nowhere come to nothing."""
        alert = self.alert
        if self.columns is not None:
            events = self.columns.whole(events)
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
        addressed = [one for one in self.router.addressed(transitions) if one[1]]
        if not alert.dedupe_by:
            return [Occurrence(one) for one in addressed]
        window = round(alert.dedupe_window * 1000)
        return [self._compared(one, window) for one in addressed]

    def _compared(self, addressed: tuple[Transition, tuple[Address, ...]], window: int) -> Occurrence:
        """An event that is compared with others for `window` milliseconds. One that lacks a column of `dedupe_by` is
        compared with none: nothing says that it is a repeat."""
        event = addressed[0]
        values = values_of(self.alert.dedupe_by, event.columns, event.row)
        if values is None:
            return Occurrence(addressed)
        return Occurrence(addressed, fingerprint(self.alert.name, values), event.at + window)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOutputs:
    """Where the results of an intake go. `keep`: False leaves every event with its source (a dry run)."""

    ledger: Ledger
    metrics: SourceMetrics
    offer: Callable[[Sequence[Notification]], None]
    publish: Callable[[Sequence[Transition]], None]
    keep: bool = True


class Refusals:
    """What a source refused since it last took something. `latest`: why, for people."""

    def __init__(self) -> None:
        self.count = 0
        self.latest = ""

    @property
    def all_refused(self) -> bool:
        """Whether so many were refused in a row that it is not a matter of single ones."""
        return self.count >= REFUSED_IN_A_ROW

    def refused(self, why: str) -> None:
        """One was refused."""
        self.count += 1
        self.latest = why

    def took(self) -> None:
        """One was taken."""
        self.count = 0


class EventPipeline:
    """Takes in what one source delivers until it is cancelled."""

    def __init__(
        self,
        name: str,
        source: EventSource,
        takers: Sequence[EventRoute],
        backoff: Backoff,
        outlets: EventOutputs,
        *,
        give_up_after: float | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`give_up_after`: seconds that the source may be down before `run` raises Stall; None for ever. `clock`: the
        wall clock, for what is shown; it may jump. `monotonic`: for how long something takes or lasts."""
        self.name = name
        self.message = ""
        self.warning = ""
        """What may soon be lost, for people; empty while nothing is in danger."""
        self.last_batch: float | None = None
        self.taken: Counter[str] = Counter()
        self.source = source
        self._takers: dict[str, list[EventRoute]] = {}
        for taker in takers:
            self._takers.setdefault(taker.alert.event_name, []).append(taker)
            taker.metrics.state = self.measure
        self._backoff = backoff
        self._out = outlets
        self._give_up_after = give_up_after
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._sleep = sleep
        self._up = False
        self._down_since = monotonic()
        self._events = Refusals()
        self._requests = Refusals()
        self._refused_lines = Repeats(log, "not an event", monotonic=monotonic)
        self._unmatched_lines = Repeats(log, "no alert takes these events", monotonic=monotonic)
        self._request_lines = Repeats(log, "request refused", monotonic=monotonic)

    @property
    def state(self) -> State:
        """Where the source stands now."""
        if self._up:
            return State.REFUSING if self._events.all_refused else State.UP
        return State.ERROR if self.message else State.STARTING

    def measure(self) -> AlertState:
        """What the metrics of its alerts show."""
        return AlertState(up=self.state is State.UP, last_progress=self.last_batch)

    def status(self, alert: EventAlert) -> AlertStatus:
        """The status of one of its alerts now."""
        return AlertStatus(
            name=alert.name,
            source=self.name,
            state=self.state,
            message=self.message or self.complaint,
            last_progress=self.last_batch,
            events=self.taken[alert.name],
        )

    @property
    def complaint(self) -> str:
        """What is wrong with what is delivered, for people, while the source itself works; empty while nothing is."""
        if self._events.all_refused:
            return f"the last {self._events.count} messages are not valid events, the latest: {self._events.latest}"
        if self._requests.all_refused:
            return f"the last {self._requests.count} requests were refused, the latest: {self._requests.latest}"
        return ""

    def refused_request(self, status: int, why: str) -> None:
        """A request over HTTP was answered with an error. Anyone can send one, so it does not change the state."""
        self._out.metrics.refused_request(status)
        self._requests.refused(f"{status}: {why}")
        self._request_lines.add(str(status), source=self.name, status=status, error=why)

    async def run(self) -> None:
        """Follow the source until cancelled. Raises Stall where the configuration asks for it."""
        attempt = 0
        while True:
            wait = _SHORTEST
            try:
                position = await self._out.ledger.position(self.name)
                async with self.source.open(sorted(self._takers), position=position) as stream:
                    self._succeeded()
                    async for batch in stream.batches():
                        await self._absorb(batch, stream)
                        attempt = 0
            except SourceError as error:
                self._source_failed(error)
                wait = max(wait, error.wait)
            except LedgerError as error:
                self._failed(str(error), reason=error.reason)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, Stall) or must_end(error):
                    raise
                log.debug("unexpected exception", source=self.name, exc_info=error)
                self._source_failed(SourceError(unexpected(error), SourceReason.INTERNAL))
            await self._sleep(self._backoff.delay(attempt, self._chance, at_least=wait))
            attempt += 1

    async def _absorb(self, batch: EventBatch, stream: EventStream) -> None:
        metrics = self._out.metrics
        metrics.events.inc(len(batch.events))
        metrics.near_limit.inc(batch.near_limit)
        self._endangered(batch.returns, batch.warning)
        for refused in batch.refused:
            metrics.refused(refused.reason)
            self._events.refused(f"{refused.reason}: {refused.detail}")
            self._refused_lines.add(
                refused.reason, source=self.name, at=refused.id, reason=refused.reason, detail=refused.detail
            )
        if batch.events:
            self._events.took()
            self._requests.took()
        occurrences, unmatched = self._sorted(batch.events)
        try:
            if self._out.keep:
                await self._repeated(partial(stream.prepare, batch), stream)
            if occurrences or batch.position:
                await self._commit(occurrences, batch, stream)
        except _GivenBack:
            return
        self.last_batch = self._clock()
        self._succeeded()
        if self._out.keep:
            await self._repeated(partial(stream.acknowledge, batch, unmatched), stream)
            self._endangered(0, "")
            self._succeeded()

    async def _commit(self, occurrences: Sequence[Occurrence], batch: EventBatch, stream: EventStream) -> None:
        commit = EventCommit(
            source=self.name, occurrences=occurrences, position=batch.position if self._out.keep else {}
        )

        async def commit_events() -> tuple[list[Notification], list[Occurrence], float]:
            began = self._monotonic()
            return *await self._out.ledger.commit_events(commit), self._monotonic() - began

        notifications, new, seconds = await self._repeated(commit_events, stream)
        self._count(occurrences, new, seconds)
        self._out.offer(notifications)
        self._out.publish([one.told[0] for one in new])

    async def _repeated(self, step: Callable[[], Awaitable[T]], stream: EventStream) -> T:
        """Do one step of a batch, again and again while the ledger or the place for dead letters fails.

        Raises _GivenBack if the source took the batch back meanwhile and the ledger can be written again, and
        SourceError if the subscription is over.
        """
        held, attempt = True, 0
        while True:
            try:
                if held:
                    return await step()
                # Whether the ledger works does not show before the next event otherwise, which may take days.
                await self._out.ledger.commit_events(EventCommit(source=self.name, occurrences=[]))
                self._succeeded()
                raise _GivenBack
            except DeadLetterError as error:
                self._source_failed(error)
            except LedgerError as error:
                self._failed(str(error), reason=error.reason)
            held = await self._held(stream, self._backoff.delay(attempt, self._chance, at_least=_SHORTEST))
            attempt += 1

    async def _held(self, stream: EventStream, seconds: float) -> bool:
        """Pause, with the subscription kept alive. Returns whether the source still holds the batch."""
        while True:
            held = await stream.hold()
            part = min(seconds, HOLD_EVERY)
            await self._sleep(part)
            seconds -= part
            if seconds <= 0:
                return held

    def _sorted(self, events: Sequence[Event]) -> tuple[list[Occurrence], list[Event]]:
        """What the events come to, and those that no alert takes."""
        occurrences: list[Occurrence] = []
        unmatched: list[Event] = []
        by_name: dict[str, list[Event]] = {}
        for event in events:
            by_name.setdefault(event.name, []).append(event)
        for name, named in by_name.items():
            takers = self._takers.get(name)
            if takers is None:
                unmatched += named
                continue
            for taker in takers:
                taker.metrics.updates.inc(len(named))
                self.taken[taker.alert.name] += len(named)
                occurrences += taker.occurrences(named)
        if unmatched:
            self._out.metrics.unmatched.inc(len(unmatched))
            names = sorted({event.name for event in unmatched})
            self._unmatched_lines.add(source=self.name, names=names[:10], events=len(unmatched))
        return occurrences, unmatched

    def _count(self, occurrences: Sequence[Occurrence], told: Sequence[Occurrence], seconds: float) -> None:
        by_alert: dict[str, list[int]] = {}
        for place, some in enumerate((occurrences, told)):
            for one in some:
                by_alert.setdefault(one.told[0].alert, [0, 0])[place] += 1
        for taker in self._everyone():
            came, went = by_alert.get(taker.alert.name, (0, 0))
            if came:
                taker.metrics.transitioned(Kind.EVENT, went)
                taker.metrics.repeated.inc(came - went)
                taker.metrics.commit_seconds.observe(seconds)

    def _everyone(self) -> Iterator[EventRoute]:
        return (taker for takers in self._takers.values() for taker in takers)

    def _succeeded(self) -> None:
        if not self._up:
            log.info("source up", source=self.name, events=sorted(self._takers))
        self._up, self.message = True, ""

    def _endangered(self, returns: int, warning: str) -> None:
        self._out.metrics.returns.set(returns)
        # Logged once a streak, however the numbers in it change.
        if warning and not self.warning:
            log.warning("messages may be dropped by the server", source=self.name, warning=warning)
        self.warning = warning

    def _source_failed(self, error: SourceError) -> None:
        for taker in self._everyone():
            taker.metrics.source_failed(error.reason)
        self._failed(str(error), reason=error.reason)
        if self._give_up_after is not None and self._monotonic() - self._down_since >= self._give_up_after:
            raise Stall(f"source {self.name}: {error}") from None

    def _failed(self, message: str, **details: str) -> None:
        # Said once a streak: the same fault again and again is one piece of news.
        if message != self.message:
            log.warning("source down", source=self.name, error=message, **details)
        if self._up:
            self._down_since = self._monotonic()
        self._up, self.message = False, message
