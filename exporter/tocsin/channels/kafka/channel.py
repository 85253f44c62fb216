"""The Kafka channel: which producer writes what, and what the cluster must have for it."""

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any

import structlog
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined] # its stubs do not export it
from confluent_kafka.cimpl import NewTopic

from tocsin.channels import Delivered, Message, Rejected, Result
from tocsin.channels.base import redactor
from tocsin.channels.kafka.outcome import judged
from tocsin.channels.kafka.records import Route
from tocsin.channels.kafka.settings import Config, Options
from tocsin.errors import ConfigError, Problem, Reason
from tocsin.kafka import TOO_LARGE, TOPIC_EXISTS, Fault, Log, Trouble, cause, said
from tocsin.kafka.producing import Record, Writer
from tocsin.model import Kind

log = structlog.get_logger(__name__)

_TAKE = 200
_AT_A_TIME = 25
"""Messages that are made before the event loop gets its turn."""
_FIND_TOPIC = 5.0
"""Seconds after which a topic that no broker knows counts as missing."""


class Kafka:
    """Writes records, and answers for each when the brokers have acknowledged it."""

    wants_earlier: AbstractSet[Kind] = frozenset()

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options]) -> None:
        self._name = name
        self._config = config
        self._routes = {alert: Route(alert, options, state=config.state) for alert, options in routes.items()}
        self._otherwise = None if config.topic is None else Route(name, config, state=config.state)
        self._words = redactor(config.hidden())
        self._writer: Writer | None = None
        self._lone: Writer | None = None
        self._left: set[asyncio.Future[None]] = set()
        self._created: set[str] = set()
        self._try_settings()

    def __repr__(self) -> str:
        return f"Kafka({self._name!r})"

    def take(self, pending: int) -> int:
        return min(pending, _TAKE)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        made: list[list[Record] | Rejected] = []
        for message in messages:
            if len(made) % _AT_A_TIME == _AT_A_TIME - 1:
                await asyncio.sleep(0)
            made.append(self._made(message))
        records = [record for some in made if not isinstance(some, Rejected) for record in some]
        faults = iter(await self._write(records))
        return [
            some if isinstance(some, Rejected) else self._result(some, list(islice(faults, len(some)))) for some in made
        ]

    async def close(self) -> None:
        for writer in (self._writer, self._lone):
            if writer is not None:
                await asyncio.to_thread(writer.close)
        self._writer = self._lone = None
        await asyncio.gather(*self._left)

    async def verify(self) -> list[str]:
        """Problems found by asking the cluster whether the topics are there and are what they have to be."""
        routes = (*self._routes.values(), *((self._otherwise,) if self._otherwise else ()))
        return await asyncio.to_thread(self._verify, sorted({route.topic for route in routes if route.topic}))

    def _made(self, message: Message) -> list[Record] | Rejected:
        route = self._routes.get(message.alert, self._otherwise)
        if route is None:
            return Rejected(Reason.UNROUTED, f"no topic is given for the alert {message.alert}")
        made = route.records(message)
        return Rejected(made.reason, self._words(made.detail)) if isinstance(made, Rejected) else made

    def _result(self, records: Sequence[Record], faults: Sequence[Fault | None]) -> Result:
        trouble = self._writer.trouble if self._writer is not None else Trouble(self._words)
        for record, fault in zip(records, faults, strict=True):
            if fault is not None:
                return judged(fault, record.topic, trouble, self._config.timeout, self._words(fault.str()))
        return Delivered("" if records else "an event has no state: nothing is written", told=bool(records))

    async def _write(self, records: Sequence[Record]) -> list[Fault | None]:
        """What went wrong for each record, None where the brokers have it."""
        if not records:
            return []
        if self._config.create:
            await self._create({record.topic for record in records})
        self._writer = self._working(self._writer)
        faults = await self._writer.write(records)
        # A broker refuses a whole batch for its size: the records of it go again, each on its own.
        large = [number for number, fault in enumerate(faults) if fault is not None and fault.code() in TOO_LARGE]
        if large:
            self._lone = self._working(self._lone, **{"batch.num.messages": 1})
            again = await self._lone.write([records[number] for number in large])
            for number, fault in zip(large, again, strict=True):
                faults[number] = fault
        return faults

    def _working(self, writer: Writer | None, **settings: Any) -> Writer:
        """The writer, or a new one where it is the first or the old one has ended: an idempotent producer that has
        lost its way never finds back."""
        if writer is not None:
            if writer.trouble.fatal is None:
                return writer
            log.warning("the producer has to begin anew", channel=self._name, error=writer.trouble.fatal)
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

    def _admin(self) -> AdminClient:
        # The log of this one is read by nobody: what goes wrong is in its answers.
        unread: dict[str, Any] = {"logger": Log(self._words, channel=self._name), "error_cb": lambda _: None}
        return AdminClient({**self._config.client_settings(), **unread})

    async def _create(self, topics: set[str]) -> None:
        """Create what is missing and was not asked for yet. A refusal is told, and shows when nothing can be
        written."""
        wanted = sorted(topics - self._created)
        if not wanted:
            return
        settings = {"cleanup.policy": "compact"} if self._config.state else {}
        new = [NewTopic(topic, self._config.partitions, -1, config=settings) for topic in wanted]
        limit = max(1.0, self._config.timeout / 2)
        admin = self._admin()  # kept while it is asked: without it the answers are lost
        for topic, future in admin.create_topics(new, request_timeout=limit).items():
            try:
                async with asyncio.timeout(limit + 1):
                    await asyncio.wrap_future(future)
            except (KafkaException, TimeoutError) as error:
                fault = cause(error)
                if fault is None or fault.code() != TOPIC_EXISTS:
                    log.warning(
                        "cannot create the topic", channel=self._name, topic=topic, error=self._words(said(error))
                    )
                    continue
            self._created.add(topic)

    def _verify(self, topics: Sequence[str]) -> list[str]:
        admin, limit = self._admin(), self._config.timeout
        try:
            present = admin.list_topics(timeout=limit).topics
        except KafkaException as error:
            return [f"{self._config.display} does not answer: {self._words(said(error))}"]
        missing = [] if self._config.create else [topic for topic in topics if topic not in present]
        problems = [f"there is no topic {topic}; create it, or set `create: true`" for topic in missing]
        if self._config.state:
            problems += [
                f"the topic {topic} is not compacted (cleanup.policy={policy}), as `state` wants it"
                for topic in topics
                if topic in present and "compact" not in (policy := self._policy(admin, topic))
            ]
        return problems

    def _policy(self, admin: AdminClient, topic: str) -> str:
        [future] = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
        try:
            return str(future.result(timeout=self._config.timeout)["cleanup.policy"].value)
        except (KafkaException, TimeoutError):
            return "compact"  # who may write need not be allowed to look: no verdict is no problem
