"""Objects made of configuration: sources, watches, channels and their dispatchers. Nothing else in Tocsin constructs
them."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from tocsin import channels as channel_kinds
from tocsin import sources as source_kinds
from tocsin.app.watch import Timing
from tocsin.backoff import Backoff
from tocsin.channels import Channel, Message, Rejected
from tocsin.config import Alert, ChannelConfig, Config, SourceConfig
from tocsin.dispatch import Compose, Policy
from tocsin.envelope import View, build
from tocsin.errors import Reason
from tocsin.model import Kind, Notification
from tocsin.sources import Source
from tocsin.templates import Template


def make_source(config: SourceConfig) -> Source:
    """The source of a configuration; connects to nothing yet."""
    return cast("Source", import_module(source_kinds.KINDS[config.kind]).build(config.name, config.settings))


def make_channel(config: ChannelConfig) -> Channel:
    """The channel of a configuration. Imports what it needs, which may take a moment."""
    module = import_module(channel_kinds.KINDS[config.kind])
    return cast("Channel", module.build(config.name, config.settings, dict(config.routes)))


def timing(config: SourceConfig) -> Timing:
    """How a watch on this source waits."""
    settings = config.settings
    return Timing(
        backoff=Backoff(initial=settings.backoff_initial, maximum=settings.backoff_max),
        stale_after=settings.stale_after,
        exit_on_stall=settings.on_stall == "exit",
    )


def policy(config: ChannelConfig) -> Policy:
    """How the dispatcher treats this channel."""
    settings = config.settings
    return Policy(
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        backoff=Backoff(initial=settings.backoff_initial, maximum=settings.backoff_max),
        max_attempts=settings.max_attempts,
        max_age=settings.max_age,
        rate_limit=settings.rate_limit,
        # The process before may have sent a notification a moment ago and died: receivers that need time to notice a
        # repeat (Novu) name it.
        recovery_delay=getattr(settings, "unknown_outcome_wait", 0.0),
    )


def view(alert: Alert) -> View:
    """How rows of an alert become envelopes."""
    return View(
        labels=tuple(alert.labels.items()),
        static_labels=tuple(alert.static_labels.items()),
        value=alert.value,
        annotations={
            name: Template(text, place=f"alerts.{alert.name}.annotations.{name}")
            for name, text in alert.annotations.items()
        },
    )


def routes(config: Config, alert: Alert) -> dict[str, frozenset[Kind]]:
    """Channel -> the kinds of notifications that go to it from this alert."""
    return {name: frozenset(config.channels[name].routes[alert.name].on) for name in alert.notify}


def composer(channel: ChannelConfig, views: Mapping[str, View], now: Callable[[], float]) -> Compose:
    """What makes a channel's messages of the ledger's notifications, with today's views."""

    def compose(notification: Notification) -> Message | Rejected:
        alert = notification.transition.alert
        if alert not in channel.routes:
            return Rejected(
                Reason.UNROUTED, f"alert {alert} no longer notifies {channel.name}; add it again, then retry"
            )
        return Message(
            id=notification.id,
            alert=alert,
            kind=notification.transition.kind,
            envelope=build(notification.transition, notification.id, views[alert]),
            age=max(0.0, now() - notification.created_at),
            attempts=notification.attempts,
        )

    return compose
