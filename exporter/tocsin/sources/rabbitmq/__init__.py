"""RabbitMQ: the messages of a queue as events.

Reading order: `settings`, `frames` (what the library could not decode), `messages` (a message as events, and its
identity), `faults` (what errors mean), `connection`, `topology` (what is declared), `dead_letters`, `broker` (the
consumer), `limit` (what a quorum queue counts against it), `stream`.
"""

from typing import TYPE_CHECKING

from tocsin.errors import needing
from tocsin.sources.rabbitmq.settings import Config

if TYPE_CHECKING:
    from tocsin.sources.rabbitmq.stream import RabbitMQ

__all__ = ["Config", "build"]


def build(name: str, config: Config) -> "RabbitMQ":
    """A source for `config`; connects to nothing yet. Raises ConfigError when the library is not installed."""
    with needing("rabbitmq", f"sources.{name}"):
        from tocsin.sources.rabbitmq.stream import RabbitMQ
    return RabbitMQ(name, config)
