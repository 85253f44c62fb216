"""What runs: a watch per alert, a dispatcher per channel, and the housekeeping between them; started, changed and
stopped whole."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from tocsin.app import units
from tocsin.app.feed import Feed
from tocsin.app.intake import EventOutlets, EventWatch, Intake, Taker
from tocsin.app.watch import Outlets, Stall, Watch
from tocsin.channels import Channel, Level
from tocsin.config import Alert, ChannelConfig, Config, SourceConfig
from tocsin.dispatch import Condition, Dispatcher
from tocsin.dispatch.level import LevelLoop
from tocsin.errors import LedgerError
from tocsin.exposition import ChannelState, Metrics, Page
from tocsin.ledger import Backlog, Ledger
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import Notification, Transition
from tocsin.sources.http import Http

log = structlog.get_logger(__name__)

_HOUSEKEEPING = 1.0
_PRUNE_EVERY = 60.0
_PRUNE_STEP = 500
_SETTLE = 3.0
"""Seconds that level outputs are given at the end to tell what has just changed."""
_DRAIN = 10.0
"""Seconds that notifications ready to go are given at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunningWatch:
    """A watch and what it was made of: equal parts need no new watch."""

    watch: Watch
    task: asyncio.Task[None]
    parts: tuple[Alert, SourceConfig, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunningIntake:
    intake: Intake
    task: asyncio.Task[None]
    parts: tuple[SourceConfig, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunningChannel:
    dispatcher: Dispatcher
    task: asyncio.Task[None]
    parts: tuple[ChannelConfig, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunningLevel:
    loop: LevelLoop
    task: asyncio.Task[None]
    parts: tuple[ChannelConfig, object]


class Runtime:
    """The objects of one process. `apply` makes them those of a configuration and leaves alone what did not change."""

    def __init__(self, tasks: asyncio.TaskGroup, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> None:
        self.page = Page(metrics)
        self.feed = Feed()
        self.metrics = metrics
        self.config: Config | None = None
        self.ledger: Ledger | None = None
        self.ledger_path = ""
        self.ledger_fault = ""
        self.backlog: dict[str, Backlog] = {}
        self.ending = asyncio.Event()
        self.stall = ""
        self._tasks = tasks
        self._clock = clock
        self._watches: dict[str, _RunningWatch] = {}
        self._intakes: dict[str, _RunningIntake] = {}
        self._channels: dict[str, _RunningChannel] = {}
        self._levels: dict[str, _RunningLevel] = {}
        self._pruned_at = 0.0

    @property
    def watches(self) -> dict[str, Watch | EventWatch]:
        """The watches by alert, in the order of the configuration."""
        found: dict[str, Watch | EventWatch] = {}
        for name, alert in self.config.alerts.items() if self.config else ():
            if name in self._watches:
                found[name] = self._watches[name].watch
            elif alert.events and alert.source in self._intakes:
                found[name] = EventWatch(alert, self._intakes[alert.source].intake)
        return found

    def receiver(self, alert: str) -> Http | None:
        """The source that takes events for an alert over HTTP, if there is one."""
        configured = self.config.alerts.get(alert) if self.config else None
        running = self._intakes.get(configured.source) if configured and configured.events else None
        source = running.intake.source if running else None
        return source if isinstance(source, Http) else None

    @property
    def dispatchers(self) -> dict[str, Dispatcher]:
        """The dispatchers by channel."""
        return {name: running.dispatcher for name, running in self._channels.items()}

    @property
    def levels(self) -> dict[str, LevelLoop]:
        """The level outputs by name."""
        return {name: running.loop for name, running in self._levels.items()}

    async def apply(self, config: Config) -> None:
        """Run this configuration. Raises LedgerError if it needs a ledger and there is none to be had."""
        if self.ledger is None and any(not units.is_level(channel) for channel in config.channels.values()):
            observe = self.metrics.ledger_commit_seconds.observe
            path = Path(config.ledger.path)
            self.ledger = await asyncio.to_thread(open_ledger, path, clock=self._clock, observe=observe)
            self.ledger_path = config.ledger.path
        since = self._clock()
        if self.config is None:
            self._begin(config)
            # Channels may take a second to import; the alerts need not wait for that. What is committed meanwhile is
            # in the ledger, where a dispatcher begins.
            self._start_levels(config, await self._made_levels(config))
            await self._start_channels(config, await self._made(config), since)
            return
        # Channels are made before anything is stopped: a defect in one leaves everything as it was.
        channels, levels = await self._made(config), await self._made_levels(config)
        await self._stop_watches([name for name, running in self._watches.items() if self._outdated(config, running)])
        await self._stop_intakes(
            [name for name, running in self._intakes.items() if self._ended(config, name, running)]
        )
        await self._stop_channels([name for name in self._channels if name not in config.channels or name in channels])
        await self._stop_levels([name for name in self._levels if name not in config.channels or name in levels])
        # A watch that was stopped between its commit and its offer has left notifications in the ledger only.
        self.rescan()
        # Those that stay keep their counters.
        for name in self.config.alerts.keys() - config.alerts.keys():
            self.metrics.forget_alert(name)
        for name in self.config.sources.keys() - config.sources.keys():
            self.metrics.forget_source(name)
        for name in self.config.channels.keys() - config.channels.keys():
            self.metrics.forget_channel(name)
        self._begin(config)
        self._start_levels(config, levels)
        await self._start_channels(config, channels, since)

    async def _made(self, config: Config) -> dict[str, Channel]:
        """The channels that are new or changed."""
        return {
            name: await asyncio.to_thread(units.make_channel, channel)
            for name, channel in config.channels.items()
            if not units.is_level(channel) and self._changed(config, channel, self._channels.get(name))
        }

    async def _made_levels(self, config: Config) -> dict[str, Level]:
        """The level outputs that are new or changed."""
        return {
            name: await asyncio.to_thread(units.make_level, channel)
            for name, channel in config.channels.items()
            if units.is_level(channel) and self._changed(config, channel, self._levels.get(name))
        }

    def _begin(self, config: Config) -> None:
        self.config = config
        for name, alert in config.alerts.items():
            if alert.events:
                if alert.source not in self._intakes:
                    self._start_intake(config, alert.source)
            elif name not in self._watches:
                self._start_watch(config, alert)

    async def _start_channels(self, config: Config, channels: Mapping[str, Channel], since: float) -> None:
        ledger = self.ledger
        if ledger is None:
            return
        try:
            parked = await ledger.park_unrouted(list(config.channels))
        except LedgerError as error:
            # It can wait for the next start; the channels cannot.
            self._ledger_failed(error)
            parked = 0
        if parked:
            log.warning("notifications of channels no longer configured were parked", notifications=parked)
        views = {name: units.view(alert) for name, alert in config.alerts.items()}
        for name, channel in channels.items():
            metrics = self.metrics.channel(name)
            dispatcher = Dispatcher(
                name,
                channel,
                units.policy(config.channels[name]),
                ledger=ledger,
                compose=units.composer(config.channels[name], views, self._clock),
                metrics=metrics,
                since=since,
                clock=self._clock,
            )
            metrics.state = functools.partial(self._channel_state, name)
            task = self._tasks.create_task(dispatcher.run(), name=f"channel {name}")
            parts = self._channel_parts(config, config.channels[name])
            self._channels[name] = _RunningChannel(dispatcher=dispatcher, task=task, parts=parts)

    def _start_levels(self, config: Config, levels: Mapping[str, Level]) -> None:
        views = {name: units.view(alert) for name, alert in config.alerts.items()}
        for name, level in levels.items():
            channel, metrics = config.channels[name], self.metrics.channel(name)
            loop = LevelLoop(
                name,
                level,
                units.level_policy(channel),
                current=functools.partial(self._current, list(channel.routes)),
                shape=units.shaper(channel, views),
                metrics=metrics,
                clock=self._clock,
            )
            metrics.state = functools.partial(_level_state, loop)
            task = self._tasks.create_task(loop.run(), name=f"channel {name}")
            self._levels[name] = _RunningLevel(loop=loop, task=task, parts=self._channel_parts(config, channel))

    def _current(self, alerts: Sequence[str]) -> dict[str, list[Transition] | None]:
        """What fires now of these alerts; None: not known."""
        return {name: self._watches[name].watch.current() if name in self._watches else None for name in alerts}

    def _changed_alert(self, alert: Alert, news: bool) -> None:
        for name in alert.levels:
            if name in self._levels:
                self._levels[name].loop.changed(alert.name, news=news)

    def _start_watch(self, config: Config, alert: Alert) -> None:
        metrics = self.metrics.alert(alert.name)
        outlets = Outlets(
            page=self.page,
            metrics=metrics,
            ledger=self.ledger if alert.edges else None,
            router=units.router(config, alert, metrics),
            offer=self._offer,
            publish=self.feed.publish,
            changed=functools.partial(self._changed_alert, alert),
        )
        source = config.sources[alert.source]
        watch = Watch(alert, units.make_source(source), units.timing(source), outlets, clock=self._clock)
        task = self._tasks.create_task(self._until_stall(watch), name=f"alert {alert.name}")
        self._watches[alert.name] = _RunningWatch(watch=watch, task=task, parts=self._watch_parts(config, alert))

    def _start_intake(self, config: Config, name: str) -> None:
        ledger, source = self.ledger, config.sources[name]
        assert ledger is not None  # an alert on events has a channel, and where there are channels there is a ledger
        takers = []
        for alert in config.alerts.values():
            if alert.source == name:
                metrics = self.metrics.alert(alert.name)
                takers.append(Taker(alert=alert, router=units.router(config, alert, metrics), metrics=metrics))
        outlets = EventOutlets(
            ledger=ledger,
            metrics=self.metrics.source(name),
            offer=self._offer,
            publish=self.feed.publish,
            keep=not config.dry_run,
        )
        intake = Intake(
            name,
            units.make_event_source(source),
            takers,
            units.backoff(source),
            outlets,
            give_up_after=getattr(source.settings, "give_up_after", None),
            clock=self._clock,
        )
        task = self._tasks.create_task(self._until_stall(intake), name=f"source {name}")
        self._intakes[name] = _RunningIntake(intake=intake, task=task, parts=self._intake_parts(config, name))

    async def _until_stall(self, follower: Watch | Intake) -> None:
        try:
            await follower.run()
        except Stall as stall:
            log.error("stopping, as the source's settings ask", error=str(stall))
            self.stall = str(stall)
            self.ending.set()

    async def stop(self) -> None:
        """The end in order: take nothing in any more, send what is ready, let go of everything."""
        # While the watches still know: what has just ended is told as ended, and need not expire.
        await self._stop_levels(list(self._levels), settle=True)
        await self._stop_watches(list(self._watches))
        await self._stop_intakes(list(self._intakes))
        self.feed.close()
        if self.dispatchers:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN):
                    await asyncio.gather(*(dispatcher.drained() for dispatcher in self.dispatchers.values()))
        await self._stop_channels(list(self._channels))
        if self.ledger is not None:
            await self.ledger.close()

    async def keep_house(self) -> None:
        """Until cancelled: what has to be looked at every second."""
        while True:
            if self.ledger is not None:
                try:
                    await self._look_after(self.ledger)
                except LedgerError as error:
                    self._ledger_failed(error)
                else:
                    self._ledger_works()
            await asyncio.sleep(_HOUSEKEEPING)

    async def _look_after(self, ledger: Ledger) -> None:
        self.backlog = await ledger.backlog()
        if await ledger.changed_elsewhere():
            log.info("the outbox was changed by another process; reading it again")
            self.rescan()
        if self.config is not None and self._clock() - self._pruned_at > _PRUNE_EVERY:
            before = self._clock() - self.config.ledger.history
            # Small steps, so that no batch waits long for one.
            more = True
            while more:
                more = await ledger.prune(before, _PRUNE_STEP) == _PRUNE_STEP
            self._pruned_at = self._clock()
        if ledger.fault is not None:
            raise ledger.fault

    def rescan(self) -> None:
        """Have every dispatcher read its outbox again."""
        for dispatcher in self.dispatchers.values():
            dispatcher.rescan()

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

    def _offer(self, notifications: Sequence[Notification]) -> None:
        by_channel: dict[str, list[Notification]] = {}
        for notification in notifications:
            by_channel.setdefault(notification.channel, []).append(notification)
        for name, offered in by_channel.items():
            running = self._channels.get(name)
            # A channel that is being exchanged reads the ledger when it starts.
            if running is not None:
                running.dispatcher.offer(offered)

    def _channel_state(self, name: str) -> ChannelState:
        backlog = self.backlog.get(name, Backlog())
        dispatcher = self.dispatchers.get(name)
        return ChannelState(
            up=dispatcher is not None and dispatcher.condition is not Condition.PAUSED,
            pending=backlog.pending,
            oldest_pending=backlog.oldest,
            dead=backlog.dead,
        )

    # What has changed, and stopping it.

    @staticmethod
    def _watch_parts(config: Config, alert: Alert) -> tuple[Alert, SourceConfig, object]:
        return alert, config.sources[alert.source], units.routes(config, alert)

    @staticmethod
    def _intake_parts(config: Config, name: str) -> tuple[SourceConfig, object]:
        alerts = [alert for alert in config.alerts.values() if alert.source == name]
        return config.sources[name], [(alert, units.routes(config, alert)) for alert in alerts]

    @staticmethod
    def _channel_parts(config: Config, channel: ChannelConfig) -> tuple[ChannelConfig, object]:
        # What a channel sends also depends on how the alerts behind it are shown.
        shown = {name: (config.alerts[name].annotations, config.alerts[name].labels) for name in channel.routes}
        values = {name: (config.alerts[name].static_labels, config.alerts[name].value) for name in channel.routes}
        return channel, (shown, values)

    def _outdated(self, config: Config, running: _RunningWatch) -> bool:
        alert = config.alerts.get(running.watch.alert.name)
        return alert is None or self._watch_parts(config, alert) != running.parts

    def _ended(self, config: Config, name: str, running: _RunningIntake) -> bool:
        used = any(alert.events and alert.source == name for alert in config.alerts.values())
        return not used or self._intake_parts(config, name) != running.parts

    def _changed(self, config: Config, channel: ChannelConfig, running: _RunningChannel | _RunningLevel | None) -> bool:
        return running is None or running.parts != self._channel_parts(config, channel)

    async def _stop_watches(self, names: Sequence[str]) -> None:
        stopped = [self._watches.pop(name) for name in names]
        await _cancelled([running.task for running in stopped])
        for running in stopped:
            with contextlib.suppress(LedgerError):
                await running.watch.finish()
            running.watch.close()

    async def _stop_intakes(self, names: Sequence[str]) -> None:
        # What is cut off between commit and acknowledgement is delivered again, and known.
        await _cancelled([self._intakes.pop(name).task for name in names])

    async def _stop_levels(self, names: Sequence[str], *, settle: bool = False) -> None:
        stopped = [self._levels.pop(name) for name in names]
        if settle:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE):
                    await asyncio.gather(*(running.loop.settled() for running in stopped))
        await _cancelled([running.task for running in stopped])

    async def _stop_channels(self, names: Sequence[str]) -> None:
        stopped = {name: self._channels.pop(name) for name in names}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN):
                await asyncio.gather(*(running.dispatcher.settled() for running in stopped.values()))
        await _cancelled([running.task for running in stopped.values()])


def _level_state(loop: LevelLoop) -> ChannelState:
    return ChannelState(up=loop.condition is not Condition.PAUSED, pending=loop.pending)


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
