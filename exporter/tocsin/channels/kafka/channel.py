"""The Kafka channel: writes records and returns a result for each notification."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import structlog
from confluent_kafka import KafkaException, Producer

from tocsin.channels.base import Channel, Delivered, Message, Paused, Rejected, Result, Retry
from tocsin.channels.http import readable
from tocsin.channels.kafka.records import Route
from tocsin.channels.kafka.settings import Config, Options
from tocsin.channels.kafka.topics import Topics
from tocsin.errors import ConfigError, Problem, Reason
from tocsin.kafka import (
    ENDED,
    FINAL,
    FORBIDDEN,
    LOGIN_REFUSED,
    QUEUE_FULL,
    RESOLVE,
    TIMED_OUT,
    TOO_LARGE,
    TRANSPORT,
    UNKNOWN_TOPIC,
    Fault,
    LibraryLog,
    Trouble,
    message_of,
)
from tocsin.kafka.producing import Record, Writer
from tocsin.redaction import masked, masker, redactor
from tocsin.templates import TemplateError

log = structlog.get_logger(__name__)

_TAKE = 200
_AT_A_TIME = 25
"""Messages rendered before the event loop gets its turn."""
_STATELESS = "an event has no state; nothing is written"
_FIND_TOPIC = 5.0
"""Seconds after which an unknown topic counts as missing."""
_RIGHT = (
    "give the user the right to write there (WRITE on the topic; old brokers also need IDEMPOTENT_WRITE on the cluster)"
)


class Kafka(Channel):
    """Writes records; a notification is delivered when the brokers have acknowledged its records."""

    def __init__(
        self, name: str, config: Config, routes: Mapping[str, Options], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._config = config
        self._routes = {alert: Route(alert, options, state=config.state) for alert, options in routes.items()}
        self._default = None if config.topic is None else Route(name, config, state=config.state)
        self._redact = redactor(config.hidden())
        self._mask = masker(config.hidden())
        self._writer: Writer | None = None
        self._single: Writer | None = None
        self._closing: set[asyncio.Future[None]] = set()
        self._topics = Topics(name, config, self._redact, clock)
        self._try_settings()

    def __repr__(self) -> str:
        return f"Kafka({self._name!r})"

    def batch_size(self, pending: int) -> int:
        return min(pending, _TAKE)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        made: list[list[Record] | Rejected] = []
        for message in messages:
            if len(made) % _AT_A_TIME == _AT_A_TIME - 1:
                await asyncio.sleep(0)
            made.append(self._records(message))
        records = [record for some in made if not isinstance(some, Rejected) for record in some]
        results = iter(await self._write(records))
        return [some if isinstance(some, Rejected) else _whole(list(islice(results, len(some)))) for some in made]

    async def close(self) -> None:
        for writer in (self._writer, self._single):
            if writer is not None:
                await asyncio.to_thread(writer.close)
        self._writer = self._single = None
        await asyncio.gather(*self._closing)

    def preview(self, message: Message) -> Mapping[str, Any] | Rejected:
        records = self._records(message)
        if isinstance(records, Rejected):
            return records
        shown = [masked(_shown(record), self._mask) for record in records]
        if not shown:
            return {"nothing": _STATELESS}
        return shown[0] if len(shown) == 1 else {"records": shown}

    async def verify(self) -> list[str]:
        """Return problems: topics that do not exist, or are not as they must be."""
        routes = (*self._routes.values(), *((self._default,) if self._default else ()))
        return await asyncio.to_thread(self._topics.verify, sorted({route.topic for route in routes if route.topic}))

    def _records(self, message: Message) -> list[Record] | Rejected:
        route = self._routes.get(message.alert, self._default)
        if route is None:
            return Rejected(Reason.UNROUTED, f"the alert {message.alert} has no topic")
        try:
            return route.records(message)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, self._redact(str(error)))

    async def _write(self, records: Sequence[Record]) -> list[Result]:
        if not records:
            return []
        await self._topics.create({record.topic for record in records})
        self._writer = self._working(self._writer)
        results = await self._written(self._writer, records)
        # A broker refuses a whole batch for its size: send its records again, each on its own.
        large = [number for number, result in enumerate(results) if _too_large(result)]
        if large:
            self._single = self._working(self._single, **{"batch.num.messages": 1})
            again = await self._written(self._single, [records[number] for number in large])
            for number, result in zip(large, again, strict=True):
                results[number] = result
        return results

    async def _written(self, writer: Writer, records: Sequence[Record]) -> list[Result]:
        faults = await writer.write(records)
        return [self._result(record, fault, writer) for record, fault in zip(records, faults, strict=True)]

    def _result(self, record: Record, fault: Fault | None, writer: Writer) -> Result:
        if fault is None:
            return Delivered()
        if fault.code() in UNKNOWN_TOPIC:
            return Retry(Reason.NOT_FOUND, self._topics.missing(record.topic))
        return self._failed(fault, record.topic, writer.trouble)

    def _failed(self, error: Fault, topic: str, trouble: Trouble) -> Result:
        """Return the result for a record that was not acknowledged although its topic exists. `trouble`: the
        connections of its producer."""
        if trouble.fatal is not None and error.code() in ENDED:
            error = trouble.fatal  # the producer failed, and the record with it
        code, said = error.code(), self._redact(error.str())
        if code in FORBIDDEN:
            return Paused(Reason.UNAUTHORIZED, said if code in LOGIN_REFUSED else f"{topic}: {said}; {_RIGHT}")
        if code in TOO_LARGE:
            return Rejected(Reason.TOO_LARGE, f"{topic}: {said}; see max_bytes and the topic's max.message.bytes")
        if code in TIMED_OUT and trouble.forbidden is not None:
            return Paused(Reason.UNAUTHORIZED, trouble.reason)
        if code in TIMED_OUT and not trouble.reason:
            return Retry(Reason.TIMEOUT, f"{topic}: not acknowledged within {self._config.timeout:g} s")
        if code in TIMED_OUT or code in (TRANSPORT, RESOLVE):
            return Retry(Reason.CONNECTION, trouble.reason or said)
        if code in FINAL:
            return Rejected(Reason.REJECTED, f"{topic}: {said}")
        if code == QUEUE_FULL:
            return Retry(Reason.CONNECTION, said, free=True)
        return Retry(Reason.SERVER_ERROR, f"{topic}: {said}")

    def _working(self, writer: Writer | None, **settings: Any) -> Writer:
        """Return the writer, or a new one: an idempotent producer never recovers from a fatal error."""
        if writer is not None:
            if writer.trouble.fatal is None:
                return writer
            why = self._redact(writer.trouble.fatal.str())
            log.warning("the producer failed; creating another one", channel=self._name, error=why)
            closing = asyncio.ensure_future(asyncio.to_thread(writer.close))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return Writer(self._settings(**settings), self._redact, channel=self._name)

    def _settings(self, **more: Any) -> dict[str, Any]:
        config = self._config
        return {
            "topic.metadata.propagation.max.ms": round(min(_FIND_TOPIC, config.timeout / 2) * 1000),
            **config.client_settings(),
            "message.timeout.ms": max(1, round(config.timeout * 1000)),
            "message.max.bytes": config.max_bytes,
            "compression.type": config.compression,
            **more,
        }

    def _try_settings(self) -> None:
        """Raise ConfigError where the library refuses them: names in `librdkafka`, files of certificates."""
        try:
            Producer({**self._settings(), "logger": LibraryLog(self._redact, channel=self._name)})
        except (KafkaException, ValueError, TypeError) as error:
            message = f"librdkafka refuses the settings: {self._redact(message_of(error))}"
            raise ConfigError([Problem(code="librdkafka", message=message, path=f"channels.{self._name}")]) from None


def _whole(results: Sequence[Result]) -> Result:
    """Return the result of a notification from those of its records."""
    if not results:
        return Delivered(_STATELESS, sent=False)
    return next((result for result in results if not isinstance(result, Delivered)), results[0])


def _shown(record: Record) -> dict[str, Any]:
    """A record for people. `value` None is a tombstone."""
    return {
        "topic": record.topic,
        "key": None if record.key is None else record.key.decode("utf-8", "replace"),
        "headers": dict(record.headers),
        "value": None if record.value is None else readable(record.value),
    }


def _too_large(result: Result) -> bool:
    return isinstance(result, Rejected) and result.reason is Reason.TOO_LARGE
