"""The configuration of a Kafka source."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tocsin.kafka import TOPIC, KafkaConnection
from tocsin.sources.settings import Positive, SourceSettings, Text

About = Literal["key", "topic", "partition", "offset", "timestamp", "headers"]
Type = Literal["text", "boolean", "integer", "numeric", "float", "jsonb", "timestamptz"]

_OF_EVENTS = ("group", "group_protocol", "start", "nulls", "dead_letters")
_OF_STATE = ("envelope", "columns")


class Config(KafkaConnection, SourceSettings):
    """Kafka, or anything with its protocol. Values of records are JSON objects; their fields are the columns. One
    source reads all the topics that its alerts name. Needs the extra `kafka`: pip install 'tocsin[kafka]'."""

    package: ClassVar[str] = "confluent_kafka"

    subjects: ClassVar[tuple[str, ...]] = ("topic",)

    state: bool = False
    """Whether the topics are compacted, such as a Materialize sink with `ENVELOPE UPSERT`: they hold the latest value
    of each key, a row that fires until a tombstone (a record without a value) comes. Otherwise each record is an
    event."""

    group: Text = "tocsin"
    """The consumer group. Several processes with the same group share the partitions. Its offsets at the brokers follow
    the ledger."""

    group_protocol: Literal["classic", "consumer"] = "classic"
    """How the group shares partitions. `consumer` is KIP-848, which needs Kafka 4: a joining process does not stop the
    others. The brokers decide when a silent process has left (`group.consumer.session.timeout.ms`, 45 s)."""

    start: Literal["latest", "earliest"] = "latest"
    """Where to start a topic that neither the ledger nor the group knows: at new records, or at its beginning."""

    nulls: Literal["refuse", "skip"] = "refuse"
    """What to do with an event without a value: count and log it as refused, or skip it."""

    dead_letters: Annotated[str, Field(min_length=1)] | None = None
    """A topic for copies of refused records, with headers that say where each was and why it was refused."""

    envelope: Literal["upsert", "debezium"] = "upsert"
    """What the values of a `state` topic are: rows, or Debezium's changes, whose `after` is the row."""

    columns: dict[Text, Type] = Field(default_factory=dict)
    """The columns of a `state` topic with their types. Default: those of the records that the topic holds at the start,
    so a topic that may be empty then needs this setting."""

    include: list[About] = Field(default_factory=list)
    """Metadata of a record as further columns: `_key`, `_topic`, `_partition`, `_offset`, `_timestamp`, `_headers`."""

    max_bytes: Annotated[int, Field(ge=1)] = 1_048_576
    """A record whose value is longer is refused."""

    connect_timeout: Positive = 10.0
    """How long the brokers may take to answer."""

    snapshot_timeout: Positive = 300.0
    """How long it may take to read a `state` topic from its beginning."""

    progress_timeout: Positive = 30.0
    """How long the brokers of a `state` topic may give no answer before the source counts as stalled."""

    on_stall: Literal["reconnect", "exit"] = "reconnect"
    """What to do about a stall: reconnect, or end the process with exit code 124 so that a supervisor restarts it."""

    stale_after: Positive = 300.0
    """How long series are served without progress of the source before they are withdrawn."""

    @property
    def delivers(self) -> Literal["rows", "events"]:  # type: ignore[override]  # here it depends on a setting
        """Rows that come and go, or events."""
        return "rows" if self.state else "events"

    @field_validator("dead_letters")
    @classmethod
    def _is_topic(cls, topic: str | None) -> str | None:
        if topic is not None and not TOPIC.fullmatch(topic):
            raise ValueError(f"{topic!r} is not a valid topic name: use up to 249 letters, digits, dots, _ and -")
        return topic

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        idle = [name for name in (_OF_EVENTS if self.state else _OF_STATE) if name in self.model_fields_set]
        if idle:
            where = "without" if self.state else "with"
            raise ValueError(f"{' and '.join(idle)} can be set only {where} `state: true`")
        if self.stale_after < self.progress_timeout:
            raise ValueError(
                "stale_after is shorter than progress_timeout: series would be withdrawn while the source counts as up"
            )
        return self
