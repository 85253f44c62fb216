"""Claim, send, acknowledge, retry, park: one dispatcher per channel, so that none delays another.

A channel sees each episode's notifications in order and one at a time; different episodes go side by side.
"""

from tocsin.dispatch.dispatcher import Dispatcher
from tocsin.dispatch.health import Condition
from tocsin.dispatch.policy import Policy
from tocsin.dispatch.sending import Compose

__all__ = ["Compose", "Condition", "Dispatcher", "Policy"]
