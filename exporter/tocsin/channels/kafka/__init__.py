"""A channel to Kafka: each notification a record, or the firing set as a compacted topic.

Reading order: `settings`, `records`, `topics`, `channel`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tocsin.channels.kafka.settings import Config, Options
from tocsin.errors import needing

if TYPE_CHECKING:
    from tocsin.channels.kafka.channel import Kafka

__all__ = ["Config", "Options", "build"]


def build(name: str, config: Config, routes: Mapping[str, Options]) -> "Kafka":
    """Build the channel; it connects with the first notification.

    Raises ConfigError when the library is not installed or refuses a setting.
    """
    with needing("kafka", f"channels.{name}"):
        from tocsin.channels.kafka.channel import Kafka
    return Kafka(name, config, routes)
