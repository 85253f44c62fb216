"""The channels of one process: a dispatcher for each channel, a loop for each level output."""

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from tocsin.alert import RowAlert
from tocsin.app import build
from tocsin.app.fleet import Fleet
from tocsin.channels.base import Channel, Level
from tocsin.config import ChannelConfig, Config
from tocsin.dispatch import Dispatcher, Setup
from tocsin.dispatch.careful import Careful
from tocsin.dispatch.level import ActiveAlerts, LevelLoop
from tocsin.exposition import ChannelState, Metrics
from tocsin.ledger.base import Backlog, Ledger
from tocsin.ledger.sharing import Held
from tocsin.model import Notification, Transition
from tocsin.silences import Silence

log = structlog.get_logger(__name__)

_CATCH_UP = 3.0
"""Seconds that level outputs have at their end to send what has just changed."""
_DRAIN = 10.0
"""Seconds that dispatchers have at the end to send what is ready."""


class Outputs:
    """Starts, changes and stops the channels, and passes notifications to them."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.backlog: Mapping[str, Backlog] = {}
        """The pending notifications of the outbox, by channel; `Runtime` updates it."""
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._fleet: Fleet[Dispatcher | LevelLoop] = Fleet(tasks)
        self._active: dict[str, ActiveAlerts] = {}  # what each level output has reported

    @property
    def running(self) -> dict[str, Dispatcher | LevelLoop]:
        """The dispatchers of channels, and the loops of level outputs, by name."""
        return self._fleet.all()

    @property
    def dispatchers(self) -> dict[str, Dispatcher]:
        """The dispatchers by channel."""
        return {name: one for name, one in self.running.items() if isinstance(one, Dispatcher)}

    @property
    def levels(self) -> dict[str, LevelLoop]:
        """The level outputs by name."""
        return {name: one for name, one in self.running.items() if isinstance(one, LevelLoop)}

    def waiting(self, name: str) -> Backlog:
        """The pending notifications of a channel, and the pending alerts of a level output: one that replaced a channel
        has both."""
        backlog = self.backlog.get(name, Backlog())
        level = self.levels.get(name)
        return replace(backlog, pending=backlog.pending + level.pending) if level else backlog

    async def built(self, config: Config) -> dict[str, Channel | Level]:
        """Build the channels and level outputs that are new or changed, which may take a second and changes nothing
        yet."""
        specs = {name: _spec(config, channel) for name, channel in config.channels.items()}
        stay = self.running.keys() - self._fleet.outdated(specs)
        changed = [channel for name, channel in config.channels.items() if name not in stay]
        return {channel.name: await asyncio.to_thread(build.make_channel, channel) for channel in changed}

    def start(
        self,
        config: Config,
        new: Mapping[str, Channel | Level],
        ledger: Ledger | None,
        current: Callable[[Sequence[str]], Mapping[str, Sequence[Transition] | None]],
        since: float,
    ) -> None:
        """Run what was built. `current` returns what fires now of some alerts. `since`: see `Setup`.

        A recreated level output continues with what it has reported: what no longer fires, or belongs to an alert that
        no longer notifies it, is sent as ended.
        """
        views = {name: build.view(alert) for name, alert in config.alerts.items()}
        for name, built in new.items():
            channel, metrics = config.channels[name], self._metrics.channel(name)
            one: Dispatcher | LevelLoop
            if isinstance(built, Level):
                one = LevelLoop(
                    name,
                    built,
                    build.level_policy(channel),
                    current=functools.partial(current, list(channel.routes)),
                    shape=build.shaper(channel, views, self._metrics),
                    metrics=metrics,
                    active=self._active.setdefault(name, ActiveAlerts()),
                    clock=self._clock,
                    monotonic=self._monotonic,
                    chance=self._chance,
                )
            else:
                assert ledger is not None  # `Runtime` opens it for the first channel
                one = Dispatcher(
                    Setup(
                        name=name,
                        channel=Careful(built, ledger) if built.may_end_process else built,
                        policy=build.policy(channel),
                        ledger=ledger,
                        compose=build.composer(channel, views, ledger.now),
                        labels=build.labeller(views),
                        metrics=metrics,
                        since=since,
                        clock=ledger.now,
                        monotonic=self._monotonic,
                        chance=self._chance,
                    )
                )
            metrics.state = functools.partial(self._state, name)
            self._fleet.start(name, _spec(config, channel), one, one.run(), f"channel {name}")

    async def stop_outdated(self, config: Config, new: Container[str]) -> None:
        """Stop what is no longer configured, and what was recreated. A level output that is no longer configured sends
        everything as ended first, within a limit."""
        levels, dispatchers = self.levels, self.dispatchers
        outdated = [name for name in self.running if name not in config.channels or name in new]
        removed = [n for n in levels if n in outdated and not (n in new and build.is_level(config.channels[n]))]
        await _within(_CATCH_UP, (levels[name].retired() for name in removed))
        await self._fleet.stop(name for name in outdated if name in levels)
        for name in removed:
            del self._active[name]
        await self._stop_channels([name for name in outdated if name in dispatchers])

    def offer(self, notifications: Sequence[Notification]) -> None:
        """Wake the dispatchers of what has just been committed."""
        for name in {notification.channel for notification in notifications}:
            dispatcher = self._fleet.get(name)
            if isinstance(dispatcher, Dispatcher):  # one that is being replaced reads the ledger when it starts
                dispatcher.wake()

    def changed(self, alert: RowAlert, news: bool) -> None:
        """A batch of an alert was committed; see `LevelLoop.changed`."""
        for name in alert.levels:
            if isinstance(loop := self._fleet.get(name), LevelLoop):
                loop.changed(alert.name, news=news)

    def wake(self, channels: Iterable[str]) -> None:
        """Something can be sent to these channels."""
        for name in channels:
            if isinstance(dispatcher := self._fleet.get(name), Dispatcher):
                dispatcher.wake()

    def hold(self, holds: Mapping[str, Held]) -> None:
        """Have the dispatchers wait where other processes were refused."""
        for name, dispatcher in self.dispatchers.items():
            dispatcher.held(holds.get(name))

    def inherit(self) -> None:
        """Have every dispatcher send what processes that have ended did not."""
        for dispatcher in self.dispatchers.values():
            dispatcher.inherit()

    def rescan(self) -> None:
        """Have every dispatcher read the outbox again."""
        for dispatcher in self.dispatchers.values():
            dispatcher.rescan()

    async def close_silences(self, ledger: Ledger) -> list[Silence]:
        """Close the silences whose end has come, send or drop what they held, and return them. Raises LedgerError."""
        if not ledger.silences.due(ledger.now()):
            return []
        closed = await ledger.close_silences()
        self.rescan()
        return closed

    async def finish_levels(self) -> None:
        """Send what has just changed while the pipelines still run, and stop."""
        await _within(_CATCH_UP, (loop.caught_up() for loop in self.levels.values()))
        await self._fleet.stop(self.levels)

    async def drain(self) -> None:
        """Send what is ready to go, within a limit, and stop."""
        await _within(_DRAIN, (dispatcher.drained() for dispatcher in self.dispatchers.values()))
        await self._stop_channels(list(self.dispatchers))

    async def finish(self) -> None:
        """Finish what is being sent, within a limit, and stop: other processes send the rest."""
        await self._stop_channels(list(self.dispatchers))

    async def abandon(self) -> None:
        """Stop at once: what is sent can no longer be recorded."""
        await self._fleet.stop(list(self.dispatchers))

    def _state(self, name: str) -> ChannelState:
        running = self._fleet.get(name)
        backlog = self.waiting(name)
        if running is None:
            return replace(channel_state(backlog), up=False)
        missing = running.missing if isinstance(running, LevelLoop) else None
        return replace(channel_state(backlog), up=running.delivers, state=running.status.value, missing=missing)

    async def _stop_channels(self, names: Sequence[str]) -> None:
        dispatchers = self.dispatchers
        await _within(_DRAIN, (dispatchers[name].finish() for name in names))
        await self._fleet.stop(names)


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
    return ChannelState(
        up=None,
        pending=backlog.pending,
        oldest_pending=backlog.oldest,
        silenced=backlog.silenced,
        oldest_silenced=backlog.oldest_silenced,
        dead=backlog.dead,
    )
