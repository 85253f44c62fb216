"""Sources that deliver what a script says."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal, Protocol, TypeAlias, TypeVar

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Batch, Columns, Event, Row, Update
from tocsin.sources.base import EventBatch, EventSource, EventStream, Source, Stream, Subject

T = TypeVar("T")
Delivery: TypeAlias = Literal["history", "readings", "changes"]
"""How a type of source delivers: `history`: changes, also those since the frontier (materialize); `readings`: the whole
content each time (postgres, types of other packages); `changes`: the content when the subscription begins, then changes
(kafka)."""

_DELIVERIES: Mapping[str, Delivery] = {"materialize": "history", "kafka": "changes"}


def delivery(kind: str) -> Delivery:
    """How a source of this type delivers its rows."""
    return _DELIVERIES.get(kind, "readings")


class Watchable(Protocol):
    """Rows that alerts watch."""

    columns: Columns

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that are there now."""
        ...

    def batches(self, as_of: int | None) -> AsyncIterator[Batch]:
        """One subscription."""
        ...


async def following(queue: "asyncio.Queue[T | SourceError]") -> T:
    """What comes next. Raises it if it is an error."""
    item = await queue.get()
    if isinstance(item, SourceError):
        raise item
    return item


class Relation:
    """The rows that one or several alerts watch, and what happened to them."""

    def __init__(self, columns: Columns, delivery: Delivery, *, now: int) -> None:
        """`now`: source time in milliseconds, as everywhere here."""
        self.columns = columns
        self.frontier = now + 1
        """Everything before it has happened."""
        self._delivery = delivery
        self._rows: Counter[Row] = Counter()
        self._log: list[Update] = []
        """What happened since `_oldest`, which is in `_rows` too."""
        self._oldest = now
        """The first time of which the content is known."""
        self._streams: set[asyncio.Queue[Batch | SourceError]] = set()

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that are there now, in the order in which they came."""
        return list(self._rows.elements())

    def define(self, columns: Columns) -> None:
        """Give the rows other columns. There must be no rows, and no subscription."""
        assert not self._rows
        assert not self._streams
        self.columns = columns

    def change(self, now: int, changes: Sequence[tuple[int, Row]]) -> None:
        """Add and remove rows, each `(diff, row)`, and deliver that. No changes: only time has passed."""
        at = max(now, self.frontier)
        updates = [(at, diff, row) for diff, row in changes]
        self._log += updates
        for _, diff, row in updates:
            self._rows[row] += diff
            if not self._rows[row]:
                del self._rows[row]
        self.frontier = at + 1
        for stream in self._streams:
            whole = self._delivery == "readings"
            stream.put_nowait(self._content(polled=True) if whole else Batch(updates=updates, frontier=at + 1))

    def replace(self, now: int, rows: Sequence[Row]) -> None:
        """Change the content to these rows."""
        wanted = Counter(rows)
        gone = [(-count, row) for row, count in (self._rows - wanted).items()]
        self.change(now, [*gone, *((count, row) for row, count in (wanted - self._rows).items())])

    def forget(self) -> None:
        """Lose the history until now."""
        self._oldest = self.frontier - 1
        self._log.clear()

    def disconnect(self, error: SourceError) -> None:
        """End every subscription with an error."""
        for stream in self._streams:
            stream.put_nowait(error)
        self._streams.clear()

    async def batches(self, as_of: int | None) -> AsyncIterator[Batch]:
        """One subscription."""
        waiting: asyncio.Queue[Batch | SourceError] = asyncio.Queue()
        for batch in self._beginning(as_of):
            waiting.put_nowait(batch)
        self._streams.add(waiting)
        try:
            while True:
                yield await following(waiting)
        finally:
            self._streams.discard(waiting)

    def _beginning(self, as_of: int | None) -> Sequence[Batch]:
        if self._delivery != "history" or as_of is None or as_of < self._oldest:
            return [self._content(polled=self._delivery == "changes")]
        later = [update for update in self._log if update[0] > as_of]
        rows = self._rows.copy()
        for _, diff, row in later:
            rows[row] -= diff
        snapshot = [(as_of, count, row) for row, count in rows.items() if count]
        first = Batch(updates=snapshot, frontier=as_of + 1, snapshot=as_of)
        return [first, Batch(updates=later, frontier=self.frontier)]

    def _content(self, *, polled: bool) -> Batch:
        at = self.frontier - 1
        updates = [(at, count, row) for row, count in self._rows.items()]
        return Batch(updates=updates, frontier=self.frontier, snapshot=at, polled=polled)


class Reachable:
    """Whether a source can be reached."""

    def __init__(self) -> None:
        self._up = asyncio.Event()
        self._up.set()

    @property
    def down(self) -> SourceError | None:
        """The error of a source that cannot be reached."""
        return None if self._up.is_set() else SourceError("the source is down", SourceReason.DISCONNECTED)

    def set(self, *, up: bool) -> None:
        """Change whether it can be reached."""
        self._up.set() if up else self._up.clear()

    async def wait(self) -> None:
        """Return once it can be reached, so that an alert is back as soon as its source is, without backoff."""
        await self._up.wait()


class ScriptedRows(Source):
    """A source of rows."""

    def __init__(self, relations: Mapping[Subject, Watchable], reachable: Reachable) -> None:
        self._relations = relations
        self._reachable = reachable

    @asynccontextmanager
    async def open(
        self, subject: Subject, *, as_of: int | None, checked: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Stream]:
        await self._reachable.wait()
        checked("")
        relation = self._relations[subject]
        yield Stream(relation.columns, lambda: relation.batches(as_of))

    async def describe(self, subject: Subject) -> Columns:
        return self._relations[subject].columns

    async def sample(self, subject: Subject) -> Row | None:
        return next(iter(self._relations[subject].rows), None)


class ScriptedEvents(EventSource):
    """A source of events. It keeps each until it is acknowledged."""

    def __init__(self, reachable: Reachable) -> None:
        self._reachable = reachable
        self._kept: list[Event] = []
        self._stream: _Events | None = None

    def publish(self, events: Sequence[Event]) -> None:
        """Deliver events."""
        self._kept += events
        if self._stream is not None:
            self._stream.waiting.put_nowait(list(events))

    def disconnect(self, error: SourceError) -> None:
        """End the subscription with an error."""
        if self._stream is not None:
            self._stream.waiting.put_nowait(error)
            self._stream = None

    @asynccontextmanager
    async def open(self, names: Sequence[str], *, position: Mapping[str, int]) -> AsyncIterator[EventStream]:
        del names, position
        await self._reachable.wait()
        self._stream = stream = _Events(self._kept)
        try:
            yield stream
        finally:
            if self._stream is stream:
                self._stream = None


class _Events(EventStream):
    def __init__(self, kept: list[Event]) -> None:
        self.waiting: asyncio.Queue[list[Event] | SourceError] = asyncio.Queue()
        self._kept = kept
        if kept:
            self.waiting.put_nowait(list(kept))

    async def batches(self) -> AsyncIterator[EventBatch]:
        while True:
            events: list[Event] = await following(self.waiting)
            yield EventBatch(events=events)

    async def prepare(self, batch: EventBatch) -> None:
        """Nothing: there are no dead letters."""

    async def hold(self) -> bool:
        return True

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:  # noqa: ARG002
        for event in batch.events:
            self._kept.remove(event)
