"""The end of a producer."""

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from tocsin.kafka import producing


class Refused:
    """A producer whose fatal error comes while it is closed."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.flushed = 0
        self.closed = False

    def poll(self, timeout: float) -> int:
        return 0

    def purge(self) -> None:
        pass

    def flush(self, timeout: float) -> int:
        self.flushed += 1
        raise KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "refused", True))

    def close(self) -> None:
        self.closed = True


def test_producer_refused_while_closing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producing, "Producer", Refused)
    writer = producing.Writer({}, str, channel="out")
    writer.close()
    producer: Any = writer._producer
    assert producer.flushed == 1
    assert producer.closed
