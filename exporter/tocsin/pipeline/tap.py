"""The batches of the pipelines as they come, for recordings (`tocsin record`). Costs nothing while no one records."""

import asyncio
from collections.abc import AsyncGenerator, Container, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tocsin.alert import EventAlert, RowAlert
from tocsin.firing import Firing, FiringSet
from tocsin.model import Batch, Columns
from tocsin.sources.base import EventBatch

_BEHIND = 500_000
"""Rows that a slow reader may be behind before it is closed: a reader must never delay a pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenState:
    """What an alert on rows was before the next of its batches."""

    alert: RowAlert
    columns: Columns
    frontier: int | None
    """Source ms; None at the very first start."""
    firings: Sequence[Firing]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRows:
    """A batch of an alert on rows."""

    alert: str
    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEvents:
    """A batch of a source of events. A batch that could not be stored is there again."""

    source: str
    batch: EventBatch


Seen: TypeAlias = SeenState | SeenRows | SeenEvents


class _Reader:
    def __init__(self, alerts: Container[str], sources: Container[str]) -> None:
        self.alerts = alerts
        self.sources = sources
        self.known: dict[str, Columns] = {}
        """The columns of the alerts whose state it has."""
        self.queue: asyncio.Queue[tuple[Seen, int] | None] = asyncio.Queue()
        self.waiting = 0
        """The rows in the queue."""
        self.fell_behind = False

    def put(self, seen: Seen, size: int) -> None:
        if self.fell_behind:
            return
        self.fell_behind = self.waiting > _BEHIND
        self.waiting += size
        self.queue.put_nowait(None if self.fell_behind else (seen, size))


class Tap:
    """Passes batches to any number of readers without ever waiting for one."""

    def __init__(self) -> None:
        self._readers: set[_Reader] = set()

    def before(self, alert: RowAlert, firing: FiringSet, frontier: int | None) -> SeenState | None:
        """Return the state of an alert before a batch, if a reader has to know it. `frontier`: that of `firing`."""
        columns = firing.rule.columns
        if not any(alert.name in one.alerts and one.known.get(alert.name) != columns for one in self._readers):
            return None
        return SeenState(alert=alert, columns=columns, frontier=frontier, firings=list(firing.firings()))

    def rows(self, alert: str, before: SeenState | None, batch: Batch) -> None:
        """A batch of an alert was committed: what could not be committed comes again. `before`: see above."""
        for reader in self._readers:
            if alert not in reader.alerts:
                continue
            if before is not None and reader.known.get(alert) != before.columns:
                reader.known[alert] = before.columns
                reader.put(before, len(before.firings))
            if alert in reader.known:  # one that has come meanwhile begins with the next batch
                reader.put(SeenRows(alert=alert, batch=batch), len(batch.updates))

    def events(self, source: str, batch: EventBatch) -> None:
        """A batch of events was committed."""
        for reader in self._readers:
            if source in reader.sources:
                reader.put(SeenEvents(source=source, batch=batch), len(batch.events))

    async def follow(
        self, alerts: Container[str], sources: Container[str], quiet: float
    ) -> AsyncGenerator[Seen | None, None]:
        """The batches of these alerts on rows and sources of events as they come; before the first one of an alert its
        state. None after each `quiet` seconds without one. Ends for a reader that falls too far behind."""
        reader = _Reader(alerts, sources)
        self._readers.add(reader)
        try:
            while True:
                try:
                    async with asyncio.timeout(quiet):
                        following = await reader.queue.get()
                except TimeoutError:
                    yield None
                    continue
                if following is None:
                    return
                seen, size = following
                reader.waiting -= size
                yield seen
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        """End every reader."""
        for reader in self._readers:
            reader.queue.put_nowait(None)


def taken_by(alerts: Sequence[RowAlert | EventAlert]) -> tuple[frozenset[str], frozenset[str]]:
    """The alerts on rows among these, and the sources of those on events."""
    rows = frozenset(one.name for one in alerts if isinstance(one, RowAlert))
    return rows, frozenset(one.source for one in alerts if isinstance(one, EventAlert))
