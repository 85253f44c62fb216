"""The port for Prometheus, for probes and for people."""

from tocsin.web.application import build
from tocsin.web.overview import (
    AlertStatus,
    ChannelStatus,
    Delivery,
    EpisodeRecord,
    FiringRow,
    NotificationRecord,
    Overview,
    Receipt,
    TransitionRecord,
)

__all__ = [
    "AlertStatus",
    "ChannelStatus",
    "Delivery",
    "EpisodeRecord",
    "FiringRow",
    "NotificationRecord",
    "Overview",
    "Receipt",
    "TransitionRecord",
    "build",
]
