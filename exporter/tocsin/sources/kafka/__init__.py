"""Kafka: the records of topics as events, or a compacted topic as rows.

Reading order: `settings`, `records` (a record as an event or a row), `consuming` (the library and its thread), `stream`
(a subscription to topics of events), `events`, `state`.
"""

from tocsin.errors import needing
from tocsin.sources.base import EventSource, Source
from tocsin.sources.kafka.settings import Config

__all__ = ["Config", "build"]


def build(name: str, config: Config) -> Source | EventSource:
    """Build the source; connects to nothing yet. Raises ConfigError when the library is not installed."""
    with needing("kafka", f"sources.{name}"):
        from tocsin.sources.kafka.events import KafkaEvents
        from tocsin.sources.kafka.state import KafkaState
    return KafkaState(name, config) if config.state else KafkaEvents(name, config)
