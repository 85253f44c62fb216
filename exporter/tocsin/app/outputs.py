"""The channels of one process: a dispatcher for each channel, a loop for each level output."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from tocsin.alert import RowAlert
from tocsin.app import build
from tocsin.app.fleet import Fleet
from tocsin.channels.base import Channel, Level
from tocsin.config import ChannelConfig, Config
from tocsin.dispatch import Dispatcher
from tocsin.dispatch.level import ActiveAlerts, LevelLoop
from tocsin.exposition import ChannelState, Metrics
from tocsin.ledger.base import Backlog, Ledger
from tocsin.model import Notification, Transition

log = structlog.get_logger(__name__)

_SETTLE = 3.0
"""Seconds that level outputs have at their end to send what has just changed."""
_DRAIN = 10.0
"""Seconds that dispatchers have at the end to send what is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOutputs:
    """Channels and level outputs that are new or changed, not yet running."""

    channels: Mapping[str, Channel]
    levels: Mapping[str, Level]


class Outputs:
    """Starts, changes and stops the channels, and passes notifications to them."""

    def __init__(self, tasks: asyncio.TaskGroup, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> None:
        self.backlog: Mapping[str, Backlog] = {}
        """The pending notifications of the outbox, by channel; `Runtime` updates it."""
        self._metrics = metrics
        self._clock = clock
        self._channels: Fleet[Dispatcher] = Fleet(tasks)
        self._levels: Fleet[LevelLoop] = Fleet(tasks)
        self._active: dict[str, ActiveAlerts] = {}  # what each level output has reported

    @property
    def dispatchers(self) -> dict[str, Dispatcher]:
        """The dispatchers by channel."""
        return self._channels.all()

    @property
    def levels(self) -> dict[str, LevelLoop]:
        """The level outputs by name."""
        return self._levels.all()

    @property
    def faults(self) -> dict[str, str]:
        """The unexpected exceptions of channels that are about to be started again, by channel."""
        running: dict[str, Dispatcher | LevelLoop] = {**self.dispatchers, **self.levels}
        return {name: one.fault for name, one in running.items() if one.fault}

    def waiting(self, name: str) -> Backlog:
        """The pending notifications of a channel, and the pending alerts of a level output: one that replaced a channel
        has both."""
        backlog = self.backlog.get(name, Backlog())
        level = self._levels.get(name)
        return replace(backlog, pending=backlog.pending + level.pending) if level else backlog

    async def built(self, config: Config) -> NewOutputs:
        """Build what is new or changed, which may take a second and changes nothing yet."""
        changed = [channel for channel in config.channels.values() if self._differs(config, channel)]
        return NewOutputs(
            levels={one.name: await asyncio.to_thread(build.make_level, one) for one in changed if build.is_level(one)},
            channels={
                one.name: await asyncio.to_thread(build.make_channel, one) for one in changed if not build.is_level(one)
            },
        )

    def start_levels(
        self,
        config: Config,
        new: NewOutputs,
        current: Callable[[Sequence[str]], Mapping[str, Sequence[Transition] | None]],
    ) -> None:
        """Run the level outputs that were built. `current` returns what fires now of some alerts.

        A recreated output continues with what it has reported: what no longer fires, or belongs to an alert that no
        longer notifies it, is sent as ended.
        """
        views = {name: build.view(alert) for name, alert in config.alerts.items()}
        for name, level in new.levels.items():
            channel, metrics = config.channels[name], self._metrics.channel(name)
            loop = LevelLoop(
                name,
                level,
                build.level_policy(channel),
                current=functools.partial(current, list(channel.routes)),
                shape=build.shaper(channel, views, self._metrics),
                metrics=metrics,
                active=self._active.setdefault(name, ActiveAlerts()),
                clock=self._clock,
            )
            metrics.state = functools.partial(self._state, name)
            self._levels.start(name, _spec(config, channel), loop, loop.run(), f"channel {name}")

    def start_channels(self, config: Config, new: NewOutputs, ledger: Ledger, since: float) -> None:
        """Run the channels that were built. `since`: see `Dispatcher`."""
        views = {name: build.view(alert) for name, alert in config.alerts.items()}
        for name, channel in new.channels.items():
            metrics = self._metrics.channel(name)
            dispatcher = Dispatcher(
                name,
                channel,
                build.policy(config.channels[name]),
                ledger=ledger,
                compose=build.composer(config.channels[name], views, self._clock),
                metrics=metrics,
                since=since,
                clock=self._clock,
            )
            metrics.state = functools.partial(self._state, name)
            spec = _spec(config, config.channels[name])
            self._channels.start(name, spec, dispatcher, dispatcher.run(), f"channel {name}")

    async def stop_outdated(self, config: Config, new: NewOutputs) -> None:
        """Stop what is no longer configured, and what was recreated. A level output that is no longer configured sends
        everything as ended first, within a limit."""
        stay = config.channels.keys() - new.channels.keys() - new.levels.keys()
        outdated = {name: loop for name, loop in self._levels.all().items() if name not in stay}
        removed = outdated.keys() - new.levels.keys()
        await _within(_SETTLE, (outdated[name].retired() for name in removed))
        await self._levels.stop(outdated)
        for name in removed:
            del self._active[name]
        await self._stop_channels([name for name in self._channels if name not in stay])

    def offer(self, notifications: Sequence[Notification]) -> None:
        """Wake the dispatchers of what has just been committed."""
        for name in {notification.channel for notification in notifications}:
            dispatcher = self._channels.get(name)
            if dispatcher is not None:  # one that is being replaced reads the ledger when it starts
                dispatcher.wake()

    def changed(self, alert: RowAlert, news: bool) -> None:
        """A batch of an alert was committed; see `LevelLoop.changed`."""
        for name in alert.levels:
            if (loop := self._levels.get(name)) is not None:
                loop.changed(alert.name, news=news)

    def rescan(self) -> None:
        """Have every dispatcher read the outbox again."""
        for dispatcher in self.dispatchers.values():
            dispatcher.rescan()

    async def settle_levels(self) -> None:
        """Send what has just changed while the pipelines still run, and stop."""
        await _within(_SETTLE, (loop.settled() for loop in self.levels.values()))
        await self._levels.stop(list(self._levels))

    async def drain(self) -> None:
        """Send what is ready to go, within a limit, and stop."""
        await _within(_DRAIN, (dispatcher.drained() for dispatcher in self.dispatchers.values()))
        await self._stop_channels(list(self._channels))

    def _differs(self, config: Config, channel: ChannelConfig) -> bool:
        spec = {channel.name: _spec(config, channel)}
        running = channel.name in self._levels or channel.name in self._channels
        return not running or channel.name in (*self._levels.outdated(spec), *self._channels.outdated(spec))

    def _state(self, name: str) -> ChannelState:
        running = self._channels.get(name) or self._levels.get(name)
        backlog = self.waiting(name)
        if running is None:
            return replace(channel_state(backlog), up=False)
        return replace(channel_state(backlog), up=running.delivers, state=running.status.value)

    async def _stop_channels(self, names: Sequence[str]) -> None:
        dispatchers = self._channels.all()
        await _within(_DRAIN, (dispatchers[name].settled() for name in names))
        await self._channels.stop(names)


async def _within(seconds: float, ends: Iterable[Awaitable[None]]) -> None:
    """Wait for all, and no longer than that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*ends)


def _spec(config: Config, channel: ChannelConfig) -> object:
    # What a channel sends also depends on the labels and annotations of its alerts.
    alerts = [config.alerts[name] for name in channel.routes]
    return channel, [(one.name, one.annotations, one.labels, one.static_labels, one.value) for one in alerts]


def channel_state(backlog: Backlog) -> ChannelState:
    """What the gauges of a channel that does not run show of its outbox."""
    return ChannelState(up=None, pending=backlog.pending, oldest_pending=backlog.oldest, dead=backlog.dead)
