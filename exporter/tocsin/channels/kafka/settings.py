"""The configuration of a Kafka channel."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from tocsin.channels.settings import ChannelConfig, ChannelOptions, Column, Name, Trial
from tocsin.kafka import TOPIC, KafkaConnection
from tocsin.templates import Structure, Template, TemplateCode, TemplateError


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    templates: ClassVar[tuple[str, ...]] = ("body",)

    topic: Name | None = None
    """The topic to write to, a template over the envelope's keys, such as `alerts.{{ labels.team }}`. It must be given
    here or for the alert."""

    key: list[Column] = Field(default_factory=list)
    """Columns whose values, as a JSON object, are the record's key. Without it, the fingerprint. Records of one row
    keep their order."""

    body: dict[str, Any] | list[Any] | None = None
    """The JSON to send as value, every string in it a template over the envelope's keys. Without it, the envelope."""

    @field_validator("topic")
    @classmethod
    def _is_topic(cls, topic: str | None) -> str | None:
        if topic is not None and Template(topic, place="").constant and not TOPIC.fullmatch(topic):
            raise ValueError(f"{topic!r} is not a valid topic name: use up to 249 letters, digits, dots, _ and -")
        return topic

    @field_validator("body")
    @classmethod
    def _compiles(cls, body: Any) -> Any:
        Structure(body, place="")
        return body

    def missing(self) -> str | None:
        """Return what is missing to send anything, as a sentence."""
        return "set a topic, for the alert or for the channel" if self.topic is None else None


class Config(KafkaConnection, ChannelConfig, Options):
    """Kafka, or anything with its protocol. Every record has the headers `tocsin-id`, `tocsin-alert` and
    `tocsin-status`. Needs the extra `kafka`: pip install 'tocsin[kafka]'."""

    package: ClassVar[str] = "confluent_kafka"
    checked_by_building: ClassVar[bool] = True

    type: Literal["kafka"]
    """The kind of channel."""

    state: bool = False
    """Whether the topic holds the rows that fire instead of notifications: a record while a row fires, a tombstone (a
    record without a value) when it resolves. Such a topic should be compacted."""

    create: bool = False
    """Create missing topics, those of `state` compacted."""

    partitions: Annotated[int, Field(ge=1)] = 1
    """Partitions of created topics."""

    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """Compression of records."""

    max_bytes: Annotated[int, Field(ge=1000, le=1_000_000_000)] = 1_000_000
    """Maximum size of a record in bytes, before compression. The topic's `max.message.bytes` must allow it too."""

    def trial(self, options: Options) -> Trial:
        bodies = super().trial(options)
        topic = Template(options.topic or "unset", place="topic")

        def faults(variables: Mapping[str, object]) -> Iterator[TemplateError]:
            try:
                topic_of(topic, variables)
            except TemplateError as error:
                yield error
            yield from bodies(variables)

        return faults


def topic_of(template: Template, variables: Mapping[str, object]) -> str:
    """Render the name of a topic. Raises TemplateError, also for what is not a valid one."""
    topic = template.render(variables)
    if not TOPIC.fullmatch(topic):
        raise TemplateError(TemplateCode.UNFIT, place="topic", detail=f"{topic[:80]!r} is not a valid topic name")
    return topic
