"""One configuration in virtual time: sources, receivers and the process as a script has them.

    async def script() -> None:
        async with Simulation(config, folder, start=START) as simulation:
            simulation.define("late_orders", columns)
            await simulation.begin()
            await simulation.until(60)
            simulation.change("late_orders", [(1, row)])
            await simulation.settle()
            print(simulation.series(), simulation.receivers["team"].accepted)

    virtual.run(script())

Times are seconds since the start, which is a moment of the wall clock. The time of the sources is the wall clock in
milliseconds. Random waits, as those before a retry, take as long as they can.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from tocsin.alert import EventAlert, RowAlert
from tocsin.app import build
from tocsin.channels.base import Channel, Level
from tocsin.config import ChannelConfig, Config, SourceConfig
from tocsin.errors import SourceError, SourceReason
from tocsin.exposition import AlertStatus, State
from tocsin.ledger import sqlite
from tocsin.ledger.base import Filter, Ledger, Record, Status
from tocsin.model import Column, Columns, Event, Row
from tocsin.silences import Matchers, Silence
from tocsin.simulation.life import Life
from tocsin.simulation.receivers import Attempt, Receiver, ScriptedChannel, ScriptedLevel
from tocsin.simulation.sources import Reachable, Relation, ScriptedEvents, ScriptedRows, delivery
from tocsin.simulation.virtual import counted
from tocsin.sources.base import EventSource, Source
from tocsin.sources.documents import row_of

_SETTLED = 1e-6
"""Seconds of virtual time, which pass only when nothing is left to do."""
_MOMENT = 0.0004
"""Seconds of virtual time that pass at most while it is the same millisecond."""
_TEXT = 25
"""The type number of text in PostgreSQL."""


def only(config: Config, alerts: Sequence[str]) -> Config:
    """The configuration with these alerts alone, and the sources and channels that they use."""
    kept = {name: alert for name, alert in config.alerts.items() if name in alerts}
    sources = {alert.source for alert in kept.values()}
    channels = {
        name: replace(channel, routes={alert: options for alert, options in channel.routes.items() if alert in kept})
        for name, channel in config.channels.items()
    }
    return replace(
        config,
        alerts=kept,
        sources={name: source for name, source in config.sources.items() if name in sources},
        channels={name: channel for name, channel in channels.items() if channel.routes},
    )


class Simulation:
    """Runs in a `VirtualLoop` only."""

    def __init__(self, config: Config, folder: Path, *, start: float) -> None:
        """`folder`: for the ledger; a temporary one. `start`: seconds of the wall clock."""
        self.config = config
        self._file = folder / "ledger.db"
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._alarm = asyncio.Event()
        self._killed = False
        self._life: Life | None = None
        self._published = 0
        self.receivers = {name: Receiver(name, self._was_killed) for name in config.channels}
        """By channel."""
        self._reachable = {name: Reachable() for name in config.sources}
        self._events = {name: ScriptedEvents(self._reachable[name]) for name in config.sources}
        self._relations: dict[str, dict[Any, Relation]] = {name: {} for name in config.sources}  # by source and subject
        for alert in config.row_alerts.values():
            kind = config.sources[alert.source].kind
            relations = self._relations[alert.source]
            named = relations[alert.subject].columns if alert.subject in relations else ()
            # They begin a moment before the start, so that what happens at the start is a change.
            relations[alert.subject] = Relation(_needed(alert, named), delivery(kind), now=self.moment - 1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    # Time.

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._began

    @property
    def moment(self) -> int:
        """The time of the sources, in milliseconds."""
        return round(self._wall() * 1000)

    def _wall(self) -> float:
        return self._start + self.now

    async def until(self, at: float) -> None:
        """Let time pass until `at`, with everything that happens before."""
        if at <= self.now:
            return
        await self.settle()
        while due := [one for one in self._due() if self.now < one < at]:
            await self._sleep(min(due))
            await self.settle()
        await self._sleep(at)

    def set_clock_forward(self, seconds: float) -> None:
        """Set the wall clock forward: no time passes, and nothing happens before the next of it."""
        self._began -= seconds

    async def settle(self) -> None:
        """Have the sources report that it is now, and return when everything that can be done now is done."""
        for relation in self._all_relations():
            if relation.frontier <= self.moment:
                relation.change(self.moment, [])
        # Whole milliseconds and a part of the next: what is due a moment after the millisecond is still of now.
        await self._sleep(max(self.now + _SETTLED, round(self.now, 3) + _MOMENT))
        if self._life is not None and await self._life.close_silences():
            await self._sleep(self.now + _SETTLED)

    def _due(self) -> Iterator[float]:
        life = self._life
        if life is None:
            return
        for name in self.config.row_alerts:
            pipeline = life.inputs.rows(name)
            if pipeline is not None and pipeline.next_due is not None:
                yield pipeline.next_due / 1000 - self._start
        if life.ledger is not None:
            yield from (one.ends_at - self._start for one in life.ledger.silences.all)
        if any(alert.levels for alert in self.config.row_alerts.values()):
            # Level outputs do not send what has made no progress for long.
            yield self.now + min(source.settings.stale_after for source in self.config.sources.values()) / 2

    async def _sleep(self, until: float) -> None:
        wake = self._began + until
        while self._loop.time() < wake:
            self._alarm.clear()
            timer = self._loop.call_at(wake, self._alarm.set)
            await self._alarm.wait()
            timer.cancel()
            if self._life is not None:
                self._life.check()
            if self._killed:
                await self.kill()
                await self.begin()

    # The process.

    async def begin(self) -> None:
        """Start Tocsin."""
        assert self._life is None
        self._killed = False
        channels = {name: self._channel(channel) for name, channel in self.config.channels.items()}
        ledger = await self._open() if self.config.needs_ledger else None
        self._life = Life(self.config, ledger, channels, self._source, wall=self._wall, ended=self._alarm.set)
        await self._life.begin()
        await self._sleep(self.now + _SETTLED)

    async def _open(self) -> Ledger:
        return counted(await asyncio.to_thread(sqlite.open_ledger, self._file, durable=False, clock=self._wall))

    @asynccontextmanager
    async def _ledger(self) -> AsyncIterator[Ledger | None]:
        """The ledger, also while Tocsin does not run; None if no channel needs one."""
        if self._life is not None:
            yield self._life.ledger
        elif self.config.needs_ledger:
            ledger = await self._open()
            try:
                yield ledger
            finally:
                await ledger.close()
        else:
            yield None

    async def stop(self) -> None:
        """Stop Tocsin as SIGTERM does."""
        if self._life is not None:
            life, self._life = self._life, None
            await life.stop()

    async def kill(self) -> None:
        """End Tocsin as `kill -9` does."""
        if self._life is not None:
            life, self._life = self._life, None
            await life.kill()

    @property
    def running(self) -> bool:
        """Whether Tocsin runs."""
        return self._life is not None

    def _was_killed(self) -> None:
        self._killed = True
        self._alarm.set()

    def _channel(self, config: ChannelConfig) -> Channel | Level:
        real = build.make_channel(config)
        if isinstance(real, Level):
            return ScriptedLevel(real, self.receivers[config.name], config.settings.timeout, lambda: self.now)
        return ScriptedChannel(real, self.receivers[config.name], config.settings.timeout, lambda: self.now)

    def _source(self, config: SourceConfig) -> Source | EventSource:
        if self._relations[config.name]:
            return ScriptedRows(self._relations[config.name], self._reachable[config.name])
        return self._events[config.name]

    # What happens at the sources.

    def relation(self, alert: str) -> Relation:
        """What an alert on rows watches. Alerts of one source on the same relation share it."""
        found = self.config.row_alerts[alert]
        return self._relations[found.source][found.subject]

    def define(self, alert: str, columns: Columns, rows: Sequence[Row] = ()) -> None:
        """Set the columns that an alert watches, and the rows that are there, before Tocsin starts for the first time.
        Without it the columns are those that the alert names."""
        self.relation(alert).define(columns)
        if rows:
            self.relation(alert).replace(0, rows)

    def change(self, alert: str, changes: Sequence[tuple[int, Row]]) -> None:
        """Add and remove rows now, each `(diff, row)`."""
        self.relation(alert).change(self.moment, changes)

    def replace(self, alert: str, rows: Sequence[Row]) -> None:
        """Replace all rows now."""
        self.relation(alert).replace(self.moment, rows)

    def publish(self, alert: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Publish events of the name that an alert takes, each by its fields, now."""
        taker = self.config.event_alerts[alert]
        made = []
        for fields in events:
            self._published += 1
            columns, row = row_of(fields)
            id_ = f"{taker.source}/{self._published}"
            made.append(Event(name=taker.event_name, id=id_, at=self.moment, columns=columns, row=row))
        self._events[taker.source].publish(made)

    def set_source(self, source: str, *, up: bool) -> None:
        """Have a source go down or come back. What happens there meanwhile arrives later, if it keeps history."""
        if self._reachable[source].down is None and not up:
            error = SourceError("the source is down", SourceReason.DISCONNECTED)
            for relation in self._relations[source].values():
                if relation.frontier < self.moment:  # until now it was up, and so it made progress
                    relation.change(self.moment - 1, [])
                relation.disconnect(error)
            self._events[source].disconnect(error)
        self._reachable[source].set(up=up)

    def forget(self, source: str) -> None:
        """Have a source lose its history until now."""
        for relation in self._relations[source].values():
            relation.forget()

    # Silences.

    async def silence(self, name: str, matchers: Matchers, lasts: float) -> None:
        """Add a silence that begins now, for so many seconds. `name`: its id."""
        now = self._wall()
        made = Silence(id=name, matchers=matchers, starts_at=now, ends_at=now + lasts, reason=name, created_at=now)
        async with self._ledger() as ledger:
            if ledger is not None:
                await ledger.silence(made)

    async def end_silence(self, name: str) -> None:
        """End a silence now."""
        async with self._ledger() as ledger:
            if ledger is not None:
                await ledger.end_silence(name)

    async def idle_silences(self) -> list[Silence]:
        """The silences that have held back nothing until now, oldest first."""
        async with self._ledger() as ledger:
            if ledger is None:
                return []
            held = await ledger.held()
            found = await ledger.list_silences()
        return [one for one in reversed(found) if not (one.released or one.dropped or one.id in held)]

    def _all_relations(self) -> Iterator[Relation]:
        for relations in self._relations.values():
            yield from relations.values()

    # What can be observed.

    @property
    def attempts(self) -> list[Attempt]:
        """Every attempt of every channel, in order."""
        return sorted((one for each in self.receivers.values() for one in each.attempts), key=lambda one: one.at)

    def series(self) -> str:
        """The gauges of the alerts, as Prometheus reads them; nothing while Tocsin does not run."""
        return "" if self._life is None else self._life.series()

    async def dead_letters(self, channel: str) -> list[Record]:
        """The dead letters of a channel, in order."""
        wanted = Filter(status=Status.DEAD, channel=channel, limit=100_000)
        async with self._ledger() as ledger:
            return [] if ledger is None else [*reversed(await ledger.find(wanted))]

    def statuses(self) -> list[AlertStatus]:
        """The status of every alert; none while Tocsin does not run."""
        if self._life is None:
            return []
        found = (self._life.inputs.status(alert) for alert in self.config.alerts.values())
        return [status for status in found if status is not None]

    def faults(self) -> list[str]:
        """What is wrong with alerts whose source can be reached: a column that is missing, for example."""
        return [
            f"{one.name}: {one.message}"
            for one in self.statuses()
            if one.state is State.ERROR and self._reachable[one.source].down is None
        ]


def _needed(alert: RowAlert | EventAlert, named: Columns) -> Columns:
    """Columns as text with those that an alert names, for one whose columns are not set."""
    names = dict.fromkeys([column.name for column in named])
    names |= dict.fromkeys([*alert.key, *alert.labels.values(), *([alert.value] if alert.value else [])])
    if isinstance(alert, RowAlert):
        names |= dict.fromkeys(alert.ignore)
    return tuple(Column(name=name, oid=_TEXT) for name in names)
