"""RabbitMQ: the messages of a queue as events.

Reading order: `settings`, `messages` (a message as events, and its identity), `broker` (the connection and what is
declared), `stream`.
"""

from typing import TYPE_CHECKING

from tocsin.errors import ConfigError, Problem
from tocsin.sources.rabbitmq.settings import Config

if TYPE_CHECKING:
    from tocsin.sources.rabbitmq.stream import RabbitMQ

__all__ = ["Config", "build"]


def build(name: str, config: Config) -> "RabbitMQ":
    """A source for `config`; connects to nothing yet. Raises ConfigError when the library is not installed."""
    try:
        from tocsin.sources.rabbitmq.stream import RabbitMQ
    except ModuleNotFoundError as error:
        remedy = f"needs the Python package {error.name}; install it with: pip install 'tocsin[rabbitmq]'"
        raise ConfigError([Problem(message=remedy, path=f"sources.{name}")]) from None
    return RabbitMQ(name, config)
