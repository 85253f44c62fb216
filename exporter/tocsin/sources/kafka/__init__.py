"""Kafka: the records of topics as events, or a compacted topic as rows that come and go.

Reading order: `settings`, `records` (a record as an event or a row), `consuming` (the library and its thread),
`events`, `state`.
"""

from typing import TYPE_CHECKING

from tocsin.errors import ConfigError, Problem
from tocsin.sources.kafka.settings import Config

if TYPE_CHECKING:
    from tocsin.sources.kafka.events import KafkaEvents
    from tocsin.sources.kafka.state import KafkaState

__all__ = ["Config", "build"]


def build(name: str, config: Config) -> "KafkaEvents | KafkaState":
    """A source for `config`; connects to nothing yet. Raises ConfigError when the library is not installed."""
    try:
        from tocsin.sources.kafka.events import KafkaEvents
        from tocsin.sources.kafka.state import KafkaState
    except ModuleNotFoundError as error:
        remedy = f"needs the Python package {error.name}; install it with: pip install 'tocsin[kafka]'"
        raise ConfigError([Problem(message=remedy, path=f"sources.{name}")]) from None
    return KafkaState(name, config) if config.state else KafkaEvents(name, config)
