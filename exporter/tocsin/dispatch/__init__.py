"""Delivery: one dispatcher per channel, so that none delays another.

A channel receives the notifications of an ordering key in order and one at a time; different ones side by side.
"""

from tocsin.dispatch.decisions import ChannelStatus, Policy
from tocsin.dispatch.dispatcher import Dispatcher
from tocsin.dispatch.sending import Compose

__all__ = ["ChannelStatus", "Compose", "Dispatcher", "Policy"]
