"""Kafka as a source of events for tests."""

import json
from collections.abc import Iterable
from typing import Any

from tocsin.model import Event
from tocsin.sources import kafka as kind
from tocsin.sources.kafka.events import KafkaEvents


def source(at: str, group: str, **settings: Any) -> KafkaEvents:
    quick = {"heartbeat.interval.ms": "200"} | settings.pop("librdkafka", {})  # so that rebalances are noticed at once
    values = {"bootstrap_servers": [at], "group": group, "start": "earliest", "librdkafka": quick, **settings}
    made = kind.build("k", kind.Config.model_validate(values))
    assert isinstance(made, KafkaEvents)
    return made


def numbered(numbers: Iterable[int]) -> list[tuple[str, str]]:
    return [(f"key-{number}", json.dumps({"number": number})) for number in numbers]


def numbers(events: Iterable[Event]) -> list[int]:
    return [int(event.row[0] or "") for event in events]
