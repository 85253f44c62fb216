"""A recording as the sources of a configuration."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from tocsin.alert import RowAlert
from tocsin.channels.settings import ChannelOptions
from tocsin.config import Config, SourceConfig
from tocsin.errors import SourceError, SourceReason, TocsinError
from tocsin.ledger.base import Commit, Ledger
from tocsin.model import Batch, Columns, Row
from tocsin.pipeline.resume import definition
from tocsin.recording.files import Overview
from tocsin.recording.lines import Events, Item, Rows, State
from tocsin.simulation.sources import Reachable, ScriptedEvents, ScriptedRows, following
from tocsin.sources.base import EventSource, Source, Subject

_DAY = 86400.0

Watched: TypeAlias = tuple[str, Subject]
"""A source and what an alert watches there."""


class Feed:
    """What one alert on rows received, for every alert that watches the same."""

    def __init__(self, first: State) -> None:
        self.alert = first.alert
        self.columns: Columns = first.columns
        self.frontier = first.frontier
        self.watched = 0
        """How many alerts watch it."""
        self.open = asyncio.Event()
        """Set once all of them have subscribed."""
        self._begun = False
        """Whether the rows are those after the first batch."""
        self._rows = _rows_of(first)
        self._readers: dict[asyncio.Queue[Batch | SourceError], int | None] = {}

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that are there now."""
        return list(self._rows.elements())

    def state(self, state: State) -> None:
        """The recording was interrupted, or the columns changed: go on with these rows."""
        self._rows, self.frontier, self._begun = _rows_of(state), state.frontier, True
        if state.columns != self.columns:
            self.columns = state.columns
            for reader in self._readers:
                reader.put_nowait(SourceError("the columns changed", SourceReason.SHAPE))
            self._readers.clear()
        elif self.frontier is not None:
            self._put(self._content())

    def deliver(self, batch: Batch) -> None:
        """Deliver a batch as it was received."""
        if batch.snapshot is not None:
            self._rows.clear()
        for _, diff, row in batch.updates:
            self._rows[row] += diff
            if not self._rows[row]:
                del self._rows[row]
        self.frontier, self._begun = batch.frontier, True
        self._put(batch)

    def _put(self, batch: Batch) -> None:
        for reader, as_of in self._readers.items():
            # Of alerts that watch the same, one may have been further than the other when the recording began.
            if batch.snapshot is None and as_of is not None:
                later = [update for update in batch.updates if update[0] > as_of]
                reader.put_nowait(replace(batch, updates=later))
            else:
                reader.put_nowait(batch)

    def _content(self) -> Batch:
        assert self.frontier is not None
        at = self.frontier - 1
        return Batch(
            updates=[(at, count, row) for row, count in self._rows.items()], frontier=self.frontier, snapshot=at
        )

    async def batches(self, as_of: int | None) -> AsyncIterator[Batch]:
        """One subscription."""
        reader: asyncio.Queue[Batch | SourceError] = asyncio.Queue()
        # An alert that has the state of the recording goes on from it. Any other begins with the rows.
        if self.frontier is not None and (self._begun or as_of is None):
            reader.put_nowait(self._content())
        self._readers[reader] = as_of
        if len(self._readers) == self.watched:
            self.open.set()
        try:
            while True:
                yield await following(reader)
        finally:
            self._readers.pop(reader, None)


def _rows_of(state: State) -> Counter[Row]:
    rows: Counter[Row] = Counter()
    for firing in state.firings:
        for count, row in firing.counts:
            rows[row] += count
    return rows


class Feeds:
    """Everything that was recorded for the alerts of a configuration."""

    def __init__(self, config: Config, overview: Overview) -> None:
        """`config`: with only the alerts that the recording has something of; see `recorded`."""
        self._config = config
        self._states = overview.states
        self.rows: dict[Watched, Feed] = {}
        self._seen: set[str] = set()
        for alert in config.row_alerts.values():
            state = _state_of(alert, self._states)
            assert state is not None
            self.rows.setdefault((alert.source, alert.subject), Feed(state)).watched += 1
        self._by_alert = {feed.alert: feed for feed in self.rows.values()}
        self._events = {alert.source: ScriptedEvents(Reachable()) for alert in config.event_alerts.values()}

    def source(self, config: SourceConfig) -> Source | EventSource:
        """The source in place of a configured one."""
        if config.name in self._events:
            return self._events[config.name]
        feeds = {subject: feed for (name, subject), feed in self.rows.items() if name == config.name}
        return ScriptedRows(feeds, Reachable())

    async def preload(self, ledger: Ledger) -> None:
        """Write what fired when the recording began, so that what ends has the ids of the live run."""
        for alert in self._config.row_alerts.values():
            state = self._states.get(alert.name)
            if state is None or state.frontier is None or state.definition != definition(alert):
                continue
            await ledger.commit(
                Commit(
                    alert=alert.name,
                    definition=state.definition,
                    columns=state.columns,
                    frontier=state.frontier,
                    saved=state.firings,
                    replace=True,
                )
            )

    async def opened(self) -> None:
        """Wait until every alert on rows has subscribed: what is delivered before is only content to them."""
        await asyncio.gather(*(feed.open.wait() for feed in self.rows.values()))

    def deliver(self, item: Item) -> None:
        """Deliver one item of the recording."""
        if isinstance(item, Events):
            if item.source in self._events:
                self._events[item.source].publish(item.events)
        elif (feed := self._by_alert.get(item.alert)) is not None:
            if isinstance(item, Rows):
                feed.deliver(item.batch)
            elif item.alert in self._seen:
                feed.state(item)
            self._seen.add(item.alert)


def recorded(config: Config, overview: Overview, wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The alerts of a configuration that a recording has something of, and those that it has nothing of.

    An alert on rows is matched by its source and what it watches there, so its name, key and other settings may have
    changed. An alert on events is matched by its source. Raises TocsinError if there is none.
    """
    states, sources = overview.states, overview.sources
    for name in wanted:
        if name not in config.alerts:
            raise TocsinError(f"there is no alert {name!r}; there are {', '.join(config.alerts)}")
    names = [name for name in config.alerts if not wanted or name in wanted]
    found = [
        name
        for name in names
        if (
            _state_of(alert, states) is not None
            if isinstance(alert := config.alerts[name], RowAlert)
            else alert.source in sources
        )
    ]
    if not found:
        held = [f"{one.source}: {_named(one.subject)}" for one in states.values()] + [*sources]
        raise TocsinError(
            f"the recording has nothing of {', '.join(names) or 'any alert'}; it has {'; '.join(held) or 'nothing'}"
        )
    return found, [name for name in names if name not in found]


def _state_of(alert: RowAlert, states: Mapping[str, State]) -> State | None:
    same = [one for one in states.values() if (one.source, one.subject) == (alert.source, alert.subject)]
    return next((one for one in same if one.alert == alert.name), next(iter(same), None))


def _named(subject: Subject) -> str:
    return subject.relation or subject.topic or subject.event or subject.query or ""


def times(items: Iterable[Item], start: float, longest: float) -> Iterator[tuple[float, float, Item]]:
    """Each item with the seconds since the start, and by how many of them the clock jumped before it instead of
    passing.

    No more than `longest` seconds pass between two items: nothing was recorded for so long, or the clock was set
    forward, which may be by decades. The clock may have been set back, too: then no time passes.
    """
    latest = 0.0
    for item in items:
        at = max(latest, item.at - start)
        yield at, max(at - latest - longest, 0.0), item
        latest = at


def longest_pause(config: Config) -> float:
    """The seconds that pass at most between two items of a recording: a day, or as long as a notification may wait."""
    return max(_DAY, longest_interval(config))


def longest_interval(config: Config) -> float:
    """The longest time, in seconds, that a notification may wait to be merged."""
    options = (one for channel in config.channels.values() for one in channel.routes.values())
    return max((one.interval for one in options if isinstance(one, ChannelOptions)), default=0.0)
