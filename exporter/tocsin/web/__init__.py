"""The port for Prometheus, for probes and for people."""

from tocsin.web.application import build
from tocsin.web.overview import (
    AlertStatus,
    ChannelStatus,
    FiringRow,
    NotificationRecord,
    Overview,
    TransitionRecord,
)

__all__ = [
    "AlertStatus",
    "ChannelStatus",
    "FiringRow",
    "NotificationRecord",
    "Overview",
    "TransitionRecord",
    "build",
]
