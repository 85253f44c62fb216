"""RabbitMQ: the messages of a queue as events.

Reading order: `settings`, `frames` (what the library cannot decode), `messages` (a message as events, and its
identity), `faults` (what errors mean), `connection`, `topology` (queues and exchanges), `dead_letters`, `limit`
(returns that a quorum queue counts), `stream`.
"""

from typing import TYPE_CHECKING

from tocsin.errors import needing
from tocsin.sources.rabbitmq.settings import Config

if TYPE_CHECKING:
    from tocsin.sources.rabbitmq.stream import RabbitMQ

__all__ = ["Config", "build"]


def build(name: str, config: Config) -> "RabbitMQ":
    """Build the source; connects to nothing yet. Raises ConfigError when the library is not installed."""
    with needing("rabbitmq", f"sources.{name}"):
        from tocsin.sources.rabbitmq.stream import RabbitMQ
    return RabbitMQ(name, config)
