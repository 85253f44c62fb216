"""Notifications as records of Kafka."""

from collections.abc import Iterable

from tocsin.channels.base import Message
from tocsin.channels.http import json_bytes
from tocsin.channels.kafka.settings import Options, topic_of
from tocsin.envelope import Envelope, scope
from tocsin.kafka.producing import Headers, Record
from tocsin.model import Kind
from tocsin.templates import Structure, Template, TemplateCode, TemplateError


class Route:
    """Makes records of the notifications of one alert."""

    def __init__(self, alert: str, options: Options, *, state: bool) -> None:
        assert options.topic is not None
        self._topic = Template(options.topic, place=f"{alert}: topic")
        self.topic = options.topic if self._topic.constant else None
        self._key = options.key
        self._body = None if options.body is None else Structure(options.body, place=f"{alert}: body")
        self._state = state

    def records(self, message: Message) -> list[Record]:
        """Return the records of a notification: one, or with `state` one for each row merged into it. Raises
        TemplateError."""
        if self._state and message.kind is Kind.EVENT:
            return []
        return [self._record(envelope) for envelope in self._envelopes(message.envelope)]

    def _envelopes(self, envelope: Envelope) -> Iterable[Envelope]:
        merged = envelope.get("merged")
        if not self._state or merged is None:
            return (envelope,)
        # A compacted topic holds one record for each row: the newest.
        return {one["fingerprint"]: one for one in merged}.values()

    def _record(self, envelope: Envelope) -> Record:
        variables = scope(envelope)
        topic = topic_of(self._topic, variables)
        headers: Headers = [
            ("tocsin-id", envelope["id"]),
            ("tocsin-alert", envelope["alert"]),
            ("tocsin-status", envelope["status"]),
        ]
        value = None
        if not self._state or envelope["status"] != "resolved":
            value = json_bytes(envelope if self._body is None else self._body.render(variables))
        return Record(topic=topic, key=self._key_of(envelope), value=value, headers=headers)

    def _key_of(self, envelope: Envelope) -> bytes:
        if not self._key:
            return envelope["fingerprint"].encode()
        row = envelope["row"]
        missing = [name for name in self._key if name not in row]
        if missing:
            detail = f"the row has no column {', '.join(missing)}; it has {', '.join(row)}"
            raise TemplateError(TemplateCode.UNFIT, place="key", detail=detail)
        return json_bytes({name: row[name] for name in self._key})
