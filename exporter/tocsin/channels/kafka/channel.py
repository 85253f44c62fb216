"""The Kafka channel: which producer writes what, and what has become of it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import structlog
from confluent_kafka import KafkaException, Producer

from tocsin.channels.base import Channel, Delivered, Message, Rejected, Result, Retry
from tocsin.channels.kafka.outcome import judged
from tocsin.channels.kafka.records import Route
from tocsin.channels.kafka.settings import Config, Options
from tocsin.channels.kafka.topics import Topics
from tocsin.errors import ConfigError, Problem, Reason
from tocsin.kafka import UNKNOWN_TOPIC, Fault, Log, said
from tocsin.kafka.producing import Record, Writer
from tocsin.redaction import redactor

log = structlog.get_logger(__name__)

_TAKE = 200
_AT_A_TIME = 25
"""Messages that are made before the event loop gets its turn."""
_FIND_TOPIC = 5.0
"""Seconds after which a topic that no broker knows counts as missing."""


class Kafka(Channel):
    """Writes records, and answers for each when the brokers have acknowledged it."""

    def __init__(
        self, name: str, config: Config, routes: Mapping[str, Options], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._config = config
        self._routes = {alert: Route(alert, options, state=config.state) for alert, options in routes.items()}
        self._otherwise = None if config.topic is None else Route(name, config, state=config.state)
        self._words = redactor(config.hidden())
        self._writer: Writer | None = None
        self._lone: Writer | None = None
        self._left: set[asyncio.Future[None]] = set()
        self._topics = Topics(name, config, self._words, clock)
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
            made.append(self._made(message))
        records = [record for some in made if not isinstance(some, Rejected) for record in some]
        results = iter(await self._write(records))
        return [some if isinstance(some, Rejected) else _whole(list(islice(results, len(some)))) for some in made]

    async def close(self) -> None:
        for writer in (self._writer, self._lone):
            if writer is not None:
                await asyncio.to_thread(writer.close)
        self._writer = self._lone = None
        await asyncio.gather(*self._left, self._topics.close())

    async def verify(self) -> list[str]:
        """Problems found by asking the cluster whether the topics are there and are what they have to be."""
        routes = (*self._routes.values(), *((self._otherwise,) if self._otherwise else ()))
        return await asyncio.to_thread(self._topics.verify, sorted({route.topic for route in routes if route.topic}))

    def _made(self, message: Message) -> list[Record] | Rejected:
        route = self._routes.get(message.alert, self._otherwise)
        if route is None:
            return Rejected(Reason.UNROUTED, f"no topic is given for the alert {message.alert}")
        made = route.records(message)
        return Rejected(made.reason, self._words(made.detail)) if isinstance(made, Rejected) else made

    async def _write(self, records: Sequence[Record]) -> list[Result]:
        """What has become of each record."""
        if not records:
            return []
        await self._topics.make({record.topic for record in records})
        self._writer = self._working(self._writer)
        results = await self._written(self._writer, records)
        # A broker refuses a whole batch for its size: the records of it go again, each on its own.
        large = [number for number, result in enumerate(results) if _too_large(result)]
        if large:
            self._lone = self._working(self._lone, **{"batch.num.messages": 1})
            again = await self._written(self._lone, [records[number] for number in large])
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
        return judged(fault, record.topic, writer.trouble, self._config.timeout, self._words)

    def _working(self, writer: Writer | None, **settings: Any) -> Writer:
        """The writer, or a new one where it is the first or the old one has ended: an idempotent producer that has
        lost its way never finds back."""
        if writer is not None:
            if writer.trouble.fatal is None:
                return writer
            why = self._words(writer.trouble.fatal.str())
            log.warning("the producer has to begin anew", channel=self._name, error=why)
            leaving = asyncio.ensure_future(asyncio.to_thread(writer.close))
            self._left.add(leaving)
            leaving.add_done_callback(self._left.discard)
        return Writer(self._settings(**settings), self._words, channel=self._name)

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
        """Raises ConfigError where the library does not take them: names in `librdkafka`, files of certificates."""
        try:
            Producer({**self._settings(), "logger": Log(self._words, channel=self._name)})
        except (KafkaException, ValueError, TypeError) as error:
            message = f"librdkafka does not take the settings: {self._words(said(error))}"
            raise ConfigError([Problem(message=message, path=f"channels.{self._name}")]) from None


def _whole(results: Sequence[Result]) -> Result:
    """What has become of a notification whose records came to this."""
    if not results:
        return Delivered("an event has no state: nothing is written", sent=False)
    return next((result for result in results if not isinstance(result, Delivered)), results[0])


def _too_large(result: Result) -> bool:
    return isinstance(result, Rejected) and result.reason is Reason.TOO_LARGE
