"""The configuration of a Kafka source."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tocsin.kafka import TOPIC, KafkaConnection
from tocsin.sources.settings import Positive, SourceSettings, Text

About = Literal["key", "topic", "partition", "offset", "timestamp", "headers"]
Type = Literal["text", "boolean", "integer", "numeric", "float", "jsonb", "timestamptz"]

_OF_EVENTS = ("group", "start", "nulls", "dead_letters")
_OF_STATE = ("envelope", "columns")


class Config(KafkaConnection, SourceSettings):
    """Kafka, or whatever speaks its protocol. Values of records are JSON objects, whose fields are the columns. One
    source takes all the topics that its alerts name. Needs the extra `kafka`: pip install 'tocsin[kafka]'."""

    package: ClassVar[str] = "confluent_kafka"

    subjects: ClassVar[tuple[str, ...]] = ("topic",)

    state: bool = False
    """Whether the topics are compacted ones, such as a Materialize sink with `ENVELOPE UPSERT`, that hold the latest
    value of each key: rows which fire until a tombstone (a record without a value) comes. Otherwise each record is an
    event."""

    group: Text = "tocsin"
    """The consumer group. Several processes with the same group share the partitions. Its offsets at the brokers only
    follow what is in the ledger."""

    start: Literal["latest", "earliest"] = "latest"
    """Where a topic is begun that neither the ledger nor the group knows: with what comes from now on, or with all
    that it holds."""

    nulls: Literal["refuse", "skip"] = "refuse"
    """What to do with an event without a value: count and log it as refused, or pass over it."""

    dead_letters: Annotated[str, Field(min_length=1)] | None = None
    """A topic for copies of the records that are refused, with headers that say where each was and why."""

    envelope: Literal["upsert", "debezium"] = "upsert"
    """What the values of a `state` topic are: rows, or Debezium's changes, whose `after` is the row."""

    columns: dict[Text, Type] = Field(default_factory=dict)
    """The columns of a `state` topic with their types. Without it they are those of the records that the topic holds
    at the start, so a topic that may be empty then needs it."""

    include: list[About] = Field(default_factory=list)
    """What else of a record becomes a column: `_key`, `_topic`, `_partition`, `_offset`, `_timestamp`, `_headers`."""

    max_bytes: Annotated[int, Field(ge=1)] = 1_048_576
    """A record whose value is longer is refused."""

    connect_timeout: Positive = 10.0
    """How long an answer of the brokers may take."""

    snapshot_timeout: Positive = 300.0
    """How long it may take to read a `state` topic from its beginning."""

    progress_timeout: Positive = 30.0
    """How long the brokers of a `state` topic may give no answer before the source counts as stalled."""

    on_stall: Literal["reconnect", "exit"] = "reconnect"
    """What to do about a stall: connect afresh, or end the process with exit code 124 so that a supervisor starts it
    anew."""

    stale_after: Positive = 300.0
    """How long the series of a source that gives nothing are still served before they are withdrawn."""

    @property
    def delivers(self) -> Literal["rows", "events"]:  # type: ignore[override]  # here it depends on a setting
        """Rows that come and go, or events."""
        return "rows" if self.state else "events"

    @field_validator("dead_letters")
    @classmethod
    def _is_topic(cls, topic: str | None) -> str | None:
        if topic is not None and not TOPIC.fullmatch(topic):
            raise ValueError(f"{topic!r} is no name of a topic: up to 249 letters, digits, dots, _ and -")
        return topic

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        idle = [name for name in (_OF_EVENTS if self.state else _OF_STATE) if name in self.model_fields_set]
        if idle:
            what = "events, without `state: true`" if self.state else "`state: true`"
            raise ValueError(f"{' and '.join(idle)} can be said only of {what}")
        if self.stale_after < self.progress_timeout:
            raise ValueError(
                "stale_after is shorter than progress_timeout: series would go while the source still counts as live"
            )
        return self
