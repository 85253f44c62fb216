"""Builds objects from the configuration: sources, channels, and what pipelines and dispatchers need."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog

from tocsin.alert import Alert, EventAlert, RowAlert
from tocsin.backoff import Backoff
from tocsin.channels.base import Channel, Level, Message, Rejected
from tocsin.config import ChannelConfig, Config, SourceConfig
from tocsin.config.columns import named_columns, route_columns
from tocsin.dispatch import Compose, Labels, Policy
from tocsin.dispatch.level import Shape
from tocsin.dispatch.receiver import LevelPolicy
from tocsin.envelope import CONDITION_VARIABLES, Envelope, View, build, labels_of, merged
from tocsin.errors import ConfigError, Problem, Reason, TocsinError
from tocsin.exposition import AlertMetrics, Metrics
from tocsin.faults import unexpected
from tocsin.model import Kind, Notification, Transition, notification_id
from tocsin.pipeline.columns import NamedColumns
from tocsin.pipeline.events import EventRoute
from tocsin.pipeline.numbers import ValueColumn
from tocsin.pipeline.routing import Route, Router, holds
from tocsin.pipeline.timing import Timing
from tocsin.registry import LEVELS, channel_module, source_module
from tocsin.repeats import Repeats
from tocsin.sources.base import EventSource, Source
from tocsin.templates import Condition, Template

log = structlog.get_logger(__name__)


def make_source(config: SourceConfig) -> Source | EventSource:
    """Build a source, of what its settings deliver; it connects to nothing yet."""
    with _refusing(f"sources.{config.name}"):
        source: Source | EventSource = source_module(config.kind).build(config.name, config.settings)
    wanted = Source if config.settings.delivers == "rows" else EventSource
    if not isinstance(source, wanted):
        why = f"type {config.kind} builds a {type(source).__name__}, which is not a {wanted.__name__}"
        raise ConfigError([Problem(code="unusable", path=f"sources.{config.name}", message=why)])
    return source


def make_channel(config: ChannelConfig) -> Channel | Level:
    """Build a channel or level output. Importing its libraries may take a second."""
    with _refusing(f"channels.{config.name}"):
        channel: Channel | Level = channel_module(config.kind).build(config.name, config.settings, dict(config.routes))
        return channel


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Turn an unexpected exception over a value of the configuration into a problem at its path."""
    try:
        yield
    except TocsinError:
        raise
    except Exception as error:
        log.debug("unexpected exception", path=path, exc_info=error)
        raise ConfigError(
            [Problem(code="unusable", path=path, message=f"cannot be used: {unexpected(error)}")]
        ) from None


def is_level(config: ChannelConfig) -> bool:
    """Whether the channel is a level output, which is sent what fires now instead of each notification."""
    return config.kind in LEVELS


def backoff(settings: Any) -> Backoff:
    """Return the backoff of a source or channel with these settings."""
    return Backoff(initial=settings.backoff_initial, maximum=settings.backoff_max)


def timing(config: SourceConfig) -> Timing:
    """Return the timing of a pipeline on this source."""
    settings = config.settings
    return Timing(
        backoff=backoff(settings),
        progress_interval=settings.progress_interval,
        stale_after=settings.stale_after,
        exit_on_stall=settings.on_stall == "exit",
    )


def level_policy(config: ChannelConfig) -> LevelPolicy:
    """Return the policy of a level output."""
    settings = config.settings
    resend = settings.resend_interval
    return LevelPolicy(resend=resend, backoff=backoff(settings), limit=settings.max_alerts, compare=5 * resend)


def policy(config: ChannelConfig) -> Policy:
    """Return the policy of a channel's dispatcher."""
    same = ("concurrency", "timeout", "max_attempts", "max_age", "rate_limit", "recovery_delay")
    return Policy(backoff=backoff(config.settings), **{name: getattr(config.settings, name) for name in same})


def shaper(channel: ChannelConfig, views: Mapping[str, View], metrics: Metrics) -> Shape:
    """Return the function that makes envelopes of the firings for a level output."""
    conditions = {
        alert: Condition(options.when, place=f"{channel.name}: when", known=CONDITION_VARIABLES)
        for alert, options in channel.routes.items()
        if options.when
    }
    complaints = {alert: _complaint(alert, metrics.alert(alert)) for alert in conditions}

    def shape(transition: Transition) -> Envelope | None:
        alert = transition.alert
        condition = conditions.get(alert)
        if condition and not holds(condition, transition, transition.row, views[alert], complaints[alert]):
            return None
        return build(transition, notification_id(transition, channel.name), views[alert])

    return shape


def view(alert: Alert) -> View:
    """Return the view that makes envelopes of an alert's rows."""
    return View(
        labels=tuple(alert.labels.items()),
        static_labels=tuple(alert.static_labels.items()),
        value=alert.value,
        annotations={
            name: Template(text, place=f"alerts.{alert.name}.annotations.{name}")
            for name, text in alert.annotations.items()
        },
    )


def routes(config: Config, alert: Alert) -> tuple[Route, ...]:
    """Return the routes of an alert."""
    return tuple(route(config, name, alert) for name in alert.transition_channels)


def router(config: Config, alert: Alert, metrics: AlertMetrics) -> Router:
    """Return the router of an alert."""
    return Router(routes(config, alert), view(alert), _complaint(alert.name, metrics))


def event_route(config: Config, alert: EventAlert, metrics: AlertMetrics) -> EventRoute:
    """Return the route of an alert's events."""
    named = NamedColumns(alert.name, "event", dict(named_columns(config, alert)), metrics)
    to = router(config, alert, metrics)
    return EventRoute(
        alert=alert, router=to, metrics=metrics, columns=named, values=ValueColumn(alert.name, alert.value)
    )


def _complaint(alert: str, metrics: AlertMetrics) -> Callable[[str], None]:
    """Return the function that logs and counts conditions that cannot be evaluated."""
    lines = Repeats(log, "a condition cannot be evaluated; it counts as true")

    def complain(message: str) -> None:
        metrics.condition_errors.inc()
        lines.add(message, alert=alert, error=message)

    return complain


def route(config: Config, channel: str, alert: Alert) -> Route:
    """Return the route of an alert to a channel or level output."""
    options = config.channels[channel].routes[alert.name]
    return Route(
        channel=channel,
        kinds=frozenset(options.on),
        when=options.when or "",
        interval=options.interval,
        # The name of a label means its column.
        group_by=tuple(alert.labels.get(name, name) for name in options.group_by),
        order_by=alert.key if isinstance(alert, EventAlert) else (),
    )


def composer(channel: ChannelConfig, views: Mapping[str, View], now: Callable[[], float]) -> Compose:
    """Return the function that makes a channel's messages of notifications, with the current views."""

    def compose(together: Sequence[Notification]) -> Message | Rejected:
        first = together[0]
        alert = first.transition.alert
        if alert not in channel.routes:
            return Rejected(
                Reason.UNROUTED, f"alert {alert} no longer notifies {channel.name}; add it again, then retry"
            )
        envelope = merged([build(one.transition, one.id, views[alert]) for one in together])
        return Message(
            id=first.id,
            alert=alert,
            kind=Kind(envelope["status"]),
            envelope=envelope,
            age=max(0.0, now() - first.created_at),
            attempts=first.attempts,
            generation=first.generation,
        )

    return compose


def labeller(views: Mapping[str, View]) -> Labels:
    """Return the function that finds the labels of a notification, as an Alertmanager would have them."""

    def labels(notification: Notification) -> Mapping[str, str]:
        transition = notification.transition
        view = views.get(transition.alert)
        return {"alertname": transition.alert, **(labels_of(transition.columns, transition.row, view) if view else {})}

    return labels


def row_columns(config: Config, alert: RowAlert, metrics: AlertMetrics) -> NamedColumns:
    """Return the row columns that options of channels name. An alert does not start without its own columns."""
    return NamedColumns(alert.name, "row", dict(route_columns(config, alert)), metrics)
