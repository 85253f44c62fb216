"""The level outputs of one process: made of the configuration, fed from the watches."""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from tocsin import channels
from tocsin.app import units
from tocsin.app.watch import Watch
from tocsin.backoff import Backoff
from tocsin.channels import Level
from tocsin.config import Alert, ChannelConfig
from tocsin.dispatch import Condition
from tocsin.dispatch.level import LevelLoop, LevelPolicy, Shape
from tocsin.envelope import CONDITION_VARIABLES, Envelope, build, seen
from tocsin.exposition import ChannelState, Metrics
from tocsin.firing import Phase
from tocsin.model import Kind, Transition, notification_id
from tocsin.templates import Condition as When
from tocsin.templates import TemplateError

_SETTLE = 5.0
"""Seconds that receivers are given to hear the last news."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    loop: LevelLoop
    task: asyncio.Task[None]
    parts: object


class Levels:
    """Runs one loop for each level output, and lets alone what did not change.

    `watch` gives the watch of an alert, None while there is none.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        metrics: Metrics,
        watch: Callable[[str], Watch | None],
        clock: Callable[[], float],
    ) -> None:
        self._tasks = tasks
        self._metrics = metrics
        self._watch = watch
        self._clock = clock
        self._running: dict[str, _Running] = {}

    @property
    def loops(self) -> dict[str, LevelLoop]:
        """The loops by output."""
        return {name: running.loop for name, running in self._running.items()}

    def changed(self, alert: str, transitions: Sequence[Transition]) -> None:
        """A batch of the alert has been taken in."""
        for running in self._running.values():
            running.loop.changed(alert, news=bool(transitions))

    async def made(self, configs: Mapping[str, ChannelConfig], alerts: Mapping[str, Alert]) -> dict[str, Level]:
        """The outputs that are new or changed, made but not started. Raises ConfigError."""
        return {
            name: await asyncio.to_thread(_level, config)
            for name, config in configs.items()
            if name not in self._running or self._running[name].parts != _parts(config, alerts)
        }

    async def exchange(
        self, configs: Mapping[str, ChannelConfig], alerts: Mapping[str, Alert], made: Mapping[str, Level]
    ) -> None:
        """Run these: stop what is gone or was made anew, start what was made. What an output that is gone has told ends
        by itself."""
        gone = [name for name in self._running if name not in configs]
        await self._stop([*gone, *(name for name in self._running if name in made)])
        for name in gone:
            self._metrics.forget_channel(name)
        for name, level in made.items():
            config = configs[name]
            told = {alert.name: alert for alert in alerts.values() if alert.name in config.routes}
            metrics = self._metrics.channel(name)
            loop = LevelLoop(
                name,
                level,
                _policy(config.settings),
                current=functools.partial(self._current, tuple(told)),
                shape=_shape(config, told),
                metrics=metrics,
                clock=self._clock,
            )
            metrics.state = functools.partial(_state, loop)
            task = self._tasks.create_task(loop.run(), name=f"output {name}")
            self._running[name] = _Running(loop=loop, task=task, parts=_parts(config, alerts))

    async def stop(self) -> None:
        """Tell the last news and end. To be called before the watches are stopped."""
        await self._stop(list(self._running))

    async def _stop(self, names: Sequence[str]) -> None:
        stopped = [self._running.pop(name) for name in names]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE):
                await asyncio.gather(*(running.loop.settled() for running in stopped))
        for running in stopped:
            running.task.cancel()
        await asyncio.gather(*(running.task for running in stopped), return_exceptions=True)

    def _current(self, alerts: Sequence[str]) -> dict[str, Sequence[Transition] | None]:
        return {alert: _firing(self._watch(alert)) for alert in alerts}


def _firing(watch: Watch | None) -> list[Transition] | None:
    # Before its first batch, and when its source has been silent for too long, nothing is known of an alert.
    if watch is None or watch.last_progress is None or watch.stale or not watch.columns:
        return None
    try:
        firings = list(watch.firings())
    except RuntimeError:
        return None  # a thread is working a large batch into the set; the watch says when it is done
    return [
        Transition(
            alert=watch.alert.name,
            fingerprint=firing.fingerprint,
            kind=Kind.FIRED,
            started_at=firing.started_at,
            at=firing.started_at,
            columns=watch.columns,
            row=firing.row,
        )
        for firing in reversed(firings)
        if firing.phase in (Phase.FIRING, Phase.KEEPING)
    ]


def _shape(config: ChannelConfig, alerts: Mapping[str, Alert]) -> Shape:
    views = {name: units.view(alert) for name, alert in alerts.items()}
    conditions = {
        name: When(options.when, place=f"{config.name}: when", known=CONDITION_VARIABLES)
        for name, options in config.routes.items()
        if options.when is not None
    }

    def shape(transition: Transition) -> Envelope | None:
        view, condition = views[transition.alert], conditions.get(transition.alert)
        if condition is not None:
            # As for channels: one that cannot be evaluated holds.
            with contextlib.suppress(TemplateError):
                if not condition.holds(seen(transition, transition.row, view)):
                    return None
        return build(transition, notification_id(transition, config.name), view)

    return shape


def _level(config: ChannelConfig) -> Level:
    module = import_module(channels.LEVELS[config.kind])
    return cast("Level", module.build(config.name, config.settings, dict(config.routes)))


def _policy(settings: Any) -> LevelPolicy:
    return LevelPolicy(
        resend=settings.resend_interval,
        backoff=Backoff(initial=settings.backoff_initial, maximum=settings.backoff_max),
        limit=settings.max_alerts,
    )


def _parts(config: ChannelConfig, alerts: Mapping[str, Alert]) -> object:
    return config, [alerts[name] for name in config.routes]


def _state(loop: LevelLoop) -> ChannelState:
    return ChannelState(up=loop.condition is not Condition.PAUSED, pending=loop.pending)
