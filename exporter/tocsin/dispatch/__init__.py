"""Delivery: one dispatcher per channel, so that none delays another.

A channel receives the notifications of an ordering key in order and one at a time; different ones side by side.
"""

from tocsin.dispatch.base import Compose, Labels, Policy, Setup
from tocsin.dispatch.decisions import ChannelStatus
from tocsin.dispatch.dispatcher import Dispatcher

__all__ = ["ChannelStatus", "Compose", "Dispatcher", "Labels", "Policy", "Setup"]
