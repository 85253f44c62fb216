"""Kafka as a source of events for tests."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from support.kafka import NEWEST, VERSION, Kafka, shared_kafka
from tocsin.model import Event
from tocsin.sources import kafka as kind
from tocsin.sources.kafka.events import KafkaEvents


@dataclass(frozen=True)
class Cluster:
    """A broker, and the settings of a source for it."""

    broker: Kafka
    settings: dict[str, Any]

    def source(self, group: str, **more: Any) -> KafkaEvents:
        return source(self.broker.brokers, group, **self.settings, **more)


CLUSTERS = {
    f"{version} {protocol}": (version, protocol)
    for version, protocol in ((VERSION, "classic"), (NEWEST, "classic"), (NEWEST, "consumer"))
}
"""Versions of Kafka and protocols of consumer groups, for `cluster`."""


def cluster(name: str) -> Cluster:
    version, protocol = CLUSTERS[name]
    return Cluster(shared_kafka(version), {"group_protocol": protocol})


def source(at: str, group: str, **settings: Any) -> KafkaEvents:
    # So that rebalances are noticed at once. With the other protocol the brokers decide it.
    quick = {} if settings.get("group_protocol") == "consumer" else {"heartbeat.interval.ms": "200"}
    quick |= settings.pop("librdkafka", {})
    values = {"bootstrap_servers": [at], "group": group, "start": "earliest", "librdkafka": quick, **settings}
    made = kind.build("k", kind.Config.model_validate(values))
    assert isinstance(made, KafkaEvents)
    return made


def numbered(numbers: Iterable[int]) -> list[tuple[str, str]]:
    return [(f"key-{number}", json.dumps({"number": number})) for number in numbers]


def numbers(events: Iterable[Event]) -> list[int]:
    return [int(event.row[0] or "") for event in events]
