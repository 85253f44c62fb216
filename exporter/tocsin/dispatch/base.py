"""How a channel is sent to: its policy, and what the parts of its dispatcher share."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tocsin.backoff import Backoff
from tocsin.channels.base import Channel, Message, Rejected
from tocsin.exposition import ChannelMetrics
from tocsin.ledger.base import Outbox
from tocsin.model import Notification

Compose = Callable[[Sequence[Notification]], "Message | Rejected"]
"""Makes the message of one notification, or of merged ones, with today's configuration."""


Labels = Callable[[Notification], Mapping[str, str]]
"""The labels of a notification, with today's configuration: what matchers of silences compare."""


def plain_labels(notification: Notification) -> Mapping[str, str]:
    """The label that every notification has."""
    return {"alertname": notification.transition.alert}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How notifications of a channel are sent. Times in seconds."""

    concurrency: int
    timeout: float
    backoff: Backoff
    max_attempts: int | None
    """None: only `max_age` limits retries."""
    max_age: float
    rate_limit: float | None = None
    recovery_delay: float = 0.0
    """How long notifications found pending at the start wait: the process before may have sent them a moment ago."""
    pause: Backoff = Backoff(initial=30.0, maximum=300.0)  # noqa: RUF009 - frozen
    limit: int = 10_000
    """The most notifications claimed and not sent yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One channel, and what a dispatcher needs to deliver to it."""

    name: str
    channel: Channel
    policy: Policy
    ledger: Outbox
    compose: Compose
    metrics: ChannelMetrics
    labels: Labels = plain_labels
    since: float
    """When this process, or this configuration, began; an earlier one may have sent what was written until then."""
    clock: Callable[[], float] = time.time
    """For times that the ledger keeps."""
    monotonic: Callable[[], float] = time.monotonic
    """For waits that end with the process; must not jump."""
    chance: Callable[[], float] = random.random
