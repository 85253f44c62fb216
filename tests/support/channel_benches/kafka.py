"""A topic of its own in a real Kafka, one for all tests of a process."""

import json
import uuid
from typing import Any

from support.channel_benches import HttpBench
from support.kafka import shared_kafka, stored


class Bench(HttpBench):
    http = False

    def __init__(self) -> None:
        super().__init__()
        self.broker = shared_kafka()
        self.topic = f"contract-{uuid.uuid4().hex[:8]}"

    def settings(self, url: str) -> dict[str, Any]:
        return {
            "bootstrap_servers": [self.broker.brokers],
            "topic": self.topic,
            "create": True,
            "compression": "lz4",  # the broker takes 1 MB, and the suite sends more
            "max_bytes": 8_000_000,
        }

    def arrived(self) -> list[Any]:
        return [json.loads(record.value() or b"null") for record in stored(self.broker, self.topic)]
