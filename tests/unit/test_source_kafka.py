"""Settings of a Kafka source, times in its records, and positions in the ledger."""

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from support.kafka_events import source
from support.sending import without
from tocsin.errors import ConfigError
from tocsin.kafka import Trouble, producing
from tocsin.model import Column
from tocsin.sources import kafka as kind
from tocsin.sources.kafka.records import row
from tocsin.sources.kafka.stream import Place, positions, stored
from tocsin.values import jsonable, number, typed


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "confluent_kafka", *[f"tocsin.sources.kafka.{name}" for name in ("events", "stream")])
    with pytest.raises(ConfigError, match=r"sources\.k: .*pip install 'tocsin\[kafka\]'"):
        source("h:1", "g")


def test_state_setting_selects_rows_or_events() -> None:
    events = kind.Config(bootstrap_servers=["h:1"])
    rows = kind.Config(bootstrap_servers=["h:1"], state=True)
    assert (events.delivers, rows.delivers) == ("events", "rows")
    assert events.subjects == rows.subjects == ("topic",)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ((25, "1767323045678.901"), 1767323045.678901),
        ((25, "-1500"), -1.5),
        ((20, "1767323045678"), 1767323045.678),
        ((25, "2026-01-02 03:04:05.5+00"), 1767323045.5),
    ],
    ids=["sink of Materialize", "before 1970", "number", "a time"],
)
def test_time_in_milliseconds_becomes_a_time(written: tuple[int, str], seconds: float) -> None:
    column = Column(name="opened", oid=1184)
    (text,) = row((column,), {"opened": written})
    assert number(text) == seconds
    assert jsonable(typed(column, text)).startswith(("2026-01-02T03:04:05", "1969-12-31T23:59:58.5"))


@pytest.mark.parametrize("written", ["999999999999999", "1767323045678901", "soon"])
def test_other_text_in_a_column_of_times_stays_text(written: str) -> None:
    assert row((Column(name="opened", oid=1184),), {"opened": (25, written)}) == (written,)


# Positions in the ledger.


@pytest.mark.parametrize(
    ("written", "ids", "current", "former"),
    [
        ({"t/0@one": 7, "t/1@one": 8, "t/0@two": 3}, {"t": "two"}, {("t", 0): 3}, {("t", 1): 8}),
        ({"u/0@three": 1}, {"u": "four"}, {}, {("u", 0): 1}),
        ({"t/0": 7}, {"t": "one"}, {("t", 0): 7}, {}),
        ({"t/0@one": 7}, {"t": ""}, {("t", 0): 7}, {}),
        ({"t/0@one": 2, "t/0": 7}, {"t": "one"}, {("t", 0): 2}, {}),
    ],
    ids=["recreated", "other topic", "brokers upgraded", "brokers downgraded", "both"],
)
def test_position_belongs_to_one_topic_id(
    written: dict[str, int], ids: dict[str, str], current: dict[Place, int], former: dict[Place, int]
) -> None:
    assert positions(written, ids) == (current, former)


@given(
    st.dictionaries(st.tuples(st.sampled_from("tu"), st.integers(0, 3)), st.integers(0, 9)), st.sampled_from(["", "a"])
)
def test_stored_positions_are_read_back(read: dict[Place, int], id_: str) -> None:
    ids = {"t": id_, "u": "b"}
    assert positions({stored(place, ids): offset for place, offset in read.items()}, ids) == (read, {})


# The end of a producer.


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "h:9092/bootstrap: Connect to ipv4#10.0.0.5:9092 failed: Connection refused (after 3ms in state CONNECT)",
            "Connect to ipv4#10.0.0.5:9092 failed: Connection refused",
        ),
        (
            "sasl_ssl://h:9092/bootstrap: SASL authentication error: Authentication failed (after 308ms in state AUTH)",
            "sasl_ssl://h:9092/bootstrap: SASL authentication error: Authentication failed",
        ),
    ],
)
def test_unreachable_broker_is_named_once(text: str, shown: str) -> None:
    trouble = Trouble(str)
    trouble.report(KafkaError(KafkaError._TRANSPORT, text))
    assert trouble.reason == shown
